import asyncio
import concurrent.futures
import logging
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from saxml.common import errors
from saxml.common.aio_errors import AioStatusInterceptor
from saxml.common.errors import StatusInterceptor
from saxml.proto import lm_pb2, lm_pb2_grpc


def _boom(kind: str) -> None:
    if kind == "sax":
        raise errors.ResourceExhaustedError("full")
    if kind == "value":
        raise ValueError("no such thing")
    if kind == "bug":
        raise KeyError("oops")


class Service(lm_pb2_grpc.LMServiceServicer):
    def Generate(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.text == "abort":
            context.abort(grpc.StatusCode.DATA_LOSS, "by hand")
        _boom(request.text)
        return lm_pb2.GenerateResponse()

    def GenerateStream(self, request: Any, context: Any) -> Any:  # noqa: N802
        yield lm_pb2.GenerateStreamResponse()
        _boom(request.text)


class AioService(lm_pb2_grpc.LMServiceServicer):
    async def Generate(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.text == "abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "by hand")
        _boom(request.text)
        return lm_pb2.GenerateResponse()

    async def GenerateStream(self, request: Any, context: Any) -> Any:  # noqa: N802
        yield lm_pb2.GenerateStreamResponse()
        _boom(request.text)


EXPECTED = {
    "sax": (grpc.StatusCode.RESOURCE_EXHAUSTED, "full"),
    "value": (grpc.StatusCode.INVALID_ARGUMENT, "no such thing"),
    "bug": (grpc.StatusCode.INTERNAL, "KeyError: 'oops'"),
}


def _check(stub: Any, call: Callable[[Any], Any]) -> None:
    for kind, (code, text) in EXPECTED.items():
        with pytest.raises(grpc.RpcError) as caught:
            call(lm_pb2.GenerateRequest(text=kind))
        status = errors.from_rpc_error(caught.value)
        assert (status.code, str(status)) == (code, text)
        assert type(status) is type(errors.from_code(code, ""))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Generate(lm_pb2.GenerateRequest(text="abort"))
    assert errors.from_rpc_error(caught.value).code is grpc.StatusCode.DATA_LOSS


def test_exceptions_of_handlers_get_their_status(caplog: pytest.LogCaptureFixture) -> None:
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(2), interceptors=[StatusInterceptor()]
    )
    lm_pb2_grpc.add_LMServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with (
        caplog.at_level(logging.ERROR, "saxml"),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub: Any = lm_pb2_grpc.LMServiceStub(channel)
        _check(stub, stub.Generate)
        _check(stub, lambda request: list(stub.GenerateStream(request)))
        stub.Generate(lm_pb2.GenerateRequest())
        assert len(caplog.messages) == 2, "only what is not meant for the user is logged"
        assert all("failed" in line for line in caplog.messages)
    server.stop(None)


def test_when_to_try_again_travels_with_the_error() -> None:
    class Busy(lm_pb2_grpc.LMServiceServicer):
        def Generate(self, request: Any, context: Any) -> Any:  # noqa: N802
            full = errors.ResourceExhaustedError("full")
            full.retry_after_s = 0.25
            raise full

    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(2), interceptors=[StatusInterceptor()]
    )
    lm_pb2_grpc.add_LMServiceServicer_to_server(Busy(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    request = lm_pb2.GenerateRequest()

    async def call_aio() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            aio: Any = lm_pb2_grpc.LMServiceStub(channel)
            await aio.Generate(request)

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = lm_pb2_grpc.LMServiceStub(channel)
        for call in (lambda: stub.Generate(request), lambda: asyncio.run(call_aio())):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert errors.from_rpc_error(caught.value).retry_after_s == 0.25
    server.stop(None)


def test_exceptions_of_coroutine_handlers_get_their_status() -> None:
    async def run() -> None:
        server = grpc.aio.server(interceptors=[AioStatusInterceptor()])
        lm_pb2_grpc.add_LMServiceServicer_to_server(AioService(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = lm_pb2_grpc.LMServiceStub(channel)
            for kind, (code, text) in EXPECTED.items():
                request = lm_pb2.GenerateRequest(text=kind)
                with pytest.raises(grpc.RpcError) as caught:
                    await stub.Generate(request)
                status = errors.from_rpc_error(caught.value)
                assert (status.code, str(status)) == (code, text)
                with pytest.raises(grpc.RpcError) as caught:
                    async for _ in stub.GenerateStream(request):
                        pass
                assert errors.from_rpc_error(caught.value).code is code
            with pytest.raises(grpc.RpcError) as caught:
                await stub.Generate(lm_pb2.GenerateRequest(text="abort"))
            assert errors.from_rpc_error(caught.value).code is grpc.StatusCode.DATA_LOSS
            await stub.Generate(lm_pb2.GenerateRequest())
        await server.stop(None)

    asyncio.run(run())


def test_every_code_becomes_an_error_that_carries_it() -> None:
    for code in grpc.StatusCode:
        assert errors.from_code(code, "text").code is code
    assert isinstance(errors.from_code(grpc.StatusCode.NOT_FOUND, ""), errors.NotFoundError)
    assert errors.NotFoundError.code is grpc.StatusCode.NOT_FOUND
