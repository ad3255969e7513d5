"""The files by which a cell is found: config.proto and location.proto.

cell = CellStore(sax_root(flag), parse_cell("/sax/test"))
cell.admin_address()        # "192.0.2.2:10000"
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from saxml.common.errors import AlreadyExistsError, FailedPreconditionError
from saxml.common.names import CellId, check_fs_root, quote
from saxml.proto import admin_pb2
from saxml.storage.base import ConflictError, Store, Stored, open_store

CONFIG_NAME = "config.proto"
LOCATION_NAME = "location.proto"
LEASE_NAME = "lease.json"
# What `saxutil create` writes into location.proto.
NO_ADMIN_YET = "No admin server has been started for this Sax cell."

_logger = logging.getLogger(__name__)
_M = TypeVar("_M", bound=Message)


def sax_root(flag_value: str | None) -> str:
    """The root of all cells: the flag --sax_root, else the environment's SAX_ROOT."""
    root = flag_value or os.environ.get("SAX_ROOT", "")
    if not root:
        raise FailedPreconditionError(
            "no root for SAX cells: pass --sax_root or set SAX_ROOT, to a folder or gs://bucket/prefix"
        )
    return root


class CellStore:
    """Reads and writes the files of one cell below `root`."""

    def __init__(self, root: str, cell: CellId) -> None:
        self.cell = cell
        self.store: Store = open_store(root)
        self._dir = cell.full.lstrip("/")

    @property
    def path(self) -> str:
        """Where the cell's files lie, for messages."""
        return f"{self.store.root}/{self._dir}"

    @property
    def location_path(self) -> str:
        """Where location.proto lies, for messages."""
        return f"{self.path}/{LOCATION_NAME}"

    @property
    def config_name(self) -> str:
        """The name in the store of the cell's configuration."""
        return f"{self._dir}/{CONFIG_NAME}"

    @property
    def location_name(self) -> str:
        """The name in the store of the object that says where the cell's admin server listens."""
        return f"{self._dir}/{LOCATION_NAME}"

    @property
    def lease_name(self) -> str:
        """The name in the store of the object by which admin servers elect their leader."""
        return f"{self._dir}/{LEASE_NAME}"

    def exists(self) -> bool:
        """Whether the cell was created."""
        return self.store.exists_dir(self._dir)

    def create(self) -> None:
        """Makes the cell's directory; no error if it is there."""
        self.store.make_dir(self._dir)

    def check_exists(self) -> None:
        """Raises FailedPreconditionError, with what to do, where there is no such cell."""
        if not self.exists():
            raise FailedPreconditionError(
                f"{quote(self.path)} is not a directory: there is no cell {self.cell.full}; create "
                f"it with admin_config --sax_cell={self.cell.full} --sax_root=... --fs_root=..."
            )

    def read_config(self) -> admin_pb2.Config | None:
        """The cell's configuration, or None where there is none."""
        return self._parse(CONFIG_NAME, admin_pb2.Config())

    def write_config(self, config: admin_pb2.Config, *, if_generation: int | None = None) -> int:
        """Writes the cell's configuration; see Store.write."""
        return self._write(CONFIG_NAME, config, if_generation)

    def read_location(self) -> str | None:
        """What location.proto says, which may be NO_ADMIN_YET; None where there is none."""
        location = self._parse(LOCATION_NAME, admin_pb2.Location())
        return None if location is None else location.location

    def write_location(self, address: str, *, if_generation: int | None = None) -> int:
        """Says that the admin server listens at `address`; see Store.write."""
        return self._write(LOCATION_NAME, admin_pb2.Location(location=address), if_generation)

    def wait_for_other_location(
        self, address: str, timeout_s: float, stop: threading.Event | None = None
    ) -> None:
        """Returns when location.proto does not say `address`, at most timeout_s later."""
        end = time.monotonic() + timeout_s
        while True:
            stored = self.store.read(self.location_name)
            location = self._decoded(LOCATION_NAME, stored, admin_pb2.Location())
            if location is None or location.location != address:
                return
            generation = stored.generation if stored else 0
            left = max(0.0, end - time.monotonic())
            if self.store.watch(self.location_name, generation, left, stop=stop) == generation:
                return

    def announce(self, address: str, check: Callable[[], None]) -> bool:
        """Makes location.proto name `address`; gives whether it had to be written.

        `check` raises when the caller does not lead any more. It is called between reading the
        file and the write that depends on what was read: whoever leads afterwards writes the file
        after that, and a write of ours that is late by then is refused.
        """
        while True:
            stored = self.store.read(self.location_name)
            check()
            data = admin_pb2.Location(location=address).SerializeToString(deterministic=True)
            if stored is not None and stored.data == data:
                return False
            try:
                self.write_location(address, if_generation=stored.generation if stored else 0)
            except ConflictError:
                continue
            return True

    def admin_address(self) -> str:
        """Where the cell's admin server listens.

        Raises FailedPreconditionError if no admin server was ever started for this cell, or if
        there is no such cell.
        """
        address = self.read_location()
        if not address or address == NO_ADMIN_YET:
            self.check_exists()
            raise FailedPreconditionError(
                f"no admin server has been started for the cell {self.cell.full} "
                f"({self.location_path} names none)"
            )
        return address

    def _parse(self, name: str, message: _M) -> _M | None:
        return self._decoded(name, self.store.read(f"{self._dir}/{name}"), message)

    def _decoded(self, name: str, stored: Stored | None, message: _M) -> _M | None:
        if stored is None:
            return None
        try:
            message.ParseFromString(stored.data)
        except DecodeError as error:
            raise FailedPreconditionError(
                f"{self.path}/{name} is not a {message.DESCRIPTOR.full_name} message ({error}); "
                "write it anew with admin_config, or restore it from a backup"
            ) from error
        return message

    def _write(self, name: str, message: Message, if_generation: int | None) -> int:
        data = message.SerializeToString(deterministic=True)
        return self.store.write(f"{self._dir}/{name}", data, if_generation=if_generation)


def store_cell(
    files: CellStore, config: admin_pb2.Config, *, replace: bool = False
) -> admin_pb2.Config | None:
    """Makes a cell for which an admin server can be started.

    That is its directory, its configuration and, where there is none, a location.proto that says
    that no admin server was started. Gives the configuration it had before, which `replace` allows
    even where it cannot be read; without it a cell that is there is an AlreadyExistsError.
    """
    check_fs_root(config.fs_root)
    old = None
    try:
        old = files.read_config()
    except FailedPreconditionError as error:
        if not replace:
            raise
        _logger.warning("Replacing the old configuration, which cannot be read: %s", error)
    if old is not None and not replace:
        raise AlreadyExistsError(f"the cell {files.cell.full} exists already ({files.path})")
    files.create()
    files.write_config(config, if_generation=None if replace else 0)
    if files.read_location() is None:
        with contextlib.suppress(ConflictError):  # an admin server was started meanwhile
            files.write_location(NO_ADMIN_YET, if_generation=0)
    return old
