"""What an operator, the admin server and the clients see when a model server's engine stands still
or breaks, and when it is told to end while it streams. Real processes."""

import concurrent.futures
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from saxml.common.names import CellId
from saxml.proto import admin_pb2, admin_pb2_grpc, common_pb2, modelet_pb2, modelet_pb2_grpc
from saxml.storage.cell import CellStore
from tests.integration.model_server import tiny
from tests.integration.model_server.faulty_model_server import FAULT_FILE
from tests.integration.model_server.server_process import ServerProcess, serving

FAULTY = "tests.integration.model_server.faulty_model_server"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def _health(server: ServerProcess) -> int:
    stub: Any = health_pb2_grpc.HealthStub(server.client.channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=30).status)


def _model_status(server: ServerProcess) -> tuple[int, str]:
    stub: Any = modelet_pb2_grpc.ModeletStub(server.client.channel)
    asked = modelet_pb2.GetStatusRequest(include_failure_reasons=True)
    (model,) = stub.GetStatus(asked, timeout=30).models
    return model.model_status, model.failure_reason


def _until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


class _Admin(admin_pb2_grpc.AdminServicer):
    """Takes in model servers; asks one that takes leave how its models are."""

    def __init__(self) -> None:
        self.joined = 0
        self.farewell: modelet_pb2.GetStatusResponse | None = None
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        admin_pb2_grpc.add_AdminServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Join(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.model_server.servable_model_paths:
            self.joined += 1
        else:
            with grpc.insecure_channel(request.address) as channel:
                stub: Any = modelet_pb2_grpc.ModeletStub(channel)
                asked = modelet_pb2.GetStatusRequest(include_failure_reasons=True)
                self.farewell = stub.GetStatus(asked, timeout=10)
        return admin_pb2.JoinResponse()

    def stop(self) -> None:
        self._server.stop(None).wait()


def test_an_engine_that_breaks_ends_the_process_after_it_took_leave(
    tmp_path: pathlib.Path,
) -> None:
    """Its own calls fail; those on another model of the server are answered."""
    admin, fault = _Admin(), tmp_path / "fault"
    cell = CellStore(str(tmp_path / "root"), CellId("test"))
    cell.create()
    cell.write_location(admin.address)
    flags = ("--sax_cell=/sax/test", f"--sax_root={tmp_path}/root")
    env = {FAULT_FILE: str(fault)}
    models = tiny.SAMPLES, tiny.BEAMS
    with serving(tmp_path, *models, flags=flags, module=FAULTY, env=env) as server:
        client = server.client
        assert len(client.generate([1, 2, 3]).result().texts) == 2
        _until(lambda: admin.joined > 0)
        assert client.fetch("/readyz") == (200, "serving\n")
        assert client.fetch("/healthz") == (200, "ok\n")
        fault.write_text("hang")
        calls = [client.generate([i]) for i in range(6)]
        other = client.generate([1, 2, 3], model=tiny.BEAMS)
        _until(lambda: all(client.metrics(m)("num_requests_running") for m in models))
        fault.write_text("break")
        assert len(other.result().texts) == 3
        for call in calls:
            assert call.exception().code() == grpc.StatusCode.UNAVAILABLE
        assert server.process.wait(60) == 255
        assert "the device is lost" in calls[0].exception().details()
        server.process.wait_for("The model server cannot go on .* the device is lost")
    assert admin.farewell is not None
    assert [(m.model_key, m.model_status, m.failure_reason) for m in admin.farewell.models] == [
        (tiny.BEAMS, common_pb2.UNLOADING, ""),
        (tiny.SAMPLES, common_pb2.FAILED, "the engine has failed: the device is lost"),
    ]
    admin.stop()


def test_a_step_that_stands_still_makes_the_server_unready_until_it_goes_on(
    tmp_path: pathlib.Path,
) -> None:
    fault = tmp_path / "fault"
    env = {FAULT_FILE: str(fault)}
    with serving(tmp_path, tiny.SAMPLES, module=FAULTY, env=env) as server:
        client = server.client
        _until(lambda: client.fetch("/readyz") == (200, "serving\n"))
        fault.write_text("hang")
        call = client.generate([1, 2, 3])
        _until(lambda: client.fetch("/readyz")[0] == 503)
        assert "the present step has been running for" in client.fetch("/readyz")[1]
        _until(lambda: _health(server) == NOT_SERVING)
        assert client.metrics()("engine_turn_seconds") > 1
        _until(lambda: client.fetch("/healthz")[0] == 503)
        status, reason = _model_status(server)
        assert status == common_pb2.LOADING
        assert "the present step has been running for" in reason
        fault.write_text("")
        assert len(call.result().texts) == 2
        _until(lambda: _model_status(server) == (common_pb2.LOADED, ""))
        _until(lambda: client.fetch("/readyz") == (200, "serving\n"))
        _until(lambda: _health(server) == SERVING)
        assert client.fetch("/healthz") == (200, "ok\n")
        server.process.terminate()
        assert server.process.wait(60) == 0


def _texts(messages: list[Any]) -> list[list[tuple[str, int]]]:
    """What messages say; scores are rounded differently beside other requests."""
    return [[(item.text, item.prefix_len) for item in message.items] for message in messages]


@pytest.mark.parametrize("ends", ["drained", "out of time"])
def test_streams_end_as_they_would_while_the_server_drains(
    tmp_path: pathlib.Path, ends: str
) -> None:
    """SIGTERM in the midst of streams: all of their messages come, new calls are refused. With too
    little time they fail with UNAVAILABLE, and the process ends all the same."""
    fault = tmp_path / "fault"
    env = {FAULT_FILE: str(fault)}
    seconds = 60 if ends == "drained" else 1
    flags = (f"--drain_timeout={seconds}",)
    with serving(tmp_path, tiny.SAMPLES, flags=flags, module=FAULTY, env=env) as server:
        client = server.client
        whole = [list(client.stream([i, 5], temperature=1.0, seed=i + 1)) for i in range(3)]
        streams = [client.stream([i, 5], temperature=1.0, seed=i + 1) for i in range(3)]
        begun = [next(stream) for stream in streams]
        fault.write_text("hang")
        server.process.terminate()
        # The step that stands still makes the server unready too, and may do so first.
        _until(lambda: client.fetch("/readyz") == (503, "draining\n"))
        _until(lambda: _health(server) == NOT_SERVING)
        refused = client.generate([1]).exception()
        assert refused.code() == grpc.StatusCode.UNAVAILABLE
        if ends == "drained":
            fault.write_text("")
            for first, rest, wanted in zip(begun, streams, whole, strict=True):
                assert _texts([first, *rest]) == _texts(wanted)
        else:
            for stream in streams:
                with pytest.raises(grpc.RpcError) as failed:
                    list(stream)
                assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
        assert server.process.wait(60) == 0


def test_a_second_signal_ends_a_server_that_drains_at_once(tmp_path: pathlib.Path) -> None:
    fault = tmp_path / "fault"
    env = {FAULT_FILE: str(fault)}
    with serving(
        tmp_path, tiny.SAMPLES, flags=("--drain_timeout=600",), module=FAULTY, env=env
    ) as server:
        stream = server.client.stream([1, 5], temperature=1.0, seed=1)
        next(stream)
        fault.write_text("hang")
        server.process.terminate()
        server.process.wait_for("Draining for up to 600 s; a second signal ends this at once")
        _until(lambda: server.client.fetch("/readyz") == (503, "draining\n"))
        server.process.terminate()
        assert server.process.wait(10) == 128 + signal.SIGTERM
