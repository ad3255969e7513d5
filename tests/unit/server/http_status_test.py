"""The HTTP port of a model server, and what its metrics say of a table of models."""

import pathlib
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping

import pytest
from prometheus_client import CollectorRegistry, Gauge

from saxml.common import errors
from saxml.common.metrics import RpcMetrics
from saxml.engine.metrics import Reason, Timeline
from saxml.proto import common_pb2
from saxml.server.http_status import HttpStatus
from saxml.server.lifecycle import ModelTable
from saxml.server.metrics import model_registry
from tests.unit.server.fake_servable import FakeServable


class _Site:
    def __init__(self) -> None:
        self.ready = (True, "serving")
        self.registry = CollectorRegistry()
        self.http = HttpStatus(lambda: self.ready, self.registry)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(
                f"http://localhost:{self.http.port}{path}", timeout=10
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture
def site() -> Iterator[_Site]:
    site = _Site()
    site.http.start("localhost", 0)
    yield site
    site.http.stop()


def test_readiness_follows_what_is_asked(site: _Site) -> None:
    assert site.get("/readyz") == (200, "serving\n")
    site.ready = (False, "draining")
    assert site.get("/readyz") == (503, "draining\n")
    assert site.get("/healthz") == (200, "ok\n")
    assert site.get("/nothing")[0] == 404


def test_a_slow_metric_keeps_nobody_waiting(site: _Site) -> None:
    gate, asked = threading.Event(), threading.Event()

    def slow() -> float:
        asked.set()
        gate.wait(10)
        return 5.0

    Gauge("slow", "x", registry=site.registry).set_function(slow)
    found: list[tuple[int, str]] = []
    scrape = threading.Thread(target=lambda: found.append(site.get("/metrics")))
    scrape.start()
    assert asked.wait(10)
    assert site.get("/healthz") == (200, "ok\n")
    gate.set()
    scrape.join()
    assert found[0][0] == 200
    assert "slow 5.0" in found[0][1]


def test_a_port_in_use_is_an_os_error() -> None:
    with socket.create_server(("localhost", 0)) as taken:
        other = _Site()
        with pytest.raises(OSError, match="address already in use"):
            other.http.start("localhost", taken.getsockname()[1])
        other.http.stop()


def test_a_stopped_port_is_free() -> None:
    site = _Site()
    site.http.start("localhost", 0)
    site.http.stop()
    site.http.stop()
    with socket.create_server(("localhost", site.http.port)):
        pass


def _table() -> tuple[ModelTable, CollectorRegistry]:
    def build(key: str, path: str, checkpoint: str, overrides: Mapping[str, str]) -> FakeServable:
        if path == "p.Bad":
            raise errors.NotFoundError("no such checkpoint")
        return FakeServable(key)

    models = ModelTable(build)
    return models, model_registry(models)


def test_models_are_told_by_status() -> None:
    models, registry = _table()
    models.load("/sax/test/lm", "p.Lm", "None", {}, {})
    with pytest.raises(errors.NotFoundError):
        models.load("/sax/test/bad", "p.Bad", "None", {}, {})

    def status(model: str) -> list[str]:
        return [
            name
            for name in common_pb2.ModelStatus.keys()  # noqa: SIM118 (an enum wrapper is no dict)
            if registry.get_sample_value("sax_model_status", {"model": model, "status": name})
        ]

    assert status("/sax/test/lm") == ["LOADED"]
    assert status("/sax/test/bad") == ["FAILED"]
    assert registry.get_sample_value("sax_server_draining") == 0
    models.start_draining()
    assert registry.get_sample_value("sax_server_draining") == 1
    assert status("/sax/test/lm") == ["UNLOADING"]


def test_methods_are_told_as_get_status_has_them() -> None:
    models, registry = _table()
    models.load("/sax/test/lm", "p.Lm", "None", {}, {})
    stats = models.get("/sax/test/lm").stats["lm.generate"]
    with stats.admit("/sax/test/lm"):
        labels = {"model": "/sax/test/lm", "method": "lm.generate"}
        assert registry.get_sample_value("sax_requests_pending", labels) == 1
    assert registry.get_sample_value("sax_requests_pending", labels) == 0
    rate = registry.get_sample_value("sax_requests_per_second", {**labels, "result": "ok"})
    assert rate == pytest.approx(1 / 60)
    assert registry.get_sample_value("sax_request_mean_seconds", labels) is not None
    quantile = {**labels, "quantile": "0.99"}
    assert registry.get_sample_value("sax_request_quantile_seconds", quantile) is not None


def test_the_table_of_metrics_and_the_registry_agree() -> None:
    models, registry = _table()
    RpcMetrics(registry)
    models.load("/sax/test/lm", "p.Lm", "None", {}, {})
    text = pathlib.Path("docs/operations.md").read_text()
    table = text.split("### Of a model server")[1].split("\n### ")[0]
    documented = dict(re.findall(r"^\| `(sax_\w+)` \| (\w+)", table, re.MULTILINE))
    offered = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in registry.collect()
        if not family.name.startswith("process_")
    }
    assert documented == offered


def test_engines_are_told_by_model() -> None:
    models, registry = _table()
    models.load("/sax/test/lm", "p.Lm", "None", {}, {})
    metrics = models.get("/sax/test/lm").metrics
    line = Timeline(5, generates=True, now=10.0)
    metrics.submitted()
    metrics.admitted(line, 10.5)
    for end in (12.0, 12.25):
        metrics.emitted(line, 1, end)
        metrics.stepped(5, 1, end - 0.25, end)
    metrics.finished_with(line, Reason.STOP, 13.0)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"model": "/sax/test/lm", **labels})

    assert value("sax_requests_started_total") == 1
    assert value("sax_requests_finished_total", reason="stop") == 1
    assert value("sax_requests_finished_total", reason="failed") == 0
    assert value("sax_time_to_first_token_seconds_sum") == 2
    assert value("sax_time_to_first_token_seconds_bucket", le="1.0") == 0
    assert value("sax_time_to_first_token_seconds_bucket", le="2.0") == 1
    assert value("sax_time_to_first_token_seconds_bucket", le="+Inf") == 1
    assert value("sax_inter_token_latency_seconds_sum") == 0.25
    assert value("sax_e2e_request_latency_seconds_count") == 1
    assert value("sax_generation_tokens_total") == 2
    assert value("sax_kv_pages", state="used") == 0
    assert registry.get_sample_value("sax_compilations_total") is not None
    models.unload("/sax/test/lm")
    assert value("sax_requests_started_total") is None
