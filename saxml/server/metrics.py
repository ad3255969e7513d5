"""What a model server tells Prometheus of its models; docs/operations.md explains each name.

registry = model_registry(models)
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from saxml.proto import common_pb2, modelet_pb2
from saxml.server.engine_collector import EngineCollector
from saxml.server.lifecycle import ModelTable

_Model = modelet_pb2.GetStatusResponse.ModelWithStatus
_STATUSES = tuple(common_pb2.ModelStatus.keys())


def model_registry(models: ModelTable) -> CollectorRegistry:
    """The one registry of a model server: models, engines, and the process."""
    registry = CollectorRegistry()
    registry.register(ModelCollector(models))
    registry.register(EngineCollector(models))
    ProcessCollector(registry=registry)
    return registry


class ModelCollector(Collector):
    """Asks the table at each scrape: the same numbers as GetStatus answers."""

    def __init__(self, models: ModelTable) -> None:
        self._models = models

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering asks no model."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The families, from what is known now."""
        listed = self._models.status(failure_reasons=False, method_stats=True)
        yield GaugeMetricFamily(
            "sax_server_draining", "1 once this server has begun to leave.", self._models.draining
        )
        yield _statuses(listed)
        yield from _methods(listed)


def _statuses(listed: list[_Model]) -> Metric:
    family = GaugeMetricFamily(
        "sax_model_status",
        "1 for the status that a model has, 0 for others.",
        labels=["model", "status"],
    )
    for model in listed:
        for status in _STATUSES:
            has = common_pb2.ModelStatus.Value(status) == model.model_status
            family.add_metric([model.model_key, status], has)
    return family


def _methods(listed: list[_Model]) -> Iterator[Metric]:
    labels = ["model", "method"]
    rate = GaugeMetricFamily(
        "sax_requests_per_second",
        "Requests that ended in the last minute, by result: ok, error.",
        labels=[*labels, "result"],
    )
    pending = GaugeMetricFamily(
        "sax_requests_pending", "Requests that are being served.", labels=labels
    )
    mean = GaugeMetricFamily(
        "sax_request_mean_seconds", "Mean of the latest hundred successes.", labels=labels
    )
    quantiles = GaugeMetricFamily(
        "sax_request_quantile_seconds",
        "Quantiles of the latest hundred successes.",
        labels=[*labels, "quantile"],
    )
    for model in listed:
        for stats in model.method_stats:
            key = [model.model_key, stats.method]
            rate.add_metric([*key, "ok"], stats.successes_per_second)
            rate.add_metric([*key, "error"], stats.errors_per_second)
            pending.add_metric(key, stats.pending_reqs)
            mean.add_metric(key, stats.mean_latency_on_success_per_second)
            for name, seconds in (
                ("0.5", stats.p50_latency_on_success_per_second),
                ("0.95", stats.p95_latency_on_success_per_second),
                ("0.99", stats.p99_latency_on_success_per_second),
            ):
                quantiles.add_metric([*key, name], seconds)
    yield from (rate, pending, mean, quantiles)
