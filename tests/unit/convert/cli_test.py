"""The converters as programs: flags, one-line errors, and how much memory they take."""

import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from saxml.checkpoint import pax
from saxml.models.params import Param
from tests.unit.convert import peak
from tests.unit.convert.synthetic import GOLDEN, load_tensors, sparse_safetensors

Path = pathlib.Path


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.convert.gptj", *arguments],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "BUILD_WORKING_DIRECTORY": str(cwd),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "flags",
    [
        ("--base", "model", "--pax", "out"),
        ("--base-model-path=model", "--pax-model-path=out"),
        ("--base_model_path", "model", "--pax_model_path", "out"),
    ],
)
def test_both_spellings_relative_to_where_the_user_is(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    (tmp_path / "model").symlink_to((GOLDEN / "tiny_gptj").resolve())
    done = run(*flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {tmp_path}/out/checkpoint_00000000\n"
    assert "100%" in done.stderr
    assert (tmp_path / "out" / "checkpoint_00000000" / "commit_success.txt").exists()


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_weights_are_compressed_as_asked(tmp_path: Path, compression: str) -> None:
    (tmp_path / "model").symlink_to((GOLDEN / "tiny_gptj").resolve())
    done = run("--base=model", "--pax=out", f"--compression={compression}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "out" / "checkpoint_00000000"
    array = path / "state" / "mdl_vars.params.lm.embedding_lookup.emb_var"
    compressor = json.loads((array / ".zarray").read_text())["compressor"]
    assert compressor == (None if compression == "none" else {"id": "gzip", "level": 1})
    (shape, dtype) = pax.open_checkpoint(str(path)).arrays["lm.embedding_lookup.emb_var"]
    size = math.prod(shape) * np.dtype(dtype).itemsize
    assert ((array / "0.0").stat().st_size == size) == (compression == "none")
    declared = {"embedding": Param("lm.embedding_lookup.emb_var", shape, (None, None))}
    found = pax.restore(str(path), declared)["embedding"]
    np.testing.assert_array_equal(found, load_tensors("tiny_gptj")["transformer.wte.weight"])


def test_errors_are_one_line(tmp_path: Path) -> None:
    done = run("--base=none", "--pax=out", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "NotFoundError: no folder none; --base takes a local folder" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_flags(tmp_path: Path) -> None:
    done = run("--help", cwd=tmp_path)
    for flag in ("--base", "--pax", "--[no]overwrite", "--compression"):
        assert flag in done.stdout


def test_memory_stays_below_two_tensors(tmp_path: Path) -> None:
    D, F, V, L = 1024, 16384, 16384, 3
    config = {
        "model_type": "gptj",
        "vocab_size": V,
        "n_positions": 64,
        "n_embd": D,
        "n_layer": L,
        "n_head": 4,
        "rotary_dim": 4,
        "n_inner": F,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (V, D),
        "lm_head.weight": (V, D),
        "lm_head.bias": (V,),
        "transformer.ln_f.weight": (D,),
        "transformer.ln_f.bias": (D,),
    }
    for layer in range(L):
        h = f"transformer.h.{layer}."
        shapes |= {h + f"attn.{n}_proj.weight": (D, D) for n in ("q", "k", "v", "out")}
        shapes |= {h + "ln_1.weight": (D,), h + "ln_1.bias": (D,)}
        shapes |= {h + "mlp.fc_in.weight": (F, D), h + "mlp.fc_in.bias": (F,)}
        shapes |= {h + "mlp.fc_out.weight": (D, F), h + "mlp.fc_out.bias": (D,)}
    total = sparse_safetensors(tmp_path / "model.safetensors", shapes)
    largest = 4 * V * D
    assert total > 8 * largest
    grown = peak.growth("tools.convert.gptj", "convert_gptj", str(tmp_path), str(tmp_path / "out"))
    assert largest / 2 < grown < 2 * largest
