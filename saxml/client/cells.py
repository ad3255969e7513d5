"""Cells as they lie below a root: list, create, delete, and who may administer them."""

from collections.abc import Callable

from saxml.common.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    SaxError,
    UnimplementedError,
)
from saxml.common.names import CellId, parse_cell
from saxml.proto import admin_pb2
from saxml.storage.base import Stored, open_store
from saxml.storage.cell import CellStore, store_cell
from saxml.storage.lease_record import Record

EVERYBODY = "acl/all"


def list_cells(root: str) -> list[str]:
    """Names of the cells below a root, sorted."""
    store = open_store(root)
    entries = store.list("sax")
    if not entries and not store.exists_dir("sax"):
        raise NotFoundError(f"there are no cells below {root}: it has no folder called sax")
    cells = []
    for entry in entries:
        name = entry.removesuffix("/")
        try:
            parse_cell(f"/sax/{name}")
        except SaxError:
            continue
        if entry.endswith("/"):
            cells.append(name)
    return sorted(cells)


def create_cell(root: str, cell: CellId, fs_root: str, admin_acl: str = EVERYBODY) -> None:
    """Makes a cell that an admin server can be started for; AlreadyExistsError if it is there."""
    check_acl(admin_acl)
    store_cell(CellStore(root, cell), admin_pb2.Config(fs_root=fs_root, admin_acl=admin_acl))


def check_cell(root: str, cell: CellId) -> None:
    """NotFoundError where there is no such cell."""
    files = CellStore(root, cell)
    if not files.exists():
        raise NotFoundError(f"there is no cell {cell.full} ({files.path})")


def delete_cell(root: str, cell: CellId, *, force: bool = False) -> None:
    """Removes everything below a cell's name, in a folder or a bucket.

    force: even if check_not_led() would raise.
    """
    check_cell(root, cell)
    if not force:
        check_not_led(root, cell)
    CellStore(root, cell).store.remove_dir(cell.full.lstrip("/"))


def check_not_led(root: str, cell: CellId, note: Callable[[str], None] = lambda text: None) -> None:
    """FailedPreconditionError if an admin server leads the cell.

    Whether the one that has the lease is alive shows when it renews it, or does not within its time
    to live. `note` is told for whom it is waited.
    """
    files = CellStore(root, cell)
    before = files.store.read(files.lease_name)
    record = _lease(before)
    if before is None or record is None:
        return
    note(
        f"waiting up to {record.ttl_s:g} s to see whether the admin server at {record.holder} lives"
    )
    if files.store.watch(files.lease_name, before.generation, record.ttl_s) == before.generation:
        return
    record = _lease(files.store.read(files.lease_name))
    if record is not None:
        raise FailedPreconditionError(
            f"the admin server at {record.holder} leads {cell.full} (term {record.term}); stop all "
            f"admin servers of the cell first, or use saxutil delete -force {cell.full}"
        )


def _lease(stored: Stored | None) -> Record | None:
    """The lease if somebody has it, or may have it."""
    try:
        record = Record.from_bytes(stored.data) if stored is not None else None
    except ValueError:
        return None  # nobody can lead by it
    return record if record is not None and not record.released else None


def cell_config(root: str, cell: CellId) -> admin_pb2.Config:
    """The configuration of a cell; NotFoundError if it has none."""
    config = CellStore(root, cell).read_config()
    if config is None:
        raise NotFoundError(f"the cell {cell.full} has no config.proto below {root}")
    return config


def set_cell_acl(root: str, cell: CellId, admin_acl: str) -> None:
    """Sets who may administer a cell."""
    config = cell_config(root, cell)
    if not admin_acl:
        raise InvalidArgumentError("config must be saved with a non-empty write ACL")
    check_acl(admin_acl)
    config.admin_acl = admin_acl
    CellStore(root, cell).write_config(config)


def check_acl(acl: str) -> None:
    """Raises unless `acl` is one that can be kept: only acl/all, for nothing checks others yet."""
    if not acl.startswith("acl/"):
        raise InvalidArgumentError(f"{acl} is not a valid ACL name (must start with one of [acl/])")
    if acl != EVERYBODY:
        raise UnimplementedError(f"ACL check is not supported: {acl} (only {EVERYBODY} is)")
