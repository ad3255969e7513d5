"""The simulated server: times are what the table says, batches start when they may, and the same
seed gives the same."""

import dataclasses
import math

import numpy as np
import pytest

from tools.bench.mlperf_server import SERVER, V5E_4, Scenario, figures
from tools.bench.replay import Server, StepCost, replay
from tools.bench.workload import Batches, Job, Lengths, jobs

COST = StepCost(base_ms=10.0, token_ms=1.0)
SMALL = Server(num_pages=64, page_size=4, max_model_len=64, max_rows=4, buckets=(1, 4, 16))


def test_a_lone_request_takes_what_its_steps_take() -> None:
    outcome = replay([Job(2.0, 20, 3)], SMALL, COST, None)
    # 16 and 4 tokens of prompt, then two steps of one token.
    assert outcome.first == [pytest.approx((10 + 16 + 10 + 4) / 1000)]
    assert outcome.gaps == [pytest.approx(0.011)] * 2
    assert outcome.latencies == [pytest.approx(0.062)]
    assert outcome.steps == 4
    assert outcome.end_s == pytest.approx(2.062)


def test_beams_decode_with_all_their_rows() -> None:
    beams = dataclasses.replace(SMALL, width=4)
    cost = StepCost(base_ms=0.0, token_ms=0.0, row_ms=1.0)
    outcome = replay([Job(0.0, 3, 5)], beams, cost, None)
    assert outcome.gaps == [pytest.approx(0.004)] * 4
    assert outcome.first == [0.0]


def test_batches_wait_until_they_are_full_or_old_and_never_overlap() -> None:
    cost = StepCost(base_ms=100.0, token_ms=0.0)
    arrivals = [Job(t, 1, 3) for t in (0.0, 0.1, 0.5, 0.6, 0.7, 0.8)]
    outcome = replay(arrivals, SMALL, cost, Batches(2, 1.0))
    # Two at 0.1, for 0.3 s; two at 0.6; two at 0.9, when those before have ended.
    ends = [job.arrival_s + took for job, took in zip(arrivals, outcome.latencies, strict=True)]
    assert ends == pytest.approx([0.4, 0.4, 0.9, 0.9, 1.2, 1.2])
    alone = replay(arrivals[:1], SMALL, cost, Batches(2, 1.0))
    assert alone.latencies == [pytest.approx(1.3)]
    continuous = replay(arrivals, SMALL, cost, None)
    assert max(continuous.latencies) < 0.5


def test_a_batch_ends_with_its_longest_request() -> None:
    cost = StepCost(base_ms=100.0, token_ms=0.0)
    arrivals = [Job(0.0, 1, 2), Job(0.0, 1, 10), Job(0.01, 1, 2)]
    static = replay(arrivals, SMALL, cost, Batches(2, 0.0))
    assert static.latencies == pytest.approx([0.2, 1.0, 1.19])
    continuous = replay(arrivals, SMALL, cost, None)
    assert continuous.latencies[2] == pytest.approx(0.29)


def scenario(**changed: object) -> Scenario:
    defaults: dict[str, object] = {
        "count": 120,
        "seed": 3,
        "limit_s": 6.0,
        "server": SERVER,
        "cost": V5E_4,
        "batches": Batches(32, 4.0),
    }
    return Scenario(**(defaults | changed))  # type: ignore[arg-type]


def test_mlperf_server_small() -> None:
    case = scenario().calibrated(9.812)
    assert case.offline() == pytest.approx(9.812)
    static, ours = (figures(case.run(3.0, static=s)) for s in (True, False))
    assert ours["p50_s"] < static["p50_s"] / 3
    assert ours["p99_s"] < static["p99_s"]
    assert ours["gap_p99_ms"] <= 2.5 * ours["gap_p50_ms"]
    assert figures(case.run(3.0, static=False)) == ours
    assert figures(scenario(seed=4).calibrated(9.812).run(3.0, static=False)) != ours
    assert case.highest_rate(static=False, steps=3) >= case.highest_rate(static=True, steps=3) > 0


def test_jobs_are_the_same_at_any_rate() -> None:
    lengths = Lengths(40, 1.0, 2, 300)
    slow, fast = (jobs(500, lengths, lengths, rate=rate, seed=1) for rate in (1.0, 10.0))
    assert [(a.prompt, a.steps) for a in slow] == [(b.prompt, b.steps) for b in fast]
    np.testing.assert_allclose([a.arrival_s for a in slow], [10 * b.arrival_s for b in fast])
    assert slow[-1].arrival_s == pytest.approx(500, rel=0.1)
    drawn = [a.prompt for a in slow]
    assert min(drawn) == 2
    assert np.median(drawn) == pytest.approx(40, rel=0.2)
    assert np.mean(drawn) == pytest.approx(40 * math.exp(0.5), rel=0.2)
    assert {a.arrival_s for a in jobs(3, lengths, lengths, rate=math.inf, seed=1)} == {0.0}


@pytest.mark.parametrize("text", ["1,2,3", "0,1,2,3", "5,-1,2,3", "5,1,0,3", "5,1,4,3", "a,b,c,d"])
def test_bad_lengths(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Lengths.parse(text)
    assert Lengths.parse("5,1,2,30") == Lengths(5, 1, 2, 30)
