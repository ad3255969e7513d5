import threading
import time
from pathlib import Path

import pytest

from saxml.client.cells import (
    cell_config,
    check_not_led,
    create_cell,
    delete_cell,
    list_cells,
    set_cell_acl,
)
from saxml.common.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnimplementedError,
)
from saxml.common.names import parse_cell
from saxml.proto import admin_pb2
from saxml.storage.cell import CellStore
from saxml.storage.lease_record import Record

TEST = parse_cell("/sax/test")


def test_created_cell_has_config_and_says_that_no_admin_server_runs(tmp_path: Path) -> None:
    root = str(tmp_path)
    create_cell(root, TEST, "/fs/root")
    assert cell_config(root, TEST) == admin_pb2.Config(fs_root="/fs/root", admin_acl="acl/all")
    with pytest.raises(FailedPreconditionError, match="no admin server has been started"):
        CellStore(root, TEST).admin_address()
    assert list_cells(root) == ["test"]


def test_cell_is_not_created_twice(tmp_path: Path) -> None:
    create_cell(str(tmp_path), TEST, "/fs")
    with pytest.raises(AlreadyExistsError, match="/sax/test exists already"):
        create_cell(str(tmp_path), TEST, "/fs")


def test_only_directories_with_a_cell_name_are_listed(tmp_path: Path) -> None:
    create_cell(str(tmp_path), TEST, "/fs")
    create_cell(str(tmp_path), parse_cell("/sax/a-2"), "/fs")
    (tmp_path / "sax" / "file").write_text("")
    (tmp_path / "sax" / "Bad name").mkdir()
    assert list_cells(str(tmp_path)) == ["a-2", "test"]


def test_missing_root_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no folder called sax"):
        list_cells(str(tmp_path / "nope"))


def test_delete_removes_the_folder(tmp_path: Path) -> None:
    create_cell(str(tmp_path), TEST, "/fs")
    delete_cell(str(tmp_path), TEST)
    assert list_cells(str(tmp_path)) == []
    with pytest.raises(NotFoundError, match="no cell /sax/test"):
        delete_cell(str(tmp_path), TEST)


def test_delete_leaves_other_cells(tmp_path: Path) -> None:
    for root in (str(tmp_path), "mem://delete"):
        create_cell(root, TEST, "/fs")
        create_cell(root, parse_cell("/sax/test2"), "/fs")
        delete_cell(root, TEST)
        assert list_cells(root) == ["test2"]
        create_cell(root, TEST, "/fs")


def _lead(root: str, *, ttl_s: float = 0.5, released: bool = False, term: int = 3) -> None:
    files = CellStore(root, TEST)
    record = Record("10.0.0.1:10000", "one", term, ttl_s, released)
    files.store.write(files.lease_name, record.to_bytes())


@pytest.fixture(params=["folder", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    root = str(tmp_path) if request.param == "folder" else f"mem://{tmp_path.name}"
    create_cell(root, TEST, "/fs")
    return root


def test_a_cell_that_is_led_is_not_deleted(root: str) -> None:
    _lead(root, ttl_s=30.0)
    renewal = threading.Timer(0.3, _lead, [root])
    renewal.start()
    words = r"the admin server at 10\.0\.0\.1:10000 leads /sax/test \(term 3\); stop all .* -force"
    with pytest.raises(FailedPreconditionError, match=words):
        delete_cell(root, TEST)
    renewal.join()
    assert list_cells(root) == ["test"]
    delete_cell(root, TEST, force=True)
    assert list_cells(root) == []


def test_a_cell_whose_leader_is_dead_is_deleted(root: str) -> None:
    _lead(root)
    notes: list[str] = []
    start = time.monotonic()
    check_not_led(root, TEST, notes.append)
    assert time.monotonic() - start > 0.4
    assert notes == ["waiting up to 0.5 s to see whether the admin server at 10.0.0.1:10000 lives"]
    delete_cell(root, TEST)
    assert list_cells(root) == []


def test_a_cell_whose_leader_has_stopped_is_deleted_at_once(root: str) -> None:
    _lead(root, ttl_s=300.0, released=True)
    delete_cell(root, TEST)
    assert list_cells(root) == []


def test_a_leader_that_gives_up_meanwhile_is_no_hindrance(root: str) -> None:
    _lead(root, ttl_s=300.0)
    threading.Timer(0.2, lambda: _lead(root, released=True)).start()
    delete_cell(root, TEST)
    assert list_cells(root) == []


@pytest.mark.parametrize(
    ("acl", "error"),
    [("x", InvalidArgumentError), ("", InvalidArgumentError), ("acl/x", UnimplementedError)],
)
def test_acl_that_cannot_be_kept_is_refused(
    tmp_path: Path, acl: str, error: type[Exception]
) -> None:
    create_cell(str(tmp_path), TEST, "/fs")
    with pytest.raises(error):
        set_cell_acl(str(tmp_path), TEST, acl)
    assert cell_config(str(tmp_path), TEST).admin_acl == "acl/all"


def test_acl_all_is_written(tmp_path: Path) -> None:
    CellStore(str(tmp_path), TEST).create()
    CellStore(str(tmp_path), TEST).write_config(admin_pb2.Config(fs_root="/fs"))
    set_cell_acl(str(tmp_path), TEST, "acl/all")
    assert cell_config(str(tmp_path), TEST) == admin_pb2.Config(fs_root="/fs", admin_acl="acl/all")


def test_bad_fs_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="fs_root"):
        create_cell(str(tmp_path), TEST, "/a b")
