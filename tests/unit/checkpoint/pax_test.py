"""The Pax layout on a local folder: what is written is restored, and what is broken is named."""

import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts

from saxml.checkpoint import layout, pax
from saxml.checkpoint.writer import CheckpointWriter
from saxml.common import errors
from saxml.models.params import Param

PARAMS = {
    "embedding": Param("lm.embedding_lookup.emb_var", (7, 4), ("vocab", "embed")),
    "head.b": Param("lm.softmax.logits_ffn.bias.b", (7,), ("vocab",)),
    "w": Param("lm.transformer.x_layers_{layer}.ff.w", (4, 6), ("embed", "mlp"), 3),
}


def values(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    return {
        name: random.standard_normal(param.stacked_shape).astype(np.float32)
        for name, param in PARAMS.items()
    }


def write(parent: pathlib.Path, arrays: dict[str, np.ndarray[Any, Any]], **options: Any) -> str:
    with CheckpointWriter(str(parent), **options) as writer:
        for name, param in PARAMS.items():
            whole = arrays[name]
            for layer in range(max(param.layers, 1)):
                one = whole[layer] if param.layers else whole
                pax_name = param.pax_name.format(layer=layer)
                writer.array(pax_name, one.shape, one.dtype.name).put(one)
        writer.commit()
        return writer.folder.path


@pytest.fixture
def arrays() -> dict[str, np.ndarray[Any, Any]]:
    return values()


@pytest.fixture
def checkpoint(tmp_path: pathlib.Path, arrays: dict[str, np.ndarray[Any, Any]]) -> pathlib.Path:
    return pathlib.Path(write(tmp_path / "lm", arrays))


def test_restores_what_was_written(
    checkpoint: pathlib.Path, arrays: dict[str, np.ndarray[Any, Any]]
) -> None:
    for path in (checkpoint, checkpoint.parent):
        restored = pax.restore(str(path), PARAMS)
        assert set(restored) == set(PARAMS)
        for name, array in restored.items():
            assert isinstance(array, jax.Array)
            np.testing.assert_array_equal(array, arrays[name])


def test_layout_is_that_of_pax(checkpoint: pathlib.Path) -> None:
    assert checkpoint.name == "checkpoint_00000000"
    array = checkpoint / "state" / "mdl_vars.params.lm.transformer.x_layers_2.ff.w"
    zarray = json.loads((array / ".zarray").read_text())
    assert zarray["zarr_format"] == 2
    assert zarray["dtype"] == "<f4"
    assert zarray["compressor"]["id"] == "gzip"
    metadata = json.loads((checkpoint / "metadata" / "metadata").read_text())
    assert metadata["version"] == 1.1
    params = metadata["train_state_metadata"]["mdl_vars"]["params"]
    assert params["lm"]["transformer"]["x_layers_2"]["ff"]["w"] == {
        "_array_metadata_tag": True,
        "is_optax_masked_node": False,
        "unpadded_shape": [4, 6],
        "dtype": "float32",
    }
    for folder in ("", "metadata", "state"):
        assert (checkpoint / folder / "commit_success.txt").read_bytes() == b""
    step = ts.open({"driver": "zarr", "kvstore": f"file://{checkpoint}/state/step/"}).result()
    assert step.read().result() == 0


def test_metadata_with_lists_of_layers_is_read() -> None:
    leaf = {"_array_metadata_tag": True, "unpadded_shape": [2], "dtype": "float32"}
    tree = {"mdl_vars": {"params": {"lm": {"x_layers": [{"b": leaf}, {"b": leaf}]}}}}
    data = json.dumps({"version": 1.1, "train_state_metadata": tree}).encode()
    assert layout.parse_metadata(data, "m") == {
        "lm.x_layers_0.b": ((2,), "float32"),
        "lm.x_layers_1.b": ((2,), "float32"),
    }


def test_float32_is_restored_as_bfloat16_when_asked(
    checkpoint: pathlib.Path, arrays: dict[str, np.ndarray[Any, Any]]
) -> None:
    restored = pax.restore(str(checkpoint), PARAMS, dtype=jnp.bfloat16)
    for name, array in restored.items():
        assert array.dtype == jnp.bfloat16
        np.testing.assert_array_equal(array, arrays[name].astype(ml_dtypes.bfloat16))


def test_bfloat16_on_disk_keeps_its_type_or_widens(tmp_path: pathlib.Path) -> None:
    arrays = {name: a.astype(ml_dtypes.bfloat16) for name, a in values().items()}
    path = write(tmp_path, arrays)
    assert pax.restore(path, PARAMS)["w"].dtype == jnp.bfloat16
    wide = pax.restore(path, PARAMS, dtype=np.float32)["w"]
    np.testing.assert_array_equal(wide, arrays["w"].astype(np.float32))


def test_layers_of_different_types_are_restored_as_one(tmp_path: pathlib.Path) -> None:
    params = {"w": Param("w_{layer}", (4,), (None,), 2)}
    with CheckpointWriter(str(tmp_path)) as writer:
        writer.array("w_0", (4,), "float32").put(np.full(4, 1.5, np.float32))
        writer.array("w_1", (4,), "bfloat16").put(np.full(4, 2.5, ml_dtypes.bfloat16))
        writer.commit()
    got = pax.restore(str(tmp_path), params)["w"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [[1.5] * 4, [2.5] * 4])


@pytest.mark.parametrize("rows", [5, 9])
def test_vocabulary_is_padded_with_zeros_or_cut(checkpoint: pathlib.Path, rows: int) -> None:
    params = dict(PARAMS)
    params["embedding"] = Param("lm.embedding_lookup.emb_var", (rows, 4), ("vocab", "embed"))
    whole = pax.restore(str(checkpoint), PARAMS)["embedding"]
    got = np.asarray(pax.restore(str(checkpoint), params)["embedding"])
    assert got.shape == (rows, 4)
    np.testing.assert_array_equal(got[:7], whole[:rows])
    np.testing.assert_array_equal(got[7:], 0)


def test_progress_ends_at_the_total(checkpoint: pathlib.Path) -> None:
    seen: list[tuple[int, int]] = []
    pax.restore(str(checkpoint), PARAMS, progress=lambda done, total: seen.append((done, total)))
    assert [total for _, total in seen] == [4 * (28 + 7 + 72)] * 3
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == seen[-1][1]


def test_newest_whole_step_is_taken(tmp_path: pathlib.Path) -> None:
    for step in (0, 20, 100):
        write(tmp_path, values(step), step=step)
    (tmp_path / "checkpoint_00000100" / "commit_success.txt").unlink()
    assert pax.open_checkpoint(str(tmp_path)).step == 20
    restored = pax.restore(str(tmp_path), PARAMS)
    np.testing.assert_array_equal(restored["w"], values(20)["w"])


def test_no_such_path(tmp_path: pathlib.Path) -> None:
    for path in (tmp_path, tmp_path / "none", tmp_path / "none" / "checkpoint_00000000"):
        with pytest.raises(errors.NotFoundError, match=f"no checkpoint at {path}"):
            pax.restore(str(path), PARAMS)


@pytest.mark.parametrize("marker", layout.COMMIT_FILES)
def test_missing_commit_marker(checkpoint: pathlib.Path, marker: str) -> None:
    (checkpoint / marker).unlink()
    with pytest.raises(errors.FailedPreconditionError, match=rf"{checkpoint} lacks {marker}: "):
        pax.restore(str(checkpoint.parent), PARAMS)


def test_missing_or_damaged_metadata(checkpoint: pathlib.Path) -> None:
    metadata = checkpoint / "metadata" / "metadata"
    metadata.write_text("{")
    with pytest.raises(errors.FailedPreconditionError, match="metadata/metadata is not"):
        pax.restore(str(checkpoint), PARAMS)
    metadata.write_text('{"version": 0.0, "train_state_metadata": {}}')
    with pytest.raises(errors.FailedPreconditionError, match=r"format 0.0 is not 1.1"):
        pax.restore(str(checkpoint), PARAMS)
    metadata.unlink()
    with pytest.raises(errors.FailedPreconditionError, match="lacks metadata/metadata"):
        pax.restore(str(checkpoint), PARAMS)


def test_missing_array(checkpoint: pathlib.Path) -> None:
    name = "mdl_vars.params.lm.transformer.x_layers_1.ff.w"
    shutil.rmtree(checkpoint / "state" / name)
    with pytest.raises(errors.NotFoundError, match=f"has no array {name}; "):
        pax.restore(str(checkpoint), PARAMS)


def test_wrong_shape(checkpoint: pathlib.Path) -> None:
    params = {"w": Param(PARAMS["w"].pax_name, (4, 8), ("embed", "mlp"), 3)}
    found = r"mdl_vars.params.lm.transformer.x_layers_0.ff.w has shape \[4, 6\], wanted \[4, 8\]"
    with pytest.raises(errors.FailedPreconditionError, match=found):
        pax.restore(str(checkpoint), params)


def test_wrong_dtype(checkpoint: pathlib.Path) -> None:
    path = checkpoint / "state" / "mdl_vars.params.lm.softmax.logits_ffn.bias.b"
    spec = layout.zarr_spec({"driver": "file", "path": f"{path}/"}, (7,), "int16")
    ts.open(spec, create=True, delete_existing=True).result()
    with pytest.raises(errors.FailedPreconditionError, match=r"bias.b has dtype int16, wanted one"):
        pax.restore(str(checkpoint), PARAMS)


def test_model_with_fewer_layers_than_the_checkpoint(checkpoint: pathlib.Path) -> None:
    params = {"w": Param(PARAMS["w"].pax_name, (4, 6), ("embed", "mlp"), 2)}
    with pytest.raises(errors.FailedPreconditionError, match=r"x_layers_2.*has 2 layers"):
        pax.restore(str(checkpoint), params)


def test_damaged_chunk_names_its_array(checkpoint: pathlib.Path) -> None:
    chunk = checkpoint / "state" / "mdl_vars.params.lm.embedding_lookup.emb_var" / "0.0"
    chunk.write_bytes(b"not gzip")
    with pytest.raises(errors.FailedPreconditionError, match="emb_var"):
        pax.restore(str(checkpoint), PARAMS)
