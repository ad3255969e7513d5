"""Creates a cell: admin_config --sax_cell=/sax/<cell> --sax_root=... --fs_root=..."""

import logging
import os

from absl import app, flags
from google.protobuf import text_format

from saxml.common import log, names
from saxml.common.errors import SaxError
from saxml.common.names import CellId
from saxml.proto import admin_pb2
from saxml.storage.cell import CellStore, sax_root, store_cell

_CELL = flags.DEFINE_string("sax_cell", "", "The cell to create, such as /sax/test.")
_ROOT = flags.DEFINE_string(
    "sax_root", None, "Where cells keep their files: a folder or gs://bucket/prefix [SAX_ROOT]."
)
_FS_ROOT = flags.DEFINE_string(
    "fs_root", "", "Where the cell keeps its state: a folder or gs://bucket/prefix."
)
_ADMIN_ACL = flags.DEFINE_string(
    "admin_acl", "", "Name of an access list, kept in the configuration; it is not checked."
)

_logger = logging.getLogger(__name__)


def create_cell(root: str, cell: CellId, config: admin_pb2.Config) -> None:
    """Makes the cell's directory where it is missing and writes its configuration.

    Raises SaxError where the root cannot be written.
    """
    text = text_format.MessageToString(config).rstrip("\n")
    _logger.info("Creating config %s", text)
    old = store_cell(CellStore(root, cell), config, replace=True)
    if old is not None and old.fs_root != config.fs_root:
        _logger.warning(
            "The cell had fs_root %s: what is published there does not move to %s",
            names.quote(old.fs_root),
            names.quote(config.fs_root),
        )
    _logger.info("Created config %s", text)


def main(argv: list[str]) -> None:
    """Creates the cell and exits with 0."""
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    log.setup()
    fs_root = _FS_ROOT.value
    if len(argv) > 1 or not _CELL.value or not fs_root:
        log.fatal("Usage: admin_config --sax_cell=/sax/<cell> --sax_root=... --fs_root=...")
    try:
        cell = names.parse_cell(_CELL.value)
    except SaxError as error:
        log.fatal(f"Invalid sax_cell flag {_CELL.value}: {error}")
    if "://" not in fs_root:
        fs_root = os.path.abspath(os.path.expanduser(fs_root))
    try:
        root = sax_root(_ROOT.value)
        create_cell(root, cell, admin_pb2.Config(fs_root=fs_root, admin_acl=_ADMIN_ACL.value))
    except SaxError as error:
        log.fatal(f"Failed to create config: {error}")


if __name__ == "__main__":
    app.run(main)
