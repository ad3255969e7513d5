"""Continuous against static batching on the same engine: continuous_batching [--help].

Requests come at random (Poisson), prompts and answers have lognormal lengths, the model is a small
Llama with random weights (saxml.engine on this machine's CPU). Compared, in turn, are

  static       batches of up to --rows requests, which start when they are full or their oldest
               request has waited --wait seconds, and run to their end before the next one starts
  continuous   requests start as soon as a row is free: what the engine does

With --weights=plain the decode step of both has room for all rows and costs the same however many
are taken, as in servers that compile for a batch size and on devices that are bound by reading
weights; the CPU kernels, which the other weights are for, compute only the rows that there are.
Rates are
parts of the engine's capacity, which is measured first with all requests there at once. Latencies
of all rounds of a rate are taken together. The limit of the p99 is twice what static batching has
at its lowest rate; compared are the output tokens a second at the highest rate of each side that
keeps it.

Then a mixed load: continuous, at --mixed of the capacity, every twentieth prompt of --long tokens;
reported is the time between two tokens of a request, and the CPU time of this process between them,
which other programs do not lengthen.

At last the same is replayed with the step costs that were measured (mlperf_server does so too):
what the scheduler makes of the load on a machine that does nothing else.
"""

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import psutil
import tqdm  # type: ignore[import-untyped]

from saxml.ops.backend import Element
from tools.bench import engine_run
from tools.bench.replay import MeasuredCost, Outcome, Server, replay
from tools.bench.workload import Batches, Job, Lengths, jobs, quantile, write_json

PROMPTS = Lengths(median=32, sigma=0.8, low=4, high=256)
ANSWERS = Lengths(median=32, sigma=1.0, low=2, high=256)
SIDES = ("static", "continuous")
_LONG_EVERY = 20
_LIMIT = 2.0


class Served(Protocol):
    """What a run gives, real or replayed."""

    @property
    def latencies(self) -> list[float]: ...  # noqa: D102

    @property
    def first(self) -> list[float]: ...  # noqa: D102

    @property
    def gaps(self) -> list[float]: ...  # noqa: D102


# (jobs, batches or None) -> what they saw
Serve = Callable[[Sequence[Job], Batches | None], Served]


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is run."""

    count: int
    rounds: int
    seed: int
    batches: Batches
    static: tuple[float, ...]  # parts of the capacity
    continuous: tuple[float, ...]
    mixed: float
    long: int

    def jobs(self, rate: float, seed: int) -> list[Job]:
        """Of one run."""
        return jobs(self.count, PROMPTS, ANSWERS, rate=rate, seed=self.seed + seed)

    def mixed_jobs(self, rate: float, seed: int) -> list[Job]:
        """With long prompts among them."""
        return [
            dataclasses.replace(job, prompt=self.long) if n % _LONG_EVERY == 0 else job
            for n, job in enumerate(self.jobs(rate, seed))
        ]


def sweep(plan: Plan, capacity: float, serve: Serve, rounds: int) -> dict[str, Any]:
    """Both sides at their rates; what is reported of each, and the comparison."""
    runs: dict[tuple[str, float], list[Served]] = {}
    spans: dict[tuple[str, float], list[float]] = {}
    for number in range(rounds):
        parts = sorted({*plan.static, *plan.continuous})
        for part in parts if number % 2 == 0 else parts[::-1]:
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                if part not in getattr(plan, side):
                    continue
                todo = plan.jobs(part * capacity, number)
                run = serve(todo, plan.batches if side == "static" else None)
                runs.setdefault((side, part), []).append(run)
                ends = [j.arrival_s + s for j, s in zip(todo, run.latencies, strict=True)]
                tokens = sum(job.steps for job in todo)
                spans.setdefault((side, part), []).append(tokens / max(ends))
    rows = [
        {
            "side": side,
            "part": part,
            "rate": part * capacity,
            "tokens_per_s": float(np.median(spans[side, part])),
            "p50_s": quantile([s for run in found for s in run.latencies], 0.5),
            "p99_s": quantile([s for run in found for s in run.latencies], 0.99),
            "first_p99_s": quantile([s for run in found for s in run.first], 0.99),
        }
        for (side, part), found in sorted(runs.items(), key=lambda item: item[0])
    ]
    return {"rows": rows, **compare(rows)}


def compare(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The highest output of each side within the limit, and their ratio."""
    lowest = min((r for r in rows if r["side"] == "static"), key=lambda r: r["part"])
    limit = _LIMIT * lowest["p99_s"]
    best = {
        side: max(
            (r["tokens_per_s"] for r in rows if r["side"] == side and r["p99_s"] <= limit),
            default=math.nan,
        )
        for side in SIDES
    }
    return {"limit_s": limit, "best": best, "ratio": best["continuous"] / best["static"]}


def gaps(seconds: Sequence[float]) -> dict[str, float]:
    """What is reported of the times between two tokens."""
    median, p99 = quantile(seconds, 0.5), quantile(seconds, 0.99)
    return {
        "p50_ms": 1000 * median,
        "p99_ms": 1000 * p99,
        "longest_ms": 1000 * max(seconds),
        "ratio": p99 / median,
    }


