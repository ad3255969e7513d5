"""How an admin server grows with its cell: admin_scale [SERVERS ...], default 10 100 1000.

For each number of servers, in a process of its own, a real manager, state file (in a folder) and
gRPC service take in that many simulated model servers, half as many models of two replicas each,
and twice as many clients that watch a model over gRPC. Printed are, in that process:

  first      the first decision: all servers are there and hold nothing, all models are published
  own paths  the same where each server has a list of model paths of its own
  join       for all servers to join at once, as after a change of leader
  reconcile  a decision about the whole cell with nothing to do, made every 10 s; median of 20
  publish    Publish over gRPC, from the call to the answer, when all models but the last 20 are
             there: median and longest
  told       from an Unpublish to when the last of its watchers has been told
  memory     of the process, its clients included

The goals at 1,000 servers are 100 ms for each kind of decision, 50 ms for Publish, and 500 MB;
missing one makes the exit status 1.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import psutil
from prometheus_client import CollectorRegistry

from saxml.admin.listen import listen
from saxml.admin.manager import Manager
from saxml.admin.modelet import Modelet
from saxml.admin.periods import Periods
from saxml.admin.service import AdminService
from saxml.admin.state import StateFile
from saxml.common.metrics import RpcMetrics
from saxml.common.names import CellId
from saxml.proto import admin_pb2, admin_pb2_grpc, common_pb2, modelet_pb2

_CELL = CellId("test")
_REPLICAS = 2
_MAX_CHANNELS = 20
_PUBLISHED = 20
_RECONCILE_MS, _PUBLISH_MS, _MEMORY_MB = 100.0, 50.0, 500.0
_GOALS_AT = 1000


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured in one process."""

    servers: int
    models: int
    watchers: int
    first_ms: float
    own_paths_ms: float
    join_s: float
    reconcile_ms: float
    publish_ms: float
    publish_longest_ms: float
    publish_cpu_ms: float
    told_ms: float
    memory_mb: float

    @property
    def is_good(self) -> bool:
        """Whether the goals are met, as far as there are some for this size."""
        return self.servers != _GOALS_AT or (
            max(self.first_ms, self.own_paths_ms, self.reconcile_ms) < _RECONCILE_MS
            and self.publish_ms < _PUBLISH_MS
            and self.memory_mb < _MEMORY_MB
        )


