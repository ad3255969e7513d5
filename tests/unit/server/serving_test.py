"""A model server with a model that computes nothing: services, health, draining, terms."""

import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from saxml.common import errors
from saxml.common.clock import SystemClock
from saxml.common.names import TERM_METADATA
from saxml.engine.heartbeat import Stall
from saxml.proto import admin_pb2, common_pb2, lm_pb2, lm_pb2_grpc, modelet_pb2, modelet_pb2_grpc
from saxml.server.lifecycle import ModelTable
from saxml.server.serving import ModelServer
from tests.unit.server.fake_servable import FakeServable

KEY = "/sax/test/m"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(server: ModelServer, path: str) -> tuple[int, str]:
    """Status and body of a page."""
    url = f"http://localhost:{server.http_port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Running:
    """A started server and stubs to call it."""

    def __init__(self, **options: Any) -> None:
        self.servable = FakeServable(KEY)
        self.failures: list[str] = []
        self.models = ModelTable(self._build)
        self.server = ModelServer(
            self.models,
            port=0,
            cell=None,
            description=admin_pb2.ModelServer(),
            clock=SystemClock(),
            http_port=free_port(),
            on_failure=self.failures.append,
            **options,
        )
        self.server.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.server.port}")
        self.modelet: Any = modelet_pb2_grpc.ModeletStub(self.channel)
        self.lm: Any = lm_pb2_grpc.LMServiceStub(self.channel)
        self.modelet.Load(modelet_pb2.LoadRequest(model_key=KEY, model_path="p.M"), timeout=10)

    def _build(
        self, key: str, path: str, checkpoint: str, overrides: Mapping[str, str]
    ) -> FakeServable:
        return self.servable

    def generate(self, text: str) -> Any:
        request = lm_pb2.GenerateRequest(model_key=KEY, text=text)
        return self.lm.Generate.future(request, timeout=20)

    def health(self, service: str = "") -> int:
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        response = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        return int(response.status)

    def model_status(self) -> tuple[int, str]:
        """Of the one model, with the reason."""
        asked = modelet_pb2.GetStatusRequest(include_failure_reasons=True)
        (model,) = self.modelet.GetStatus(asked, timeout=10).models
        return model.model_status, model.failure_reason

    def statuses(self) -> list[int]:
        response = self.modelet.GetStatus(modelet_pb2.GetStatusRequest(), timeout=10)
        return [m.model_status for m in response.models]


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.servable.gate.set()
    running.server.stop()
    running.channel.close()


def test_calls_of_models_leave_threads_for_all_else() -> None:
    running = Running(max_calls=3)
    running.servable.gate.clear()
    calls = [running.generate("x") for _ in range(2)]
    stream = running.lm.GenerateStream(lm_pb2.GenerateRequest(model_key=KEY, text="ab"), timeout=20)
    for _ in range(200):
        if sum(stats.to_proto().pending_reqs for stats in running.servable.stats.values()) == 3:
            break
        time.sleep(0.01)
    for _ in range(100):
        with pytest.raises(grpc.RpcError) as refused:
            running.generate("x").result()
        error = errors.from_rpc_error(refused.value)
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "this model server serves 3 of all its models" in str(error)
        assert error.retry_after_s == 0.5
    assert running.health() == SERVING
    assert running.statuses() == [common_pb2.LOADED]
    running.servable.gate.set()
    assert [call.result().texts[0].text for call in calls] == ["x", "x"]
    assert "".join(m.items[0].text for m in stream) == "ab"
    assert running.generate("y").result().texts[0].text == "y"
    running.server.stop()
    running.channel.close()


def test_services_answer_and_are_healthy(running: Running) -> None:
    assert running.generate("hi").result().texts[0].text == "hi"
    stream = running.lm.GenerateStream(lm_pb2.GenerateRequest(model_key=KEY, text="abc"), timeout=9)
    assert "".join(m.items[0].text for m in stream) == "abc"
    embedded = running.lm.Embed(lm_pb2.EmbedRequest(model_key=KEY, text="ab"), timeout=9)
    assert [*embedded.embedding] == [97, 98]
    wanted = lm_pb2.GradientRequest(model_key=KEY, prefix="abc", suffix="d")
    gradient = running.lm.Gradient(wanted, timeout=9)
    assert [*gradient.score] == [-1.5]
    assert {k: [*g.values] for k, g in gradient.gradients.items()} == {
        "gradients/inputs/embeddings": [3, 1]
    }
    assert running.health() == running.health("sax.server.lm.LMService") == SERVING
    assert fetch(running.server, "/healthz")[0] == 200
    assert fetch(running.server, "/readyz") == (200, "serving\n")
    assert (
        f'sax_model_status{{model="{KEY}",status="LOADED"}} 1.0'
        in fetch(running.server, "/metrics")[1]
    )


