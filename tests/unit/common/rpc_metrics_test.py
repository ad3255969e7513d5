import asyncio
from concurrent import futures
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from saxml.common.aio_errors import AioStatusInterceptor
from saxml.common.errors import NotFoundError, StatusInterceptor
from saxml.common.metrics import AioRpcInterceptor, RpcInterceptor, RpcMetrics
from saxml.proto import admin_pb2, admin_pb2_grpc

_LIST = "sax.Admin/List"


class _Service(admin_pb2_grpc.AdminServicer):
    def List(self, request: Any, context: Any) -> Any:  # noqa: N802
        return _answer(request)


class _AioService(admin_pb2_grpc.AdminServicer):
    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.model_id == "slow":
            await asyncio.sleep(60)
        return _answer(request)


def _answer(request: Any) -> admin_pb2.ListResponse:
    if request.model_id == "missing":
        raise NotFoundError("it is not there")
    if request.model_id == "bug":
        raise KeyError("x")
    return admin_pb2.ListResponse()


def _count(registry: CollectorRegistry, code: str, method: str = _LIST) -> float:
    return registry.get_sample_value("sax_rpcs_total", {"method": method, "code": code}) or 0.0


def _list(stub: Any, model_id: str, timeout: float = 10) -> None:
    stub.List(admin_pb2.ListRequest(model_id=model_id), timeout=timeout)


def _ask_all(stub: Any) -> None:
    _list(stub, "")
    for bad in ("missing", "bug"):
        with pytest.raises(grpc.RpcError):
            _list(stub, bad)


def test_a_threaded_server_counts_by_method_and_code() -> None:
    registry = CollectorRegistry()
    server = grpc.server(
        futures.ThreadPoolExecutor(2),
        interceptors=[RpcInterceptor(RpcMetrics(registry)), StatusInterceptor()],
    )
    admin_pb2_grpc.add_AdminServicer_to_server(_Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        _ask_all(admin_pb2_grpc.AdminStub(channel))
    server.stop(1.0).wait()
    assert [_count(registry, c) for c in ("OK", "NOT_FOUND", "INTERNAL")] == [1, 1, 1]
    assert registry.get_sample_value("sax_rpc_seconds_count", {"method": _LIST}) == 3


def test_an_async_server_counts_by_method_and_code() -> None:
    registry = CollectorRegistry()

    async def run() -> None:
        server = grpc.aio.server(
            interceptors=[AioRpcInterceptor(RpcMetrics(registry)), AioStatusInterceptor()]
        )
        admin_pb2_grpc.add_AdminServicer_to_server(_AioService(), server)
        servicer: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()

        def ask() -> None:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub: Any = admin_pb2_grpc.AdminStub(channel)
                _ask_all(stub)
                with pytest.raises(grpc.RpcError):
                    _list(stub, "slow", timeout=0.2)
                watch: Any = health_pb2_grpc.HealthStub(channel)
                answers = watch.Watch(health_pb2.HealthCheckRequest(), timeout=10)
                assert next(answers).status == health_pb2.HealthCheckResponse.SERVING
                answers.cancel()

        await asyncio.to_thread(ask)
        await asyncio.sleep(0.2)
        await server.stop(1.0)

    asyncio.run(run())
    codes = ("OK", "NOT_FOUND", "INTERNAL", "CANCELLED")
    assert [_count(registry, c) for c in codes] == [1, 1, 1, 1]
    assert _count(registry, "CANCELLED", "grpc.health.v1.Health/Watch") == 1


def test_bytes_that_are_no_message_are_an_invalid_argument() -> None:
    registry = CollectorRegistry()
    server = grpc.server(
        futures.ThreadPoolExecutor(2),
        interceptors=[RpcInterceptor(RpcMetrics(registry)), StatusInterceptor()],
    )
    admin_pb2_grpc.add_AdminServicer_to_server(_Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(f"/{_LIST}", None, None)
        with pytest.raises(grpc.RpcError) as error:
            call(b"\xff\xff", timeout=10)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert (error.value.details() or "").startswith("the request cannot be read: ")
    server.stop(1.0).wait()
    assert _count(registry, "INVALID_ARGUMENT") == 1


def test_callers_cannot_make_up_methods() -> None:
    registry = CollectorRegistry()
    server = grpc.server(
        futures.ThreadPoolExecutor(2), interceptors=[RpcInterceptor(RpcMetrics(registry))]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/made/up", None, None)
        with pytest.raises(grpc.RpcError) as error:
            call(b"", timeout=10)
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
    server.stop(None).wait()
    assert "made/up" not in str(list(registry.collect()))
