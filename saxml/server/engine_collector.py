"""What a model server tells Prometheus of its engines, with vLLM's meanings; docs/operations.md
explains each name.

registry.register(EngineCollector(models))

Engines keep plain numbers; everything else happens here, when somebody asks.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from saxml.engine import compilations
from saxml.engine.metrics import EngineMetrics, Gauges, Histogram, Reason
from saxml.server.lifecycle import ModelTable

_Engine = tuple[str, EngineMetrics, Gauges]

_HISTOGRAMS: tuple[tuple[str, str, Callable[[EngineMetrics], Histogram]], ...] = (
    (
        "sax_time_to_first_token_seconds",
        "From the queue to the first token.",
        lambda m: m.first_token_seconds,
    ),
    (
        "sax_inter_token_latency_seconds",
        "Between two tokens of a request.",
        lambda m: m.between_tokens_seconds,
    ),
    (
        "sax_e2e_request_latency_seconds",
        "From the queue to the last token of an answer.",
        lambda m: m.request_seconds,
    ),
    (
        "sax_request_queue_time_seconds",
        "From the queue to the first step.",
        lambda m: m.queue_seconds,
    ),
    (
        "sax_request_prefill_time_seconds",
        "From the first step to the first token.",
        lambda m: m.prefill_seconds,
    ),
    (
        "sax_request_decode_time_seconds",
        "From the first token to the last of an answer.",
        lambda m: m.decode_seconds,
    ),
    ("sax_step_seconds", "Duration of a step.", lambda m: m.step_seconds),
    ("sax_step_tokens", "Tokens computed in a step.", lambda m: m.step_tokens),
    ("sax_step_rows", "Sequences in a step.", lambda m: m.step_rows),
)
_COUNTERS: tuple[tuple[str, str, Callable[[EngineMetrics, Gauges], float]], ...] = (
    ("sax_requests_started", "Requests that were queued.", lambda m, g: m.started),
    (
        "sax_prompt_tokens",
        "Tokens of the prompts that were computed.",
        lambda m, g: m.prompt_tokens,
    ),
    ("sax_generation_tokens", "Tokens that were chosen.", lambda m, g: m.generation_tokens),
    (
        "sax_num_preemptions",
        "Requests that had to make way for one of a higher priority.",
        lambda m, g: g.preemptions,
    ),
    (
        "sax_requests_stuck",
        "Requests given up because no step could be planned.",
        lambda m, g: g.stuck,
    ),
    (
        "sax_prefix_cache_queries",
        "Prompt tokens looked up in the prefix cache.",
        lambda m, g: g.prefix_queried_tokens,
    ),
    (
        "sax_prefix_cache_hits",
        "Prompt tokens found in the prefix cache.",
        lambda m, g: g.prefix_hit_tokens,
    ),
)
_BY_REASON: tuple[tuple[str, str, Callable[[EngineMetrics], Mapping[Reason, int]]], ...] = (
    ("sax_requests_finished", "Requests that ended.", lambda m: m.finished),
    (
        "sax_requests_without_token",
        "Requests that ended before anything came.",
        lambda m: m.without_token,
    ),
)
_GAUGES: tuple[tuple[str, str, Callable[[Gauges], float]], ...] = (
    ("sax_num_requests_running", "Requests that are being computed.", lambda g: g.running),
    ("sax_num_requests_waiting", "Requests in the queue.", lambda g: g.waiting),
    ("sax_queued_tokens", "Prompt tokens of the requests in the queue.", lambda g: g.queued_tokens),
    (
        "sax_kv_waste_ratio",
        "Share of the used pages that holds no tokens.",
        lambda g: g.waste,
    ),
    (
        "sax_engine_turn_seconds",
        "How long the present turn of the step loop has taken.",
        lambda g: g.turn_seconds,
    ),
)


class EngineCollector(Collector):
    """Asks the engines of all loaded models at each scrape."""

    def __init__(self, models: ModelTable) -> None:
        self._models = models

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering asks no model."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The families, from what is known now."""
        engines = [(key, s.metrics, s.gauges()) for key, s in self._models.loaded()]
        yield from _histograms(engines)
        yield from _simple(engines)
        yield from _by_reason(engines)
        yield _pages(engines)
        yield CounterMetricFamily(
            "sax_compilations",
            "Programs that this process has compiled or taken from the compile cache.",
            compilations.count(),
        )
        yield CounterMetricFamily(
            "sax_compilation_seconds", "What they took together.", compilations.seconds()
        )


def _histograms(engines: Sequence[_Engine]) -> Iterator[Metric]:
    for name, text, of in _HISTOGRAMS:
        family = HistogramMetricFamily(name, text, labels=["model"])
        for key, metrics, _ in engines:
            histogram = of(metrics)
            buckets = [
                ("+Inf" if math.isinf(bound) else str(bound), count)
                for bound, count in histogram.buckets()
            ]
            family.add_metric([key], buckets, histogram.total)
        yield family


def _simple(engines: Sequence[_Engine]) -> Iterator[Metric]:
    family: Any
    for name, text, counted in _COUNTERS:
        family = CounterMetricFamily(name, text, labels=["model"])
        for key, metrics, gauges in engines:
            family.add_metric([key], counted(metrics, gauges))
        yield family
    for name, text, gauge in _GAUGES:
        family = GaugeMetricFamily(name, text, labels=["model"])
        for key, _, gauges in engines:
            family.add_metric([key], gauge(gauges))
        yield family


def _by_reason(engines: Sequence[_Engine]) -> Iterator[Metric]:
    for name, text, of in _BY_REASON:
        family = CounterMetricFamily(name, text, labels=["model", "reason"])
        for key, metrics, _ in engines:
            for reason in Reason:
                family.add_metric([key, reason.value], of(metrics)[reason])
        yield family


def _pages(engines: Sequence[_Engine]) -> Metric:
    family = GaugeMetricFamily(
        "sax_kv_pages", "Pages of keys and values, by what they are for.", labels=["model", "state"]
    )
    for key, _, g in engines:
        family.add_metric([key, "used"], g.used_pages)
        family.add_metric([key, "cached"], g.cached_pages)
        family.add_metric([key, "free"], g.pages - g.used_pages - g.cached_pages)
    return family
