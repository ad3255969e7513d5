import pytest

from saxml.admin.state import LaterTermError, StateFile
from saxml.common.errors import FailedPreconditionError, UnavailableError
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


class Tenure:
    """A term as the state file sees it."""

    def __init__(self, term: int, server_id: str = "me") -> None:
        self.term, self.server_id = term, server_id
        self.is_over = False
        self.outgrown = 0

    def check(self) -> None:
        if self.is_over:
            raise UnavailableError("over")

    def outgrow(self, term: int) -> None:
        self.outgrown = term


def test_the_term_lies_behind_what_other_programs_read() -> None:
    plain, termed = StateFile("mem://s-plain", CELL), StateFile("mem://s-term", CELL, Tenure(3))
    for file in (plain, termed):
        file.load()
        file.save([LM])
    stored = [open_store(f"mem://s-{n}").read("sax/test/state.proto") for n in ("plain", "term")]
    assert stored[0] is not None
    assert stored[1] is not None
    assert stored[1].data.startswith(stored[0].data)
    assert list(admin_pb2.State.FromString(stored[1].data).models) == [LM]
    assert StateFile("mem://s-term", CELL).load() == [LM]


def test_an_earlier_term_does_not_follow_a_later_one() -> None:
    earlier, later = Tenure(3), Tenure(4)
    one = StateFile("mem://s-late", CELL, earlier)
    one.load()
    one.save([])
    two = StateFile("mem://s-late", CELL, later)
    assert two.load() == []
    two.save([LM])
    with pytest.raises(ConflictError):
        one.save([])
    with pytest.raises(LaterTermError, match="was written for term 4, which comes after term 3"):
        one.load()
    assert earlier.outgrown == 4
    # It is refused for ever, whatever it has read.
    with pytest.raises(ConflictError):
        one.save([])
    assert two.load() == [LM]


def test_a_term_belongs_to_one_process() -> None:
    one, two = Tenure(3, "one"), Tenure(3, "two")
    file = StateFile("mem://s-same", CELL, one)
    file.load()
    file.save([LM])
    assert file.load() == [LM]
    with pytest.raises(LaterTermError):
        StateFile("mem://s-same", CELL, two).load()
    assert two.outgrown == 3


def test_nothing_is_written_for_a_term_that_is_over() -> None:
    tenure = Tenure(3)
    file = StateFile("mem://s-over", CELL, tenure)
    file.load()
    tenure.is_over = True
    with pytest.raises(UnavailableError, match="over"):
        file.save([LM])
    assert open_store("mem://s-over").read("sax/test/state.proto") is None
