"""Runs an admin server: admin_server --sax_cell=/sax/<cell> --sax_root=... --port=10000."""

import asyncio
import logging
import os
import signal

from absl import app, flags

from saxml.admin.lease import DEFAULT_TTL_S
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

_LEASE_TTL = flags.DEFINE_float(
    "lease_ttl",
    DEFAULT_TTL_S,
    "Seconds after the leader's last sign of life when another admin server takes over.",
    1.0,
    300.0,
)

_logger = logging.getLogger(__name__)


async def _serve(server: AdminServer) -> None:
    """Serves until the first SIGTERM or SIGINT, hands over and ends; the second ends it now."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if told.is_set():
            os._exit(0)
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    serving = loop.create_task(_run(server))
    waiting = loop.create_task(told.wait())
    await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
    if not told.is_set():
        await serving
    # What was acknowledged is in the store: nothing but the lease is left to be written.
    await server.hand_over()
    os._exit(0)


async def _run(server: AdminServer) -> None:
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
            root,
            cell,
            _PORT.value,
            http_port=_HTTP_PORT.value,
            http_host=_HTTP_HOST.value,
            lease_ttl_s=_LEASE_TTL.value,
        )
        asyncio.run(_serve(server))
    except SaxError as error:
        log.fatal(f"Failed to start server: {error}")


if __name__ == "__main__":
    app.run(main)
