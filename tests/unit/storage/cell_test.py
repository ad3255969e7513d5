import pytest

from saxml.common.errors import AlreadyExistsError, FailedPreconditionError, UnavailableError
from saxml.common.names import CellId
from saxml.proto import admin_pb2
from saxml.storage.base import open_store
from saxml.storage.cell import NO_ADMIN_YET, CellStore, sax_root, store_cell

CELL = CellId("test")


def test_files_lie_where_other_programs_look(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("root")
    files = CellStore(str(root), CELL)
    assert not files.exists()
    files.create()
    files.write_config(admin_pb2.Config(fs_root="/fs"))
    files.write_location("192.0.2.2:21100")
    assert (root / "sax/test/config.proto").read_bytes() == b"\x0a\x03/fs"
    assert (root / "sax/test/location.proto").read_bytes() == b"\x0a\x0f192.0.2.2:21100"
    assert files.read_config() == admin_pb2.Config(fs_root="/fs")
    assert files.admin_address() == files.read_location() == "192.0.2.2:21100"
    assert files.location_path == f"{root}/sax/test/location.proto"


def test_a_bucket_is_shown_in_the_internal_spelling() -> None:
    location = CellStore("gs://test_sax_admin/sax-root", CELL).location_path
    assert location == "/gcs/test_sax_admin/sax-root/sax/test/location.proto"


def test_a_cell_without_an_admin_server_is_told() -> None:
    files = CellStore("mem://no-admin", CELL)
    with pytest.raises(FailedPreconditionError, match="there is no cell /sax/test; create it"):
        files.admin_address()
    files.create()
    assert files.read_location() is None
    with pytest.raises(FailedPreconditionError, match="no admin server has been started"):
        files.admin_address()
    files.write_location(NO_ADMIN_YET)
    assert files.read_location() == NO_ADMIN_YET
    with pytest.raises(FailedPreconditionError, match="no admin server has been started"):
        files.admin_address()


def test_a_cell_is_made_once_unless_it_may_be_replaced() -> None:
    files = CellStore("mem://store-cell", CELL)
    first, second = admin_pb2.Config(fs_root="/a"), admin_pb2.Config(fs_root="/b")
    assert store_cell(files, first) is None
    assert files.read_location() == NO_ADMIN_YET
    with pytest.raises(AlreadyExistsError, match="the cell /sax/test exists already"):
        store_cell(files, second)
    files.write_location("192.0.2.2:21100")
    assert store_cell(files, second, replace=True) == first
    assert files.read_config() == second
    assert files.read_location() == "192.0.2.2:21100"
    files.store.write("sax/test/config.proto", b"\xff\xff")
    assert store_cell(files, first, replace=True) is None
    assert files.read_config() == first


def test_a_broken_file_is_told() -> None:
    files = CellStore("mem://broken", CELL)
    open_store("mem://broken").write("sax/test/config.proto", b"\xff\xff")
    with pytest.raises(FailedPreconditionError, match=r"config\.proto is not a sax\.Config"):
        files.read_config()


def test_the_root_comes_from_the_flag_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAX_ROOT", "/env")
    assert sax_root("/flag") == "/flag"
    assert sax_root(None) == sax_root("") == "/env"
    monkeypatch.delenv("SAX_ROOT")
    with pytest.raises(FailedPreconditionError, match="pass --sax_root or set SAX_ROOT"):
        sax_root(None)


def test_only_the_leader_announces_itself() -> None:
    files = CellStore("mem://announce", CellId("test"))
    leads = True

    def check() -> None:
        if not leads:
            raise UnavailableError("over")

    assert files.announce("192.0.2.1:1", check)
    assert not files.announce("192.0.2.1:1", check)
    leads = False
    with pytest.raises(UnavailableError):
        files.announce("192.0.2.2:1", check)
    assert files.read_location() == "192.0.2.1:1"


def test_an_announcement_that_is_late_is_refused() -> None:
    files = CellStore("mem://late", CellId("test"))
    calls = 0

    def check() -> None:
        """The first call: while it passes, another admin server takes over."""
        nonlocal calls
        calls += 1
        if calls == 1:
            files.write_location("192.0.2.9:1")
        else:
            raise UnavailableError("over")

    with pytest.raises(UnavailableError):
        files.announce("192.0.2.1:1", check)
    assert files.read_location() == "192.0.2.9:1"
