"""Checkpoints made int8: SAX's names, axes and types; what is wrong is refused before anything is
written."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorstore as ts

from saxml.checkpoint import layout, quantised
from saxml.checkpoint.pax import open_checkpoint
from saxml.checkpoint.record import read_record
from saxml.checkpoint.writer import CheckpointWriter
from saxml.common import errors
from saxml.models import registry
from tests.unit.convert import peak
from tests.unit.convert.synthetic import GOLDEN
from tools.convert.gptj import convert_gptj
from tools.convert.llama import convert_llama
from tools.convert.quantize import contracted_axes, quantize

Path = pathlib.Path
LAYER = "lm.transformer.x_layers_0."
FFN = LAYER + "ff_layer.ffn_layer1.linear.w"


def read(checkpoint: str, name: str) -> np.ndarray[Any, Any]:
    path = f"{checkpoint}/{layout.array_path(name)}/"
    found: np.ndarray[Any, Any] = (
        ts.open({"driver": "zarr", "kvstore": f"file://{path}"}).result().read().result()
    )
    return found


@pytest.fixture
def gptj(tmp_path: Path) -> str:
    return convert_gptj(str(GOLDEN / "tiny_gptj"), str(tmp_path / "gptj"))


def test_matrices_are_int8_with_the_scales_of_sax(gptj: str, tmp_path: Path) -> None:
    path = quantize(gptj, str(tmp_path / "small"))
    config = read_record(path)[1].config
    D, H, E, F = config.model_dim, config.num_heads, config.head_dim, config.hidden_dim
    arrays = open_checkpoint(path).arrays
    scales = {
        "lm.softmax.logits_ffn.linear.w": (config.vocab_size,),
        FFN: (F,),
        LAYER + "ff_layer.ffn_layer2.linear.w": (D,),
        LAYER + "self_attention.combined_qkv.w": (3, H, E),
        LAYER + "self_attention.post.w": (D,),
    }
    for name, shape in scales.items():
        assert arrays[name][1] == "int8"
        assert arrays[name + "_quantized_scale"] == (shape, "float32")
        values, scale = read(path, name), read(path, name + "_quantized_scale")
        assert (values.dtype, scale.shape) == (np.int8, shape)
        back = quantised.dequantise(values, scale, contracted_axes(name))
        original = read(gptj, name)
        step = np.expand_dims(scale, contracted_axes(name))
        assert (np.abs(back - original) <= 0.5001 * step).all()
    before = open_checkpoint(gptj).arrays
    others = {n for n in before if not contracted_axes(n)}
    assert "lm.embedding_lookup.emb_var" in others
    assert others | {n for n in arrays if contracted_axes(n.removesuffix("_quantized_scale"))} == (
        set(arrays)
    )
    for name in others:
        assert arrays[name] == before[name]
        np.testing.assert_array_equal(read(path, name), read(gptj, name))


def test_record_tokenizer_and_step_go_along(tmp_path: Path) -> None:
    source = convert_llama(str(GOLDEN / "tiny_llama"), str(tmp_path / "lm"))
    moved = tmp_path / "lm" / "checkpoint_00000120"
    Path(source).rename(moved)
    path = quantize(f"{moved}/state/", str(tmp_path / "small"))
    assert path == f"{tmp_path}/small/checkpoint_00000120"
    assert read_record(path)[1] == read_record(str(moved))[1]
    for file in moved.rglob("tokenizer/*"):
        assert (Path(path) / "tokenizer" / file.name).read_bytes() == file.read_bytes()


def test_every_matrix_that_a_model_declares_is_found(tmp_path: Path) -> None:
    for convert, name in ((convert_gptj, "tiny_gptj"), (convert_llama, "tiny_llama")):
        path = convert(str(GOLDEN / name), str(tmp_path / name))
        for param in registry.parameters(read_record(path)[1].config).values():
            assert contracted_axes(param.pax_name.format(layer=17)) == param.contracted


def one_array(folder: Path, values: np.ndarray[Any, Any], name: str = FFN) -> str:
    with CheckpointWriter(str(folder)) as writer:
        writer.array(name, values.shape, values.dtype.name).put(values)
        writer.commit()
        return writer.folder.path


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused_and_nothing_stays(tmp_path: Path, value: float) -> None:
    values = np.ones((4, 6), np.float32)
    values[2, 3] = value
    source = one_array(tmp_path / "lm", values)
    with pytest.raises(errors.FailedPreconditionError, match=rf"{FFN} in .* no finite numbers"):
        quantize(source, str(tmp_path / "small"))
    assert not (tmp_path / "small").exists()


def test_what_cannot_be_quantised_is_refused_by_name(gptj: str, tmp_path: Path) -> None:
    small = quantize(gptj, str(tmp_path / "small"))
    with pytest.raises(errors.FailedPreconditionError, match="is int8; float32, bfloat16"):
        quantize(small, str(tmp_path / "smaller"))
    with pytest.raises(errors.UnimplementedError, match=r"--number_bits=4: .* 8 bits only"):
        quantize(gptj, str(tmp_path / "smaller"), number_bits=4)
    with pytest.raises(errors.InvalidArgumentError, match="is to be read; write elsewhere"):
        quantize(gptj, str(Path(gptj).parent), overwrite=True)
    with pytest.raises(errors.AlreadyExistsError, match="--overwrite"):
        quantize(gptj, str(tmp_path / "small"))
    other = one_array(tmp_path / "other", np.ones((2, 3), np.float32), "lm.something.w")
    with pytest.raises(errors.FailedPreconditionError, match="has no matrix of gptj or llama"):
        quantize(other, str(tmp_path / "smaller"))
    flat = one_array(tmp_path / "flat", np.ones(3, np.float32), LAYER + "self_attention.post.w")
    with pytest.raises(errors.FailedPreconditionError, match=r"shape \[3\], which is no matrix"):
        quantize(flat, str(tmp_path / "smaller"))
    assert not (tmp_path / "smaller").exists()


def test_memory_stays_below_two_arrays(tmp_path: Path) -> None:
    values = np.broadcast_to(np.linspace(-1, 1, 16384, dtype=np.float32), (4096, 16384))
    with CheckpointWriter(str(tmp_path / "lm")) as writer:
        for layer in range(3):
            name = FFN.replace("layers_0", f"layers_{layer}")
            writer.array(name, values.shape, "float32").put(values)
        writer.commit()
    grown = peak.growth(
        "tools.convert.quantize", "quantize", str(tmp_path / "lm"), str(tmp_path / "small")
    )
    assert values.nbytes < grown < 2 * values.nbytes


def test_as_a_program(gptj: str, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tools.convert.quantize", *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    done = run(f"--input_dir={gptj}/state", "--output-dir", f"{tmp_path}/small")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {tmp_path}/small/checkpoint_00000000\n"
    assert "100%" in done.stderr
    metadata = json.loads((tmp_path / "small/checkpoint_00000000/metadata/metadata").read_text())
    params = metadata["train_state_metadata"]["mdl_vars"]["params"]
    linear = params["lm"]["transformer"]["x_layers_0"]["ff_layer"]["ffn_layer1"]["linear"]
    assert linear["w"]["dtype"] == "int8"
    assert linear["w_quantized_scale"]["dtype"] == "float32"
    done = run(f"--base={gptj}", f"--pax={tmp_path}/four", "--number_bits=4")
    assert done.returncode == 1
    assert done.stderr.endswith(
        "UnimplementedError: --number_bits=4: matrices are made into 8 bits only\n"
    )
