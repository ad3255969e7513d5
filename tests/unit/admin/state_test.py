import pytest

from saxml.admin.state import StateFile
from saxml.common.errors import FailedPreconditionError
from saxml.common.names import CellId
from saxml.proto import admin_pb2
from saxml.storage.base import ConflictError, open_store

CELL = CellId("test")
LM = admin_pb2.Model(
    model_id="/sax/test/lm",
    model_path="saxml.server.pax.lm.params.lm_cloud.LmCloudSpmd2B",
    checkpoint_path="None",
    requested_num_replicas=1,
    uuid=bytes(range(16)),
)


def test_a_new_cell_has_nothing_published() -> None:
    assert StateFile("mem://state-new", CELL).load() == []
    assert open_store("mem://state-new").exists_dir("sax/test")


def test_the_file_has_the_bytes_that_other_programs_read() -> None:
    file = StateFile("mem://state-bytes", CELL)
    file.load()
    file.save([LM])
    stored = open_store("mem://state-bytes").read("sax/test/state.proto")
    assert stored is not None
    path = LM.model_path.encode()
    model = b"\x0a\x0c/sax/test/lm\x12" + bytes([len(path)]) + path + b"\x1a\x04None\x20\x01"
    model += b"\x42\x10" + bytes(range(16))
    assert stored.data == b"\x0a" + bytes([len(model)]) + model
    assert StateFile("mem://state-bytes", CELL).load() == [LM]


def test_a_file_of_another_writer_is_not_overwritten() -> None:
    one, two = StateFile("mem://state-two", CELL), StateFile("mem://state-two", CELL)
    one.load()
    two.load()
    one.save([LM])
    with pytest.raises(ConflictError):
        two.save([])
    assert two.load() == [LM]
    two.save([])
    with pytest.raises(ConflictError):
        one.save([LM])


def test_a_file_that_cannot_be_understood_is_left_alone() -> None:
    store = open_store("mem://state-bad")
    store.write("sax/test/state.proto", b"\xff")
    with pytest.raises(
        FailedPreconditionError, match=r"\(1 bytes\) is not a state .* left as it is"
    ):
        StateFile("mem://state-bad", CELL).load()
    stray = admin_pb2.Model(model_id="/sax/other/lm")
    store.write("sax/test/state.proto", admin_pb2.State(models=[stray]).SerializeToString())
    with pytest.raises(FailedPreconditionError, match="holds a model that cannot be in this cell"):
        StateFile("mem://state-bad", CELL).load()
