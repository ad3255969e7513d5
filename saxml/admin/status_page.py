"""The cell as web pages on this machine alone: /, /model/<full name> and /server/<address>."""

import asyncio
import html
import http.server
import logging
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Sequence

import grpc

from saxml.admin import validate, views
from saxml.admin.manager import Manager
from saxml.common.errors import NotFoundError, SaxError, from_rpc_error

_logger = logging.getLogger(__name__)
_STATUS_TIMEOUT_S = 2.0
_STYLE = (
    "body{font-family:sans-serif}table{border-collapse:collapse}"
    "td,th{border:1px solid #999;padding:.2em .5em;text-align:left}"
)
_MODEL_HEADER = ("Name", "Max", "Active", "Path", "Checkpoint", "Note")
_SERVER_HEADER = ("Addr", "Chip", "Topo", "Lag (s)", "ModelStatus", "ServerStatus")


class StatusPage:
    """Serves the pages from a thread of its own; it asks the manager in the manager's loop."""

    def __init__(self, manager: Manager, port: int) -> None:
        """Binds to `port` of localhost (0: a free one); OSError if that is not possible."""
        self._manager = manager
        self._loop = asyncio.get_running_loop()
        self._server = http.server.ThreadingHTTPServer(
            ("localhost", port), _handler(self._answer), bind_and_activate=True
        )
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])

    def start(self) -> None:
        """Starts to answer."""
        threading.Thread(target=self._server.serve_forever, name="status page", daemon=True).start()

    def stop(self) -> None:
        """Stops to answer and frees the port."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str) -> str:
        return asyncio.run_coroutine_threadsafe(render(self._manager, path), self._loop).result(
            timeout=2 * _STATUS_TIMEOUT_S
        )


async def render(manager: Manager, path: str) -> str:
    """The page at `path`, as HTML; SaxError where there is none."""
    if path.startswith("/model/"):
        return _model_page(manager, path.removeprefix("/model"))
    if path.startswith("/server/"):
        return await _server_page(manager, path.removeprefix("/server/"))
    title = f"{manager.cell.full} Cell Status"
    return _page(
        title,
        [
            _heading(1, title),
            _heading(2, "Models"),
            _models(views.model_rows(manager)),
            _heading(2, "Servers"),
            _servers(views.server_rows(manager)),
        ],
    )


def _model_page(manager: Manager, name: str) -> str:
    try:
        model_id = validate.model_of(manager.cell, name)
    except SaxError as error:
        raise type(error)(f'Invalid model name "{name}": {error}') from error
    try:
        models = views.model_rows(manager, model_id)
    except NotFoundError as error:
        raise NotFoundError(f'Failed to list model "{name}": {error}') from error
    return _page(
        "Model Status",
        [
            _heading(1, f"Model {name}"),
            _models(models),
            _heading(2, "Servers"),
            _servers(views.server_rows(manager, model_id)),
        ],
    )


async def _server_page(manager: Manager, address: str) -> str:
    server = manager.servers.get(address)
    if server is None:
        raise NotFoundError(f"Failed to locate server {address}: model server {address} not found")
    held = {m for m in server.entries if server.wants(m)}
    parts = [
        _heading(1, f"Server {address}"),
        _servers([r for r in views.server_rows(manager) if r.address == address]),
        _heading(2, "Models"),
        _models([r for r in views.model_rows(manager) if r.name in held]),
        _heading(2, "What the server says"),
    ]
    try:
        report = await server.modelet.get_status(_STATUS_TIMEOUT_S)
    except grpc.RpcError as error:
        status = from_rpc_error(error)
        parts.append(f"<p>no answer: {_escape(f'{status.code.name}: {status}')}</p>")
    else:
        names = views.status_names(report)
        rows = [(_escape(m.name), _escape(m.status), _escape(m.reason)) for m in names]
        parts.append(_table(("Model", "Status", "Reason"), rows))
    return _page("Server Status", parts)


def _models(rows: Iterable[views.ModelRow]) -> str:
    return _table(
        _MODEL_HEADER,
        [
            (
                _link(f"/model{r.name}", r.name),
                str(r.requested),
                str(r.assigned),
                _escape(r.path),
                _escape(r.checkpoint),
                _escape(r.note),
            )
            for r in rows
        ],
    )


def _servers(rows: Iterable[views.ServerRow]) -> str:
    return _table(
        _SERVER_HEADER,
        [
            (
                _link(f"/server/{r.address}", r.address),
                _escape(r.chip),
                _escape(r.topology),
                f"{r.lag_s:.3f}",
                ", ".join(_on_server(m) for m in r.models) or "Idle",
                "Dormant" if r.is_dormant else "Active",
            )
            for r in rows
        ],
    )


def _on_server(model: views.ModelOnServer) -> str:
    text = f"{_link(f'/model{model.name}', model.name)}: {_escape(model.status)}"
    return text + (f" ({_escape(model.reason)})" if model.reason else "")


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _link(path: str, text: str) -> str:
    return f'<a href="{_escape(urllib.parse.quote(path, safe="/:[]"))}">{_escape(text)}</a>'


def _heading(level: int, text: str) -> str:
    return f"<h{level}>{_escape(text)}</h{level}>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    lines = ["<tr>" + "".join(f"<th>{_escape(h)}</th>" for h in header) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _page(title: str, parts: Sequence[str]) -> str:
    head = f'<meta charset="utf-8"><title>{_escape(title)}</title><style>{_STYLE}</style>'
    body = "\n".join(parts)
    return f"<!DOCTYPE html>\n<html><head>{head}</head>\n<body>\n{body}\n</body></html>\n"


def _handler(
    answer: Callable[[str], str],
) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        server_version, sys_version = "SAX", ""

        def do_GET(self) -> None:
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            try:
                code, kind, text = 200, "text/html", answer(path)
            except SaxError as error:
                code, kind, text = 500, "text/plain", f"{error}\n"
            except Exception as error:
                _logger.exception("The status page %s failed", path)
                code, kind, text = 500, "text/plain", f"{type(error).__name__}: {error}\n"
            data = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            _logger.debug(format, *args)

    return Handler
