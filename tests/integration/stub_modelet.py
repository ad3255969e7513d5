"""A model server that loads nothing but says so: records what an admin server asks of it."""

import concurrent.futures
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from saxml.common.errors import NotFoundError, StatusInterceptor
from saxml.proto import admin_pb2, common_pb2, modelet_pb2, modelet_pb2_grpc


class StubModelet(modelet_pb2_grpc.ModeletServicer):
    """Serves sax.Modelet on a port of 127.0.0.1 until stop()."""

    def __init__(self, port: int = 0, paths: tuple[str, ...] = ("p.Lm",), tag: str = "") -> None:
        self.calls: list[tuple[str, Any, float | None]] = []
        self.models: dict[str, common_pb2.ModelStatus] = {}
        self.reasons: dict[str, str] = {}
        self.paths, self.tag = paths, tag
        # Load waits while this is not set.
        self.may_load = threading.Event()
        self.may_load.set()
        # The model -> the error that its Load, UpdateLoaded or Unload raises.
        self.load_errors: dict[str, Exception] = {}
        self.update_errors: dict[str, Exception] = {}
        self.unload_errors: dict[str, Exception] = {}
        self._changed = threading.Condition()
        self._server = grpc.server(
            concurrent.futures.ThreadPoolExecutor(8),
            interceptors=[StatusInterceptor()],
            options=[("grpc.so_reuseport", 0)],
        )
        modelet_pb2_grpc.add_ModeletServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def stop(self) -> None:
        self.may_load.set()
        self._server.stop(None).wait()

    def join_request(self, data_address: str = "") -> admin_pb2.JoinRequest:
        return admin_pb2.JoinRequest(
            address=self.address,
            data_address=data_address,
            model_server=admin_pb2.ModelServer(
                chip_type=admin_pb2.ModelServer.CHIP_TYPE_CPU,
                chip_topology=admin_pb2.ModelServer.CHIP_TOPOLOGY_1,
                servable_model_paths=self.paths,
                tags=[self.tag] if self.tag else [],
            ),
        )

    def names(self) -> list[str]:
        """The calls so far, but for GetStatus."""
        with self._changed:
            return [name for name, _, _ in self.calls if name != "GetStatus"]

    def last(self, name: str) -> Any:
        with self._changed:
            return next(request for n, request, _ in reversed(self.calls) if n == name)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Waits for a condition on what was called; the timeout is an assertion."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), [
                (name, str(request)) for name, request, _ in self.calls
            ]

    def wait_for_calls(self, *names: str, timeout_s: float = 10.0) -> None:
        """Waits until the calls, but for GetStatus, are these."""
        self.wait_for(lambda: self.names() == list(names), timeout_s)

    def _record(self, name: str, request: Message, context: grpc.ServicerContext) -> None:
        with self._changed:
            # A client that sets no deadline leaves one that is years away.
            left = context.time_remaining()
            self.calls.append((name, request, left if left is not None and left < 1e6 else None))
            self._changed.notify_all()

    def Load(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._record("Load", request, context)
        self.models[request.model_key] = common_pb2.LOADING
        while not self.may_load.wait(0.05):
            if not context.is_active():
                return modelet_pb2.LoadResponse()
        if error := self.load_errors.get(request.model_key):
            self.models[request.model_key] = common_pb2.FAILED
            raise error
        self.models[request.model_key] = common_pb2.LOADED
        return modelet_pb2.LoadResponse()

    def UpdateLoaded(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._record("UpdateLoaded", request, context)
        if error := self.update_errors.get(request.model_key):
            raise error
        return modelet_pb2.UpdateLoadedResponse()

    def Unload(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._record("Unload", request, context)
        if error := self.unload_errors.get(request.model_key):
            raise error
        if self.models.pop(request.model_key, None) is None:
            raise NotFoundError(f"{request.model_key} is not loaded")
        return modelet_pb2.UnloadResponse()

    def GetStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._record("GetStatus", request, context)
        response = modelet_pb2.GetStatusResponse()
        for key, status in list(self.models.items()):
            model = response.models.add(model_key=key, model_status=status)
            model.failure_reason = self.reasons.get(key, "")
            if status == common_pb2.LOADED and request.include_method_stats:
                model.method_stats.add(method="lm.score")
                model.method_stats.add(method="lm.generate")
        return response


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Waits for something that announces itself nowhere."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it has not happened in time"
        time.sleep(0.01)