def replayed(
    plan: Plan, costs: dict[int, float], rows: int, buckets: Sequence[int]
) -> dict[str, Any]:
    """The sweep and the mixed load in simulated time, with more requests."""
    server = Server(
        num_pages=rows * engine_run.MODEL.max_positions // engine_run.PAGE,
        page_size=engine_run.PAGE,
        max_model_len=engine_run.MODEL.max_positions,
        max_rows=rows,
        buckets=tuple(buckets),
    )
    cost = MeasuredCost(costs)

    def serve(todo: Sequence[Job], batches: Batches | None) -> Outcome:
        return replay(todo, server, cost, batches)

    plan = dataclasses.replace(plan, count=max(plan.count, 1000))
    capacity = plan.count / serve(plan.jobs(math.inf, 0), None).end_s
    found = sweep(plan, capacity, serve, 1)
    found["mixed"] = gaps(serve(plan.mixed_jobs(plan.mixed * capacity, 0), None).gaps)
    return {"buckets": list(buckets), "capacity": capacity, **found}


def measured(
    plan: Plan, rows: int, buckets: Sequence[int], weights: Element | None
) -> tuple[dict[str, Any], dict[int, float]]:
    """The same on the engine, and what its steps cost."""
    engine = engine_run.make_engine(rows, buckets, lambda text: print(text, flush=True), weights)
    try:
        costs = engine_run.step_costs(engine)
        print("a step takes " + ", ".join(f"{b}: {1e3 * s:.2f} ms" for b, s in costs.items()))
        runs = 1 + plan.rounds * (len(plan.static) + len(plan.continuous) + 1)
        others: list[float] = []
        with tqdm.tqdm(total=runs * plan.count, unit="request", disable=None) as bar:

            def serve(todo: Sequence[Job], batches: Batches | None) -> engine_run.Run:
                run = engine_run.serve(engine, todo, batches, progress=bar.update)
                others.append(run.others)
                return run

            at_once = serve(plan.jobs(math.inf, 0), None)
            capacity = plan.count / max(at_once.latencies)
            bar.set_postfix(capacity=f"{capacity:.1f}/s")
            found = sweep(plan, capacity, serve, plan.rounds)
            rate = plan.mixed * capacity
            mixed = [serve(plan.mixed_jobs(rate, number), None) for number in range(plan.rounds)]
            found["mixed"] = gaps([gap for run in mixed for gap in run.gaps])
            found["mixed_cpu"] = gaps([gap for run in mixed for gap in run.cpu_gaps])
        engine.check_integrity()
    finally:
        engine.stop()
    found |= {"capacity": capacity, "others": float(np.median(others)), "buckets": list(buckets)}
    return found, costs


def show(title: str, found: dict[str, Any]) -> None:
    """One table."""
    print(f"\n{title} (capacity {found['capacity']:.1f} requests/s)")
    print("side         part  requests/s  tokens/s    p50 s    p99 s  first p99 s")
    for row in found["rows"]:
        print(
            f"{row['side']:10} {row['part']:6.2f} {row['rate']:11.2f} {row['tokens_per_s']:9.0f}"
            f" {row['p50_s']:8.2f} {row['p99_s']:8.2f} {row['first_p99_s']:12.2f}"
        )
    best = found["best"]
    print(
        f"p99 <= {found['limit_s']:.2f} s: static {best['static']:.0f} tokens/s, continuous"
        f" {best['continuous']:.0f} tokens/s, {found['ratio']:.2f} times as many"
    )
    for name, what in (("mixed", "time"), ("mixed_cpu", "CPU time")):
        if name in found:
            mixed = found[name]
            print(
                f"mixed load, {what} between tokens: median {mixed['p50_ms']:.1f} ms, p99"
                f" {mixed['p99_ms']:.1f} ms ({mixed['ratio']:.2f} times), longest"
                f" {mixed['longest_ms']:.1f} ms",
                flush=True,
            )


def main(argv: Sequence[str]) -> int:
    """Prints tables; --json writes them for plot.py."""
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=200, help="of a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--weights", default="plain", choices=("plain", "float32", "bfloat16", "int8")
    )
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--buckets", default="16,32,64,256", help="tokens of the compiled steps")
    parser.add_argument("--wait", type=float, default=0.1, help="seconds that a batch waits")
    parser.add_argument("--static", default="0.15,0.25,0.3,0.35,0.4,0.45,0.5,0.6")
    parser.add_argument("--continuous", default="0.15,0.3,0.45,0.6,0.75,0.85,0.95")
    parser.add_argument("--mixed", type=float, default=0.6, help="part of the capacity")
    parser.add_argument("--long", type=int, default=512, help="tokens of the long prompts")
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args(argv[1:])
    plan = Plan(
        count=args.requests,
        rounds=args.rounds,
        seed=args.seed,
        batches=Batches(args.rows, args.wait),
        static=tuple(float(part) for part in args.static.split(",")),
        continuous=tuple(float(part) for part in args.continuous.split(",")),
        mixed=args.mixed,
        long=args.long,
    )
    buckets = [int(bucket) for bucket in args.buckets.split(",")]
    weights: Element | None = None if args.weights == "plain" else args.weights
    real, costs = measured(plan, args.rows, buckets, weights)
    again = replayed(plan, costs, args.rows, buckets)
    show("On the engine", real)
    print(f"other programs used {real['others']:.0%} of the machine (median of the runs)")
    show("Replayed with the measured step costs", again)
    if args.json:
        report = {
            "kind": "continuous_batching",
            "plan": dataclasses.asdict(plan),
            "prompts": str(PROMPTS),
            "answers": str(ANSWERS),
            "cores": psutil.cpu_count(),
            "weights": args.weights,
            "costs_ms": {bucket: 1000 * seconds for bucket, seconds in costs.items()},
            "measured": real,
            "replayed": again,
        }
        write_json(args.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