class _SimulatedModelet(Modelet):
    """Loads at once whatever it is told to."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._models: set[str] = set()

    async def dial(self, timeout_s: float) -> None:
        pass

    def is_connected(self) -> bool:
        return True

    async def get_status(self, timeout_s: float) -> modelet_pb2.GetStatusResponse:
        report = modelet_pb2.GetStatusResponse()
        report.server_status.state = report.server_status.ACTIVE
        for key in self._models:
            report.models.add(model_key=key, model_status=common_pb2.LOADED)
        return report

    async def load(self, model: admin_pb2.Model) -> None:
        self._models.add(model.model_id)

    async def update(self, model: admin_pb2.Model, *, with_checkpoint: bool) -> None:
        self._models.add(model.model_id)

    async def unload(self, model_key: str) -> None:
        self._models.discard(model_key)

    async def line_breaks(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass


def _name(number: int) -> str:
    return f"{_CELL.full}/m{number}"


async def _restored(models: int, folder: str) -> Manager:
    """A manager that has taken over a cell with so many models."""
    state = StateFile(folder, _CELL)
    state.load()
    state.save([_model(number) for number in range(models)])
    manager = Manager(_CELL, state, connect=_SimulatedModelet, periods=Periods(rejoin=0.0))
    await manager.restore()
    return manager


async def _first_decision(count: int, folder: str, own_paths: bool) -> float:
    manager = await _restored(count // 2, folder)
    await asyncio.gather(*(manager.join(_join(i, own_paths)) for i in range(count)))
    start = time.perf_counter()
    manager.reconcile()
    seconds = time.perf_counter() - start
    await manager.close()
    return seconds


async def _measure(count: int, folder: str) -> Figures:
    first = [await _first_decision(count, folder, own_paths) for own_paths in (False, True)]
    manager = await _restored(max(0, count // 2 - _PUBLISHED), folder)
    running = asyncio.create_task(manager.run())
    server, port = listen(0, RpcMetrics(CollectorRegistry()))
    admin_pb2_grpc.add_AdminServicer_to_server(AdminService(manager, "bench"), server)
    await server.start()
    async with contextlib.AsyncExitStack() as stack:
        stubs: list[Any] = []
        for number in range(_MAX_CHANNELS):
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("bench", number)])
            stubs.append(admin_pb2_grpc.AdminStub(await stack.enter_async_context(channel)))
        figures = await _drive(manager, stubs, count, first)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await server.stop(None)
    await manager.close()
    return figures


async def _drive(
    manager: Manager, stubs: Sequence[Any], count: int, first_decisions: Sequence[float]
) -> Figures:
    models, watchers = count // 2, 2 * count
    start = time.perf_counter()
    await asyncio.gather(*(manager.join(_join(i)) for i in range(count)))
    join_s = time.perf_counter() - start
    first = max(0, models - _PUBLISHED)
    await asyncio.gather(*(_ready(stubs[0], number) for number in range(first)))
    publishes, cpu = [], 0.0
    for number in range(first, models):
        before = time.process_time()
        publishes.append(await _publish(stubs[0], number))
        cpu += time.process_time() - before
        await _ready(stubs[0], number)
        await asyncio.sleep(0.1)
    publishes.sort()
    watches = await _watch_all(stubs, models, watchers)
    reconciles = []
    for _ in range(20):
        start = time.perf_counter()
        manager.reconcile()
        reconciles.append(time.perf_counter() - start)
        await asyncio.sleep(0.05)
    memory = psutil.Process().memory_info().rss
    start = time.perf_counter()
    await stubs[0].Unpublish(admin_pb2.UnpublishRequest(model_id=_name(0)), timeout=60)
    await asyncio.gather(*(w for number, w in watches if number == 0))
    told = time.perf_counter() - start
    for _, watch in watches:
        watch.cancel()
    await asyncio.gather(*(w for _, w in watches), return_exceptions=True)
    return Figures(
        servers=count,
        models=models,
        watchers=watchers,
        first_ms=1000 * first_decisions[0],
        own_paths_ms=1000 * first_decisions[1],
        join_s=join_s,
        reconcile_ms=1000 * sorted(reconciles)[len(reconciles) // 2],
        publish_ms=1000 * publishes[len(publishes) // 2],
        publish_longest_ms=1000 * publishes[-1],
        publish_cpu_ms=1000 * cpu / len(publishes),
        told_ms=1000 * told,
        memory_mb=memory / 1e6,
    )


def _join(number: int, own_paths: bool = False) -> admin_pb2.JoinRequest:
    paths = [f"bench.params.Model{i}" for i in range(20)]
    return admin_pb2.JoinRequest(
        address=f"10.0.{number // 250}.{number % 250}:10001",
        model_server=admin_pb2.ModelServer(
            chip_type=admin_pb2.ModelServer.CHIP_TYPE_TPU_V5E,
            chip_topology=admin_pb2.ModelServer.CHIP_TOPOLOGY_1,
            servable_model_paths=[*paths, *([f"bench.params.Own{number}"] if own_paths else [])],
        ),
    )


def _model(number: int) -> admin_pb2.Model:
    return admin_pb2.Model(
        model_id=_name(number),
        model_path=f"bench.params.Model{number % 20}",
        checkpoint_path="None",
        requested_num_replicas=_REPLICAS,
        overrides={"ram": "2", "BATCH_SIZE": "8"},
    )


async def _publish(stub: Any, number: int) -> float:
    start = time.perf_counter()
    await stub.Publish(admin_pb2.PublishRequest(model=_model(number)), timeout=60)
    return time.perf_counter() - start


async def _ready(stub: Any, number: int) -> None:
    request = admin_pb2.WaitForReadyRequest(model_id=_name(number), num_replicas=_REPLICAS)
    await stub.WaitForReady(request, timeout=120)


async def _watch_all(
    stubs: Sequence[Any], models: int, watchers: int
) -> list[tuple[int, "asyncio.Task[Any]"]]:
    """Calls that wait for the next change of a model; all have reached the admin server."""

    async def watch(number: int, stub: Any) -> Any:
        request = admin_pb2.WatchLocRequest(model_id=_name(number), admin_server_id="bench")
        try:
            full = await stub.WatchLoc(request, timeout=120)
        finally:
            under_way.release()
        request.seqno = full.result.next_seqno
        return await stub.WatchLoc(request, timeout=600)

    under_way = asyncio.Semaphore(0)
    tasks = [
        (i % models, asyncio.create_task(watch(i % models, stubs[i % len(stubs)])))
        for i in range(watchers)
    ]
    for _ in range(watchers):
        await under_way.acquire()
    await asyncio.sleep(1.0)
    for _, task in tasks:
        if task.done():
            task.result()
    return tasks


def _run(count: int) -> Figures:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(count, folder))


def main(argv: Sequence[str]) -> int:
    """Prints a line a size."""
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    try:
        counts = [int(a) for a in argv[1:]] or [10, 100, 1000]
    except ValueError:
        counts = [0]
    if min(counts) < 2:
        print(f"usage: {argv[0]} [SERVERS ...], each at least 2", file=sys.stderr)
        return 2
    print(
        "servers models watchers  first ms  own paths ms  join s  reconcile ms"
        "  publish ms (longest)    CPU"
        "  told ms  memory MB",
        flush=True,
    )
    good = True
    for count in counts:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            f = pool.apply(_run, (count,))
        good = good and f.is_good
        print(
            f"{f.servers:7} {f.models:6} {f.watchers:8} {f.first_ms:9.1f} {f.own_paths_ms:13.1f}"
            f" {f.join_s:7.2f} {f.reconcile_ms:13.2f}"
            f" {f.publish_ms:11.2f} {f'({f.publish_longest_ms:.1f})':>9} {f.publish_cpu_ms:6.2f}"
            f" {f.told_ms:8.1f} {f.memory_mb:10.0f}",
            flush=True,
        )
    if _GOALS_AT in counts:
        print(
            f"goals at {_GOALS_AT}: {_RECONCILE_MS:g} ms, {_PUBLISH_MS:g} ms, {_MEMORY_MB:g} MB:"
            f" {'met' if good else 'MISSED'}"
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
