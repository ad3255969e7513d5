"""The cell as web pages: /, /model/<full name> and /server/<address>, by jinja2, autoescaped."""

import datetime
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import jinja2

from saxml.admin import snapshot, validate
from saxml.admin.manager import Manager
from saxml.admin.standing import Standing
from saxml.common.errors import FailedPreconditionError, NotFoundError, SaxError, from_rpc_error
from saxml.common.names import CellId
from saxml.proto import common_pb2, modelet_pb2

_STATUS_TIMEOUT_S = 2.0
_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, slots=True)
class _Said:
    """A model in a server's own words."""

    model: str
    status: str
    reason: str
    methods: tuple[modelet_pb2.GetStatusResponse.MethodStats, ...]


class StatusPages:
    """Renders pages from what the admin server knows now; use it in the manager's event loop."""

    def __init__(
        self,
        cell: CellId,
        address: str,
        standing: Callable[[], Standing],
        manager: Callable[[], Manager | None],
    ) -> None:
        """address: this process's own, as pages call it. No manager: it stands by."""
        self._cell, self._address = cell, address
        self._standing, self._manager = standing, manager

    def cell(self, *, part: bool = False) -> str:
        """The models and servers of the cell. part: only what the script of a page replaces."""
        manager = self._manager()
        return self._render(
            "cell.html",
            f"{self._cell.full} Cell Status",
            part,
            managed=manager is not None,
            models=snapshot.models(manager) if manager else [],
            servers=snapshot.servers(manager) if manager else [],
            for_model=False,
        )

    def model(self, name: str, *, part: bool = False) -> str:
        """One model and where it is; SaxError if it cannot be one, or is not published."""
        try:
            model_id = validate.model_of(self._cell, name)
        except SaxError as error:
            raise type(error)(f'Invalid model name "{name}": {error}') from error
        manager = self._require_manager()
        try:
            (row,) = snapshot.models(manager, model_id)
        except NotFoundError as error:
            raise NotFoundError(f'Failed to list model "{name}": {error}') from error
        servers = snapshot.servers(manager, model_id)
        return self._render(
            "model.html", f"{name} Model Status", part, model=row, servers=servers, for_model=True
        )

    async def server(self, address: str, *, part: bool = False) -> str:
        """One server and what it says of itself; NotFoundError if it has not joined."""
        manager = self._require_manager()
        server = manager.servers.get(address)
        if server is None:
            raise NotFoundError(
                f"Failed to locate server {address}: model server {address} not found"
            )
        report, problem = modelet_pb2.GetStatusResponse(), ""
        try:
            report = await server.modelet.get_status(_STATUS_TIMEOUT_S)
        except grpc.RpcError as error:
            status = from_rpc_error(error)
            problem = f"{status.code.name}: {status}"
        row = snapshot.server(manager, server)
        return self._render(
            "server.html",
            f"{address} Server Status",
            part,
            server=row,
            models=[m for m in snapshot.models(manager) if server.wants(m.name)],
            problem=problem,
            explanation=report.server_status.explanation,
            said=_said(report),
            for_model=False,
        )

    def _require_manager(self) -> Manager:
        manager = self._manager()
        if manager is None:
            leader = self._standing().leader_address or "not known yet"
            raise FailedPreconditionError(
                f"this admin server stands by; the leader of {self._cell.full} is {leader}"
            )
        return manager

    def _render(self, body: str, title: str, part: bool, **values: Any) -> str:
        return _templates.get_template(body if part else "page.html").render(
            body=body,
            title=title,
            cell=self._cell.full,
            address=self._address,
            standing=self._standing(),
            now=datetime.datetime.now().astimezone().strftime("%H:%M:%S %Z"),
            **values,
        )


def _said(report: modelet_pb2.GetStatusResponse) -> list[_Said]:
    return [
        _Said(
            m.model_key,
            common_pb2.ModelStatus.Name(m.model_status),
            m.failure_reason,
            tuple(m.method_stats),
        )
        for m in sorted(report.models, key=lambda m: m.model_key)
    ]
