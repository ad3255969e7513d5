"""What an admin server tells Prometheus; docs/operations.md explains each name.

metrics = AdminMetrics(standing, manager)
metrics.text()                                  # the exposition, of this process alone
metrics.reconciled(0.012)                       # once a decision
"""

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from saxml.admin import snapshot
from saxml.admin.joined import STATES
from saxml.admin.manager import Manager
from saxml.admin.standing import Standing
from saxml.common.metrics import RpcMetrics

_RECONCILE_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class AdminMetrics:
    """A registry of its own: two admin servers in one process do not add up."""

    def __init__(
        self, standing: Callable[[], Standing], manager: Callable[[], Manager | None]
    ) -> None:
        """`standing` and `manager` are asked at each scrape; no manager: nothing is managed."""
        self.registry = CollectorRegistry()
        self.rpcs = RpcMetrics(self.registry)
        self._reconcile = Histogram(
            "sax_admin_reconcile_seconds",
            "Seconds that deciding took: who shall load and unload what.",
            buckets=_RECONCILE_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_CellCollector(standing, manager))
        ProcessCollector(registry=self.registry)

    def reconciled(self, seconds: float) -> None:
        """Notes how long one decision took."""
        self._reconcile.observe(seconds)

    def text(self) -> bytes:
        """The exposition; call it in the manager's event loop."""
        return generate_latest(self.registry)


class _CellCollector(Collector):
    def __init__(
        self, standing: Callable[[], Standing], manager: Callable[[], Manager | None]
    ) -> None:
        self._standing, self._manager = standing, manager

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering asks no manager."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The families, from what is known now."""
        yield from _of_standing(self._standing())
        manager = self._manager()
        if manager is not None:
            yield from _of_cell(manager)


def _of_standing(standing: Standing) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "sax_admin_is_leader", "1 on the admin server that leads the cell.", standing.is_leader
    )
    yield GaugeMetricFamily("sax_admin_term", "The term of the lease seen last.", standing.term)
    yield GaugeMetricFamily(
        "sax_admin_lease_age_seconds",
        "Seconds since this process read or renewed the lease; +Inf before the first time.",
        standing.view_age_s,
    )
    renewals = CounterMetricFamily(
        "sax_admin_lease_renewals", "Renewals of the lease by this process.", labels=["result"]
    )
    renewals.add_metric(["ok"], standing.renewals)
    renewals.add_metric(["failed"], standing.failed_renewals)
    yield renewals


def _of_cell(manager: Manager) -> Iterator[Metric]:
    states = Counter(server.state for server in manager.servers.values())
    servers = GaugeMetricFamily(
        "sax_admin_servers", "Joined model servers, by state.", labels=["state"]
    )
    for state in STATES:
        servers.add_metric([state.lower()], states[state])
    yield servers
    rows = snapshot.models(manager)
    yield GaugeMetricFamily("sax_admin_models", "Published models.", len(rows))
    wanted = GaugeMetricFamily(
        "sax_admin_replicas_wanted", "Replicas that were asked for.", labels=["model"]
    )
    assigned = GaugeMetricFamily(
        "sax_admin_replicas_assigned", "Replicas that servers were told to hold.", labels=["model"]
    )
    ready = GaugeMetricFamily(
        "sax_admin_replicas_ready", "Replicas that serve requests.", labels=["model"]
    )
    for row in rows:
        wanted.add_metric([row.name], row.wanted)
        assigned.add_metric([row.name], row.assigned)
        ready.add_metric([row.name], row.ready)
    yield from (wanted, assigned, ready)
