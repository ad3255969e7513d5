"""Writing: bounded chunks, nothing valid before the commit, nothing foreign removed."""

import math
import pathlib

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given
from hypothesis import strategies as st

from saxml.checkpoint import layout, pax
from saxml.checkpoint.writer import CheckpointWriter
from saxml.common import errors
from saxml.models.params import Param


@given(st.lists(st.integers(1, 60), max_size=4), st.sampled_from([2, 4]), st.integers(4, 4000))
def test_chunks_are_bounded_and_cut_along_the_first_axes(
    shape: list[int], itemsize: int, limit: int
) -> None:
    chunk = layout.chunk_shape(shape, itemsize, limit)
    assert len(chunk) == len(shape)
    assert all(1 <= c <= n for c, n in zip(chunk, shape, strict=True))
    assert itemsize * math.prod(chunk) <= limit
    cut = [c < n for c, n in zip(chunk, shape, strict=True)]
    for axis, is_cut in enumerate(cut):
        if is_cut:
            assert chunk[:axis] == (1,) * axis


def test_gptj_sized_matrix_has_chunks_of_whole_rows() -> None:
    assert layout.chunk_shape((4096, 16384), 4) == (256, 16384)
    assert layout.chunk_shape((3, 4096, 16, 256), 4) == (1, 1024, 16, 256)


def test_strided_views_and_stacked_parts_are_written_chunk_by_chunk(tmp_path: pathlib.Path) -> None:
    values = np.arange(3 * 20 * 30, dtype=np.float32).reshape(3, 20, 30)
    with CheckpointWriter(str(tmp_path), chunk_bytes=400) as writer:
        stacked = writer.array("a", (3, 30, 20), "float32")
        for index in range(3):
            stacked.put(values[index].T, index)
        writer.array("scalar", (), "float32").put(np.array(2.5, np.float32))
        writer.commit()
    path = f"{writer.folder.path}/state/mdl_vars.params.a"
    assert len(list(pathlib.Path(path).iterdir())) == 1 + 3 * 6
    store = ts.open({"driver": "zarr", "kvstore": f"file://{path}/"}).result()
    np.testing.assert_array_equal(store.read().result(), values.transpose(0, 2, 1))


def test_without_commit_nothing_stays(tmp_path: pathlib.Path) -> None:
    parent = tmp_path / "lm"
    foreign = parent / "checkpoint_00000000" / "notes.txt"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    with CheckpointWriter(str(parent), overwrite=True) as writer:
        writer.array("a", (4,), "float32").put(np.zeros(4, np.float32))
        writer.file("sax_model.json", b"{}")
    assert [p for p in parent.rglob("*") if p.is_file()] == [foreign]


def test_a_checkpoint_is_replaced_only_when_asked(tmp_path: pathlib.Path) -> None:
    old = {"a": Param("a_{layer}", (4,), (None,), 3)}
    new = {"a": Param("a_{layer}", (4,), (None,), 2)}
    for params, overwrite in ((old, False), (new, True)):
        with CheckpointWriter(str(tmp_path), overwrite=overwrite) as writer:
            for layer in range(params["a"].layers):
                writer.array(f"a_{layer}", (4,), "float32").put(np.full(4, layer, np.float32))
            writer.commit()
    assert pax.restore(str(tmp_path), new)["a"].shape == (2, 4)
    with pytest.raises(errors.AlreadyExistsError, match=r"already holds a checkpoint.*--overwrite"):
        CheckpointWriter(str(tmp_path))
    (tmp_path / "checkpoint_00000000" / "commit_success.txt").unlink()
    with pytest.raises(errors.AlreadyExistsError, match="no finished checkpoint"):
        CheckpointWriter(str(tmp_path))


def test_overwriting_unmarks_the_old_checkpoint_first(tmp_path: pathlib.Path) -> None:
    with CheckpointWriter(str(tmp_path)) as writer:
        writer.commit()
    with CheckpointWriter(str(tmp_path), overwrite=True), pytest.raises(errors.SaxError):
        pax.open_checkpoint(str(tmp_path))


def test_wrong_shapes_types_and_doubles_are_refused(tmp_path: pathlib.Path) -> None:
    with CheckpointWriter(str(tmp_path)) as writer:
        array = writer.array("a", (2, 3), "float32")
        with pytest.raises(
            errors.InvalidArgumentError, match=r"found shape \[3\], wanted \[2, 3\]"
        ):
            array.put(np.zeros(3, np.float32))
        with pytest.raises(errors.InvalidArgumentError, match="array b is int64"):
            writer.array("b", (2,), "int64")
        with pytest.raises(errors.AlreadyExistsError, match="a is written twice"):
            writer.array("a", (2, 3), "float32")


def test_unwritable_folder(tmp_path: pathlib.Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(errors.SaxError, match=str(blocker)):
        CheckpointWriter(str(blocker)).array("a", (2,), "float32")
