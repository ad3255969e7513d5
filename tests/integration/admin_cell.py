"""An admin server in this process, with short periods, and a stub to talk to it."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import grpc

from saxml.admin.manager import Periods
from saxml.admin.server import AdminServer
from saxml.common.errors import SaxError, from_rpc_error
from saxml.common.names import CellId
from saxml.proto import admin_pb2, admin_pb2_grpc
from saxml.storage.cell import CellStore

CELL = CellId("test")
# As the real ones, but for being 50 times shorter where somebody waits for them.
SHORT = Periods(refresh=0.2, poll=0.2, prune=0.5, dial=1.0, join_status=1.0, rejoin=0.3, grace=0.05)


def create_cell(root: str, fs_root: str, admin_acl: str = "") -> CellStore:
    files = CellStore(root, CELL)
    files.create()
    files.write_config(admin_pb2.Config(fs_root=fs_root, admin_acl=admin_acl))
    return files


class RunningAdmin:
    """What tests do with an admin server."""

    def __init__(self, address: str, http_port: int, channel: grpc.Channel) -> None:
        self.address = address
        self.http_port = http_port
        self.stub: Any = admin_pb2_grpc.AdminStub(channel)

    def publish(self, model_id: str = "/sax/test/lm", replicas: int = 1, **fields: Any) -> None:
        values = {"model_path": "p.Lm", "checkpoint_path": "None", **fields}
        model = admin_pb2.Model(model_id=model_id, requested_num_replicas=replicas, **values)
        self.stub.Publish(admin_pb2.PublishRequest(model=model), timeout=10)

    def update(self, model_id: str = "/sax/test/lm", replicas: int = 1, **fields: Any) -> None:
        values = {"model_path": "p.Lm", "checkpoint_path": "None", **fields}
        model = admin_pb2.Model(model_id=model_id, requested_num_replicas=replicas, **values)
        self.stub.Update(admin_pb2.UpdateRequest(model=model), timeout=10)

    def unpublish(self, model_id: str = "/sax/test/lm") -> None:
        self.stub.Unpublish(admin_pb2.UnpublishRequest(model_id=model_id), timeout=10)

    def listed(self, model_id: str = "") -> list[admin_pb2.PublishedModel]:
        response = self.stub.List(admin_pb2.ListRequest(model_id=model_id), timeout=10)
        return list(response.published_models)

    def homes(self, model_id: str = "/sax/test/lm") -> list[str]:
        return list(self.listed(model_id)[0].modelet_addresses)

    def watch(
        self, seqno: int, server_id: str = "", model_id: str = "/sax/test/lm", timeout: float = 10
    ) -> admin_pb2.WatchLocResponse:
        request = admin_pb2.WatchLocRequest(
            model_id=model_id, seqno=seqno, admin_server_id=server_id
        )
        response: admin_pb2.WatchLocResponse = self.stub.WatchLoc(request, timeout=timeout)
        return response

    def wait_for_ready(self, replicas: int, timeout: float = 10) -> None:
        request = admin_pb2.WaitForReadyRequest(model_id="/sax/test/lm", num_replicas=replicas)
        self.stub.WaitForReady(request, timeout=timeout)

    def join(self, request: admin_pb2.JoinRequest) -> None:
        self.stub.Join(request, timeout=10)

    def error(self, method: str, request: Any) -> SaxError:
        """The error that a call must end with."""
        try:
            response = getattr(self.stub, method)(request, timeout=10)
        except grpc.RpcError as error:
            return from_rpc_error(error)
        raise AssertionError(f"{method} answered {response}")


@contextlib.contextmanager
def running(
    root: str, *, port: int = 0, http_port: int = 0, periods: Periods = SHORT
) -> Iterator[RunningAdmin]:
    """An admin server for the cell /sax/test below `root`, in a thread."""
    server = AdminServer(root, CELL, port, http_port=http_port, periods=periods)
    started, failed = threading.Event(), []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        await server.start()
        started.set()
        await server.serve()

    task = loop.create_task(serve())

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
        except Exception as error:
            failed.append(error)
        finally:
            started.set()
            loop.run_until_complete(server.stop())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    thread = threading.Thread(target=run, name="admin server")
    thread.start()
    started.wait()
    try:
        if failed:
            raise failed[0]
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield RunningAdmin(f"127.0.0.1:{server.port}", server.http_port, channel)
    finally:
        if not failed:
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
