"""Runs an admin server: admin_server --sax_cell=/sax/<cell> --sax_root=... --port=10000."""

import asyncio
import logging
import os
import signal

from absl import app, flags

from saxml.admin.server import AdminServer
from saxml.common import log, names
from saxml.common.errors import SaxError
from saxml.storage.cell import sax_root

_CELL = flags.DEFINE_string("sax_cell", "", "The cell to administer, such as /sax/test.")
_ROOT = flags.DEFINE_string(
    "sax_root", None, "Where cells keep their files: a folder or gs://bucket/prefix [SAX_ROOT]."
)
_PORT = flags.DEFINE_integer("port", 10000, "The gRPC port; 0 takes a free one.", 0, 65535)
_HTTP_PORT = flags.DEFINE_integer(
    "http_port", 8080, "The port of status page, health and metrics; 0 for none.", 0, 65535
)
_HTTP_HOST = flags.DEFINE_string(
    "http_host",
    "localhost",
    "The address that --http_port is bound on; 0.0.0.0 shows the page to everybody.",
)

_logger = logging.getLogger(__name__)


async def _serve(server: AdminServer) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        # What was acknowledged is in the store, so there is nothing to wait for.
        asyncio.get_running_loop().add_signal_handler(number, os._exit, 0)
    await server.start()
    await server.serve()


def main(argv: list[str]) -> None:
    """Serves until SIGTERM or SIGINT, and then exits with 0."""
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    log.setup()
    if len(argv) > 1 or not _CELL.value:
        log.fatal("Usage: admin_server --sax_cell=/sax/<cell> --sax_root=... --port=10000")
    try:
        cell = names.parse_cell(_CELL.value)
    except SaxError as error:
        log.fatal(f"Invalid sax_cell flag {_CELL.value}: {error}")
    _logger.info("Starting the server")
    try:
        root = sax_root(_ROOT.value)
        server = AdminServer(
            root, cell, _PORT.value, http_port=_HTTP_PORT.value, http_host=_HTTP_HOST.value
        )
        asyncio.run(_serve(server))
    except SaxError as error:
        log.fatal(f"Failed to start server: {error}")


if __name__ == "__main__":
    app.run(main)
