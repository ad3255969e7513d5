"""The batching benchmark: what it compares, and one run of each side on a real engine."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest

from saxml.engine.engine import Engine
from tools.bench import continuous_batching, engine_run
from tools.bench.continuous_batching import Plan
from tools.bench.workload import Batches, Job

PLAN = Plan(
    count=60,
    rounds=2,
    seed=1,
    batches=Batches(16, 0.1),
    static=(0.2, 0.4),
    continuous=(0.4, 0.8),
    mixed=0.6,
    long=512,
)


@pytest.fixture(scope="module", params=[None, "bfloat16"], ids=["plain", "kernels"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = engine_run.make_engine(4, (4, 32), lambda text: None, request.param)
    yield made
    made.check_integrity()
    assert made.gauges().used_pages == 0
    made.stop()


@pytest.mark.parametrize("batches", [None, Batches(2, 0.01)])
def test_all_requests_are_served(engine: Engine, batches: Batches | None) -> None:
    todo = [Job(0.01 * n, 3 + 7 * n, 1 + n) for n in range(5)]
    done: list[int] = []
    run = engine_run.serve(engine, todo, batches, progress=done.append)
    assert run.tokens == 15
    assert len(run.gaps) == len(run.cpu_gaps) == 15 - 5
    assert min(run.gaps) > 0
    assert all(0 < a <= b for a, b in zip(run.first, run.latencies, strict=True))
    assert sum(done) == 5
    assert run.seconds == pytest.approx(
        max(j.arrival_s + s for j, s in zip(todo, run.latencies, strict=True))
    )


def test_a_batch_runs_to_its_end_before_the_next_one(engine: Engine) -> None:
    todo = [Job(0.0, 4, 40), Job(0.0, 4, 2), Job(0.0, 4, 2)]
    run = engine_run.serve(engine, todo, Batches(2, 0.0))
    assert run.first[2] > run.latencies[0] > run.latencies[1]
    assert engine_run.serve(engine, todo, None).latencies[2] < run.latencies[2]


def test_step_costs_are_those_of_every_bucket(engine: Engine) -> None:
    costs = engine_run.step_costs(engine)
    assert list(costs) == [4, 32]
    assert 0 < costs[4] < 60


def test_replay_finds_more_output_at_the_same_p99() -> None:
    costs = {16: 0.003, 32: 0.0045, 64: 0.007, 256: 0.025}
    found = continuous_batching.replayed(PLAN, costs, 16, list(costs))
    assert found["ratio"] >= 2
    assert found["mixed"]["ratio"] <= 2
    assert {(row["side"], row["part"]) for row in found["rows"]} == {
        ("static", 0.2),
        ("static", 0.4),
        ("continuous", 0.4),
        ("continuous", 0.8),
    }


def test_comparison_is_at_twice_the_lowest_p99_of_static_batching() -> None:
    def row(side: str, part: float, tokens: float, p99: float) -> dict[str, object]:
        return {"side": side, "part": part, "tokens_per_s": tokens, "p99_s": p99}

    rows = [
        row("static", 0.4, 300.0, 2.1),
        row("static", 0.1, 100.0, 1.0),
        row("static", 0.2, 200.0, 1.5),
        row("continuous", 0.4, 310.0, 0.5),
        row("continuous", 0.8, 500.0, 2.0),
        row("continuous", 0.9, 600.0, 2.2),
    ]
    assert continuous_batching.compare(rows) == {
        "limit_s": 2.0,
        "best": {"static": 200.0, "continuous": 500.0},
        "ratio": 2.5,
    }
    late = [*rows[:3], row("continuous", 0.4, 310.0, 9.0)]
    assert math.isnan(continuous_batching.compare(late)["ratio"])


def test_mixed_load_has_long_prompts() -> None:
    plain, mixed = PLAN.jobs(5.0, 0), PLAN.mixed_jobs(5.0, 0)
    assert [n for n, job in enumerate(mixed) if job.prompt == 512] == [0, 20, 40]
    assert [dataclasses.replace(job, prompt=0) for job in plain] == [
        dataclasses.replace(job, prompt=0) for job in mixed
    ]
    assert np.mean([job.steps for job in plain]) > 10
