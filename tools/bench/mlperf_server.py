"""The server scenario of MLPerf Inference with GPT-J 6B, simulated: mlperf_server [--help].

Articles of about the lengths of CNN/DailyMail's come at random (Poisson) and are summarised by a
beam search of 4; 99% of the answers are wanted within 20 s. What runs when is decided by the real
scheduler; the time of a step comes from a table, by default that of a TPU v5e 2x2. Compared are

  static       batches of up to 32, which start when they are full or their oldest request has
               waited 4 s, and run to their end before the next one starts
  continuous   requests start as soon as rows and pages are free

Only the admission differs: the static side, too, pays no padding to the longest prompt and gives
rows back as beams end. Nothing here is measured on a TPU.
"""

import argparse
import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import tqdm  # type: ignore[import-untyped]

from tools.bench.replay import Outcome, Server, StepCost, replay
from tools.bench.workload import Batches, Job, Lengths, jobs, quantile, write_json

# Of GPT-J in bfloat16 on four chips, 819 GB/s and 197 TFLOP/s each: 12.1 GB of weights are read in
# 3.7 ms; 12.1 GFLOP a token at half the peak take 0.03 ms; 1,000 tokens of keys and values, 0.46
# GB, which 4 beams share, take 0.14 ms; a page of 16 tokens is copied in 0.005 ms.
V5E_4 = StepCost(base_ms=3.7, token_ms=0.031, row_ms=0.035, copy_ms=0.005)
# 36 GB of keys and values in 4 x 16 GB beside the weights, 7.3 MB a page.
SERVER = Server(
    num_pages=4900,
    page_size=16,
    max_model_len=1919 + 128,
    max_rows=128,
    buckets=(4, 16, 64, 128, 256, 512, 1024),
    width=4,
)
# CNN/DailyMail articles have about 780 words on average, cut at 1,919 tokens; summaries, about 60
# tokens, of which the search needs some more steps. Shapes are an assumption.
ARTICLES = Lengths(median=840, sigma=0.5, low=100, high=1919)
SEARCHES = Lengths(median=72, sigma=0.3, low=30, high=128)
# SAX on 4 TPU v5e, MLPerf Inference v3.1.
_PUBLISHED_OFFLINE = 9.812


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is simulated."""

    count: int
    seed: int
    limit_s: float
    server: Server
    cost: StepCost
    batches: Batches
    articles: Lengths = ARTICLES
    searches: Lengths = SEARCHES

    def jobs(self, rate: float) -> list[Job]:
        """The same requests at any rate."""
        return jobs(self.count, self.articles, self.searches, rate=rate, seed=self.seed)

    def run(self, rate: float, *, static: bool) -> Outcome:
        """All of them at one rate."""
        with tqdm.tqdm(
            total=self.count,
            desc=f"{'static' if static else 'continuous'} {rate:.2f}/s",
            leave=False,
            disable=None,
        ) as bar:
            return replay(
                self.jobs(rate),
                self.server,
                self.cost,
                self.batches if static else None,
                seed=self.seed,
                progress=bar.update,
            )

    def calibrated(self, offline: float) -> "Scenario":
        """With step costs scaled so that static batches of requests that are all there make
        `offline` samples a second."""
        factor = self.offline() / offline
        return dataclasses.replace(self, cost=self.cost.scaled(factor))

    def offline(self) -> float:
        """Samples a second in static batches when all requests are there at the start."""
        return self.count / self.run(math.inf, static=True).end_s

    def highest_rate(self, *, static: bool, steps: int = 7) -> float:
        """The highest rate with which 99% of the answers are within the limit, by bisection."""
        low, high = 0.0, 2 * self.offline()
        for _ in range(steps):
            middle = (low + high) / 2
            good = quantile(self.run(middle, static=static).latencies, 0.99) <= self.limit_s
            low, high = (middle, high) if good else (low, middle)
        return low


def figures(outcome: Outcome) -> dict[str, float]:
    """What is reported of one run."""
    return {
        "p50_s": quantile(outcome.latencies, 0.5),
        "p99_s": quantile(outcome.latencies, 0.99),
        "first_p99_s": quantile(outcome.first, 0.99),
        "gap_p50_ms": 1000 * quantile(outcome.gaps, 0.5),
        "gap_p99_ms": 1000 * quantile(outcome.gaps, 0.99),
        "busy": outcome.busy_s / outcome.end_s,
    }


def report(scenario: Scenario, rates: Sequence[float]) -> dict[str, Any]:
    """Both sides at each rate, and the highest rate of each."""
    result: dict[str, Any] = {
        "kind": "mlperf_server",
        "limit_s": scenario.limit_s,
        "requests": scenario.count,
        "seed": scenario.seed,
        "cost": dataclasses.asdict(scenario.cost),
        "batches": dataclasses.asdict(scenario.batches),
        "articles": str(scenario.articles),
        "searches": str(scenario.searches),
        "offline": scenario.offline(),
        "rates": [],
    }
    print(
        f"step costs: {scenario.cost}\n"
        f"static batches offline: {result['offline']:.2f} samples/s\n"
        "          static               continuous\n"
        "  rate    p50 s   p99 s        p50 s   p99 s   gap p50, p99 ms   busy",
        flush=True,
    )
    for rate in rates:
        static = figures(scenario.run(rate, static=True))
        ours = figures(scenario.run(rate, static=False))
        result["rates"].append({"rate": rate, "static": static, "continuous": ours})
        print(
            f"{rate:6.2f} {static['p50_s']:8.2f}{static['p99_s']:8.2f} {ours['p50_s']:12.2f}"
            f"{ours['p99_s']:8.2f}{ours['gap_p50_ms']:9.1f}{ours['gap_p99_ms']:8.1f}"
            f"{ours['busy']:8.0%}",
            flush=True,
        )
    result["highest"] = {
        side: scenario.highest_rate(static=side == "static") for side in ("static", "continuous")
    }
    print(
        f"highest rate with p99 <= {scenario.limit_s:g} s: static"
        f" {result['highest']['static']:.2f}/s, continuous {result['highest']['continuous']:.2f}/s"
    )
    return result


def main(argv: Sequence[str]) -> int:
    """Prints a table; --json writes it for plot.py."""
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rates", default="1,2,3,4,5,6,7,8,9,10,11,12,13", help="requests a second"
    )
    parser.add_argument(
        "--requests", type=int, default=5000, help="too few hide that a rate is too high"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds, of the p99")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--wait", type=float, default=4.0, help="seconds")
    parser.add_argument(
        "--cost",
        default=json.dumps(dataclasses.asdict(V5E_4)),
        help="JSON: milliseconds of a step: base_ms, token_ms, row_ms (a row that decodes),"
        " copy_ms (a page). Default: %(default)s",
    )
    parser.add_argument(
        "--offline",
        type=float,
        default=_PUBLISHED_OFFLINE,
        help="scale costs so that static batches make so many samples a second offline; 0: leave"
        " them. Default: what MLPerf v3.1 has for SAX on 4 TPU v5e, %(default)s",
    )
    for name, lengths in (("articles", ARTICLES), ("searches", SEARCHES)):
        parser.add_argument(
            f"--{name}",
            type=Lengths.parse,
            default=lengths,
            metavar="MEDIAN,SIGMA,LOW,HIGH",
            help="lognormal lengths in tokens. Default: %(default)s",
        )
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args(argv[1:])
    scenario = Scenario(
        count=args.requests,
        seed=args.seed,
        limit_s=args.limit,
        server=SERVER,
        cost=StepCost(**json.loads(args.cost)),
        batches=Batches(args.batch, args.wait),
        articles=args.articles,
        searches=args.searches,
    )
    if args.offline:
        scenario = scenario.calibrated(args.offline)
    result = report(scenario, [float(rate) for rate in args.rates.split(",")])
    if args.json:
        write_json(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