def test_requests_in_flight_end_while_new_ones_are_refused(running: Running) -> None:
    running.servable.gate.clear()
    in_flight = running.generate("late")
    while not running.servable.stats["lm.generate"].to_proto().pending_reqs:
        time.sleep(0.01)
    drained: list[bool] = []
    draining = threading.Thread(target=lambda: drained.append(running.server.drain(20)))
    draining.start()
    while running.health() != NOT_SERVING:
        time.sleep(0.01)
    while running.statuses() != [common_pb2.UNLOADING]:
        time.sleep(0.01)
    assert fetch(running.server, "/readyz") == (503, "draining\n")
    refused = running.generate("new")
    assert refused.exception().code() == grpc.StatusCode.UNAVAILABLE
    assert draining.is_alive()
    running.servable.gate.set()
    assert in_flight.result().texts[0].text == "late"
    draining.join()
    assert drained == [True]


def test_drain_gives_up_in_time(running: Running) -> None:
    running.servable.gate.clear()
    stuck = running.generate("stuck")
    while not running.servable.stats["lm.generate"].to_proto().pending_reqs:
        time.sleep(0.01)
    assert not running.server.drain(0.05)
    stuck.cancel()


def test_term_that_is_over_cannot_load_or_unload(running: Running) -> None:
    def unload(term: str) -> grpc.StatusCode | None:
        request = modelet_pb2.UnloadRequest(model_key="/sax/test/other")
        call = running.modelet.Unload.future(request, timeout=10, metadata=((TERM_METADATA, term),))
        return call.exception().code()  # type: ignore[no-any-return]

    assert unload("4") == grpc.StatusCode.NOT_FOUND
    assert unload("3") == grpc.StatusCode.FAILED_PRECONDITION
    assert running.statuses() == [common_pb2.LOADED]


def test_port_in_use_is_refused_by_number(running: Running) -> None:
    with pytest.raises(errors.FailedPreconditionError, match=f"port {running.server.port}"):
        ModelServer(
            running.models,
            port=running.server.port,
            cell=None,
            description=admin_pb2.ModelServer(),
            clock=SystemClock(),
        )


def test_model_that_failed_makes_the_server_unready(running: Running) -> None:
    running.servable.failure = errors.UnavailableError("the engine has failed: boom")
    assert fetch(running.server, "/readyz") == (503, f"{KEY}: the engine has failed: boom\n")
    assert fetch(running.server, "/healthz")[0] == 503
    while running.health() != NOT_SERVING:
        time.sleep(0.01)
    while not running.failures:
        time.sleep(0.01)
    assert running.failures == [f"{KEY}: the engine has failed: boom"]


def test_step_that_takes_too_long_makes_the_server_unready_until_it_goes_on(
    running: Running,
) -> None:
    running.servable.stall = Stall(61, 60)
    assert fetch(running.server, "/readyz") == (503, f"{KEY}: {running.servable.stall}\n")
    assert fetch(running.server, "/healthz")[0] == 200
    while running.health() != NOT_SERVING:
        time.sleep(0.01)
    assert running.model_status() == (common_pb2.LOADING, str(running.servable.stall))
    running.servable.stall = None
    assert running.model_status() == (common_pb2.LOADED, "")
    assert fetch(running.server, "/readyz") == (200, "serving\n")
    while running.health() != SERVING:
        time.sleep(0.01)
    assert running.failures == []


def test_http_port_in_use_is_refused_by_number(running: Running) -> None:
    other = ModelServer(
        ModelTable(running._build),
        port=0,
        cell=None,
        description=admin_pb2.ModelServer(),
        clock=SystemClock(),
        http_port=running.server.http_port,
    )
    with pytest.raises(errors.FailedPreconditionError, match=str(running.server.http_port)):
        other.start()
    other.stop()


def test_calls_are_counted_by_method_and_code(running: Running) -> None:
    running.generate("hi").result()
    with pytest.raises(grpc.RpcError):
        running.lm.Embed(lm_pb2.EmbedRequest(model_key="/sax/test/other"), timeout=9)
    page = fetch(running.server, "/metrics")[1]
    method = "sax.server.lm.LMService"
    assert f'sax_rpcs_total{{code="OK",method="{method}/Generate"}} 1.0' in page
    assert f'sax_rpcs_total{{code="NOT_FOUND",method="{method}/Embed"}} 1.0' in page
