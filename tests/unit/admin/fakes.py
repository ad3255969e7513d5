"""A clock that stands still and a line to a model server that is not there."""

import asyncio
from typing import Any

import grpc

from saxml.admin.checkpoint_size import Size
from saxml.admin.manager import Manager, Periods
from saxml.admin.modelet import Modelet
from saxml.admin.state import StateFile
from saxml.common.names import CellId
from saxml.proto import admin_pb2, common_pb2, modelet_pb2

CELL = CellId("test")


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeRpcError(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


class FakeModelet(Modelet):
    """Does at once what it is told, or fails with `error`, or waits for `gate`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.models: dict[str, common_pb2.ModelStatus] = {}
        self.reasons: dict[str, str] = {}
        self.calls: list[str] = []
        self.state = modelet_pb2.GetStatusResponse.ServerStatus(
            state=modelet_pb2.GetStatusResponse.ServerStatus.ACTIVE
        )
        self.error: FakeRpcError | None = None
        self.polls = 0
        self.status_error: FakeRpcError | None = None
        self.broken = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def dial(self, timeout_s: float) -> None:
        pass

    def is_connected(self) -> bool:
        return True

    async def get_status(self, timeout_s: float) -> modelet_pb2.GetStatusResponse:
        self.polls += 1
        if self.status_error is not None:
            raise self.status_error
        report = modelet_pb2.GetStatusResponse(server_status=self.state)
        for key, status in self.models.items():
            reason = self.reasons.get(key, "")
            report.models.add(model_key=key, model_status=status, failure_reason=reason)
        return report

    async def load(self, model: admin_pb2.Model) -> None:
        self.calls.append(f"load {model.model_id}")
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.models[model.model_id] = common_pb2.LOADED

    async def update(self, model: admin_pb2.Model, *, with_checkpoint: bool) -> None:
        self.calls.append(
            f"update {model.model_id}{' ' * with_checkpoint}"
            + (model.checkpoint_path if with_checkpoint else "")
        )
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.models[model.model_id] = common_pb2.LOADED

    async def unload(self, model_key: str) -> None:
        self.calls.append(f"unload {model_key}")
        self.models.pop(model_key, None)

    async def wake_up(self, timeout_s: float) -> None:
        self.calls.append("wake up")

    async def line_breaks(self) -> None:
        await self.broken.wait()
        self.broken.clear()

    async def close(self) -> None:
        pass


class World:
    """A manager whose time is moved by hand."""

    def __init__(self, name: str, grace: float = 0.0, refresh: float = 10.0) -> None:
        self.clock = FakeClock()
        self.modelets: dict[str, FakeModelet] = {}
        self._name, self._grace, self._refresh = name, grace, refresh
        self.restart()

    def restart(self) -> None:
        """Another admin server takes over, with the same state and servers."""
        self._coming: dict[str, FakeModelet] = {}
        self.manager = Manager(
            CELL,
            StateFile(f"mem://{self._name}", CELL),
            clock=self.clock,
            periods=Periods(poll=3600.0, grace=self._grace, size=0.0, refresh=self._refresh),
            connect=self._connect,
            read_size=lambda checkpoint: Size(None, "not read"),
        )

    def connect(self, address: str) -> FakeModelet:
        """The line that the next Join of this address will use."""
        self._coming[address] = self._connect(address)
        return self._coming[address]

    async def join(self, address: str, *paths: str) -> FakeModelet:
        server = admin_pb2.ModelServer(servable_model_paths=paths or ("p.Lm",))
        await self.manager.join(admin_pb2.JoinRequest(address=address, model_server=server))
        await self.settle()
        return self.modelets[address]

    async def publish(self, name: str, replicas: int = 1, **fields: Any) -> None:
        await self.manager.registry.publish(model_of(name, replicas, **fields))
        await self.settle()

    async def update(self, name: str, replicas: int = 1, **fields: Any) -> None:
        await self.manager.registry.update(model_of(name, replicas, **fields))
        await self.settle()

    def shown(self, name: str) -> list[str]:
        """The addresses that clients are told."""
        return sorted(self.manager.registry.models[f"/sax/test/{name}"].watched.values)

    async def poll(self, address: str) -> None:
        await self.manager.poll(self.manager.servers[address])
        await self.settle()

    async def advance(self, seconds: float) -> None:
        """Lets time pass for everybody, with every server answering."""
        self.clock.now += seconds
        for server in list(self.manager.servers.values()):
            await self.manager.poll(server)
        await self.settle()

    async def settle(self) -> None:
        """Lets queued actions run and decides what has changed, until nothing moves."""
        await self.decide()
        # Who looks at the whole cell finds nothing to do either.
        queued = self._queued()
        self.manager.reconcile()
        assert self._queued() == queued

    async def decide(self) -> float:
        """The same, and no more than that: about what has changed, unless all of the cell is due.
        Tells when that is."""
        for _ in range(20):
            await asyncio.sleep(0)
            due = self.manager.decide()
        return due

    def _queued(self) -> list[int]:
        return [s.queue.put_so_far for s in self.manager.servers.values()]

    def _connect(self, address: str) -> FakeModelet:
        if (coming := self._coming.pop(address, None)) is not None:
            return coming
        old = self.modelets.get(address)
        modelet = self.modelets[address] = FakeModelet(address)
        if old is not None:
            modelet.models = old.models
        return modelet


def model_of(name: str, replicas: int = 1, **fields: Any) -> admin_pb2.Model:
    values = {"model_path": "p.Lm", "checkpoint_path": "None", **fields}
    return admin_pb2.Model(model_id=f"/sax/test/{name}", requested_num_replicas=replicas, **values)
