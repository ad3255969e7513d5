import asyncio
import json
import pathlib
import threading

import pytest

from saxml.admin.checkpoint_size import CheckpointSizes, Size, read_size
from tests.unit.admin.fakes import FakeClock


def _leaf(shape: list[int], dtype: str, masked: bool = False) -> dict[str, object]:
    return {
        "_array_metadata_tag": True,
        "is_optax_masked_node": masked,
        "unpadded_shape": shape,
        "dtype": dtype,
    }


def _write(folder: pathlib.Path, data: bytes) -> str:
    (folder / "metadata").mkdir()
    (folder / "metadata/metadata").write_bytes(data)
    return str(folder)


def test_arrays_are_summed_up_as_they_are_stored(tmp_path: pathlib.Path) -> None:
    params = {
        "lm": {
            "w": _leaf([3, 4], "bfloat16"),
            "q": _leaf([10], "int8"),
            "x": [_leaf([2], "float32"), _leaf([], "float32"), _leaf([9], "float32", masked=True)],
        }
    }
    tree = {"mdl_vars": {"params": params}, "opt_states": [_leaf([1000], "float32")]}
    text = json.dumps({"version": 1.1, "train_state_metadata": tree})
    assert read_size(_write(tmp_path, text.encode())) == Size(24 + 10 + 8 + 4)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"train_state_metadata": 1}',
        b'{"train_state_metadata": {"mdl_vars": {"w": {"_array_metadata_tag": true}}}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_metadata_is_told(tmp_path: pathlib.Path, data: bytes) -> None:
    size = read_size(_write(tmp_path, data))
    assert size.bytes is None
    assert f"{tmp_path}/metadata/metadata is not the metadata of a Pax checkpoint" in size.why


def test_no_arrays_are_no_size(tmp_path: pathlib.Path) -> None:
    size = read_size(_write(tmp_path, b'{"train_state_metadata": {"mdl_vars": {}}}'))
    assert size == Size(None, f"{tmp_path}/metadata/metadata lists no arrays")


def test_a_missing_file_and_a_relative_path_are_told(tmp_path: pathlib.Path) -> None:
    assert read_size(str(tmp_path)) == Size(None, f"{tmp_path}/metadata/metadata is missing")
    assert "relative" in read_size("some/path").why


def test_a_size_is_read_once_and_announced() -> None:
    asked: list[str] = []

    def read(checkpoint: str) -> Size:
        asked.append(checkpoint)
        return Size(7)

    async def story() -> None:
        changed = asyncio.Event()
        sizes = CheckpointSizes(FakeClock(), changed.set, read=read)
        assert sizes.get("/a") is None
        await changed.wait()
        assert sizes.get("/a") == sizes.get("/a") == Size(7)
        assert sizes.get("None") == Size(None, "checkpoint None")
        assert asked == ["/a"]
        sizes.close()

    asyncio.run(story())


def test_patience_ends_but_the_size_still_counts_when_it_comes() -> None:
    go = threading.Event()

    def read(checkpoint: str) -> Size:
        go.wait(10)
        return Size(7)

    async def story() -> None:
        clock, changed = FakeClock(), asyncio.Event()
        sizes = CheckpointSizes(clock, changed.set, patience_s=5.0, read=read)
        assert sizes.get("/a") is None
        assert sizes.next_due(clock.now) == clock.now + 5
        clock.now += 5
        assert sizes.get("/a") == Size(None, "/a/metadata/metadata is still being read")
        go.set()
        await changed.wait()
        assert sizes.get("/a") == Size(7)
        sizes.close()

    asyncio.run(story())


def test_what_could_not_be_read_is_read_again_later() -> None:
    answers = [Size(None, "no bucket"), Size(7)]

    async def story() -> None:
        clock, changed = FakeClock(), asyncio.Event()
        sizes = CheckpointSizes(clock, changed.set, read=lambda c: answers.pop(0))
        sizes.get("/a")
        await changed.wait()
        changed.clear()
        clock.now += 59
        assert sizes.get("/a") == Size(None, "no bucket")
        assert len(answers) == 1
        clock.now += 2
        assert sizes.get("/a") == Size(None, "no bucket"), "the old answer stands meanwhile"
        await changed.wait()
        assert sizes.get("/a") == Size(7)
        sizes.close()

    asyncio.run(story())


def test_a_reader_that_breaks_is_told() -> None:
    def read(checkpoint: str) -> Size:
        raise OSError("disk on fire")

    async def story() -> None:
        changed = asyncio.Event()
        sizes = CheckpointSizes(FakeClock(), changed.set, read=read)
        sizes.get("/a")
        await changed.wait()
        assert sizes.get("/a") == Size(None, "cannot read /a/metadata/metadata: disk on fire")
        sizes.close()

    asyncio.run(story())
