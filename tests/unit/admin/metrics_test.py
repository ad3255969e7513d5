import asyncio
import pathlib
from collections.abc import Awaitable, Callable

import grpc
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from saxml.admin.metrics import AdminMetrics
from saxml.admin.standing import Standing
from tests.unit.admin.fakes import FakeRpcError, World

_LEADING = Standing(is_leader=True, term=7, renewals=12, failed_renewals=1, view_age_s=0.5)


def _values(metrics: AdminMetrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def _story(name: str, tell: Callable[[World, AdminMetrics], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World(name)
        await world.manager.restore()
        await tell(world, AdminMetrics(lambda: _LEADING, lambda: world.manager))
        await world.manager.close()

    asyncio.run(run())


def test_leadership_is_told() -> None:
    async def tell(world: World, metrics: AdminMetrics) -> None:
        values = _values(metrics)
        assert values[("sax_admin_is_leader",)] == 1
        assert values[("sax_admin_term",)] == 7
        assert values[("sax_admin_lease_age_seconds",)] == 0.5
        assert values[("sax_admin_lease_renewals_total", "ok")] == 12
        assert values[("sax_admin_lease_renewals_total", "failed")] == 1

    _story("metrics-leader", tell)


def test_servers_and_replicas_are_counted() -> None:
    async def tell(world: World, metrics: AdminMetrics) -> None:
        one = await world.join("a:1")
        await world.join("b:1")
        one.gate.clear()
        await world.publish("lm", 3)
        values = _values(metrics)
        assert values[("sax_admin_servers", "active")] == 2
        assert values[("sax_admin_servers", "silent")] == 0
        assert values[("sax_admin_models",)] == 1
        assert values[("sax_admin_replicas_wanted", "/sax/test/lm")] == 3
        assert values[("sax_admin_replicas_assigned", "/sax/test/lm")] == 2
        assert values[("sax_admin_replicas_ready", "/sax/test/lm")] == 1
        one.status_error = FakeRpcError(grpc.StatusCode.UNAVAILABLE, "connection refused")
        two = world.modelets["b:1"]
        two.state.state = two.state.DORMANT
        await world.poll("a:1")
        await world.poll("b:1")
        values = _values(metrics)
        states = ("active", "dormant", "draining", "silent")
        assert [values[("sax_admin_servers", s)] for s in states] == [0, 1, 0, 1]
        two.status_error = one.status_error
        await world.poll("b:1")
        assert _values(metrics)[("sax_admin_servers", "silent")] == 2
        one.gate.set()

    _story("metrics-cell", tell)


def test_a_standby_tells_no_servers() -> None:
    metrics = AdminMetrics(Standing, lambda: None)
    values = _values(metrics)
    assert values[("sax_admin_is_leader",)] == 0
    assert values[("sax_admin_lease_age_seconds",)] == float("inf")
    assert not any(name[0].startswith("sax_admin_servers") for name in values)


def test_decisions_and_rpcs_are_timed() -> None:
    metrics = AdminMetrics(Standing, lambda: None)
    metrics.reconciled(0.02)
    metrics.rpcs.note("/sax.Admin/List", grpc.StatusCode.OK, 0.002)
    metrics.rpcs.note("/sax.Admin/List", grpc.StatusCode.NOT_FOUND, 0.002)
    values = _values(metrics)
    assert values[("sax_admin_reconcile_seconds_count",)] == 1
    assert values[("sax_admin_reconcile_seconds_bucket", "0.03")] == 1
    assert values[("sax_rpcs_total", "OK", "sax.Admin/List")] == 1
    assert values[("sax_rpcs_total", "NOT_FOUND", "sax.Admin/List")] == 1
    assert values[("sax_rpc_seconds_count", "sax.Admin/List")] == 2


def test_two_servers_in_a_process_do_not_add_up() -> None:
    one, two = (AdminMetrics(Standing, lambda: None) for _ in range(2))
    one.reconciled(1.0)
    assert _values(two)[("sax_admin_reconcile_seconds_count",)] == 0
    assert isinstance(one.registry, CollectorRegistry)


def test_every_name_is_documented() -> None:
    async def tell(world: World, metrics: AdminMetrics) -> None:
        await world.join("a:1")
        await world.publish("lm")
        metrics.rpcs.note("/sax.Admin/List", grpc.StatusCode.OK, 0.002)
        text = pathlib.Path("docs/operations.md").read_text()
        for family in text_string_to_metric_families(metrics.text().decode()):
            # Prometheus clients add the time of creation to what they count.
            if family.name.startswith("sax_") and not family.name.endswith("_created"):
                shown = family.name + ("_total" if family.type == "counter" else "")
                assert f"`{shown}" in text, shown

    _story("metrics-documented", tell)
