"""How far the cases of a comparison with peers are from what the machine allows: roofline [--help].

Takes the report that peers wrote with --json. For each case and entrant it has the operations and
the bytes of a token at the least (see cases.Case.work), and the median of its rates. The roof is
measured here: the read bandwidth, and for each type of weights the operations a second of a product
of many rows by our kernels, the fastest of many. Both are the machine's only as long as nothing
else runs.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm  # type: ignore[import-untyped]

from saxml.ops import cpu_kernels
from tools.bench import machine
from tools.bench.peers_table import Entrant
from tools.bench.workload import write_json

_ROWS, _DEPTH, _COLUMNS = 512, 2048, 4096
_TIMES = 20


def peak(element: cpu_kernels.Element) -> float:
    """Operations a second of a product by our kernels."""
    stack = cpu_kernels.Stack(1, element, _DEPTH, _COLUMNS)
    values = np.random.default_rng(0).standard_normal((_DEPTH, _COLUMNS), np.float32)
    stack.put(0, [cpu_kernels.Block(values)])
    packed = stack.packed()
    x = jnp.ones((_ROWS, _DEPTH), jnp.float32 if element == "float32" else jnp.bfloat16)

    @jax.jit
    def product(x: jax.Array) -> jax.Array:
        layer, rows = jnp.int32(0), jnp.int32(_ROWS)
        return cpu_kernels.linear([x], packed, layer, rows, [cpu_kernels.Output(_COLUMNS)])[0]

    product(x).block_until_ready()
    times = []
    for _ in range(_TIMES):
        start = time.perf_counter()
        product(x).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * _ROWS * _DEPTH * _COLUMNS / min(times)


def points(
    report: Mapping[str, Any], peaks: Mapping[str, float], bandwidth: float
) -> list[dict[str, Any]]:
    """Of each case and entrant: operations a byte, operations a second, and the part of the roof
    that this is; bandwidth in GB/s. Turns that others disturbed are left out where there are
    others. Raises ValueError for a report of another kind."""
    if report.get("kind") != "peers":
        raise ValueError(f"a report of kind {report.get('kind')!r}; wanted: one that peers wrote")
    found = []
    for work in report["work"]:
        turns = [
            sample
            for sample in report["samples"]
            if (sample["case"], sample["entrant"]) == (work["case"], work["entrant"])
        ]
        quiet = [turn for turn in turns if turn["others"] <= report["others_limit"]]
        rate = statistics.median(turn["rate"] for turn in quiet or turns)
        intensity = work["operations_per_token"] / work["bytes_per_token"]
        performance = rate * work["operations_per_token"]
        roof = min(peaks[work["entrant"]["weights"]], intensity * bandwidth * 1e9)
        found.append(
            {
                "case": work["case"],
                "entrant": Entrant(**work["entrant"]).name,
                "weights": work["entrant"]["weights"],
                "intensity": intensity,
                "performance": performance,
                "seconds_per_token": 1 / rate,
                "part": performance / roof,
            }
        )
    return found


def main(argv: Sequence[str]) -> int:
    """Prints a table; --json writes it for plot.py."""
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    parser = argparse.ArgumentParser(
        prog="roofline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", help="what peers wrote with --json")
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args(argv[1:])
    try:
        with open(args.report, encoding="utf-8") as file:
            report = json.load(file)
        weights = sorted({work["entrant"]["weights"] for work in report["work"]})
        watch = machine.Watch()
        peaks = {name: peak(name) for name in tqdm.tqdm(weights, desc="peaks", disable=None)}
        bandwidth = machine.read_bandwidth()
        others = watch.others()
        found = points(report, peaks, bandwidth)
    except (OSError, ValueError, KeyError) as e:
        print(f"roofline: {args.report}: {type(e).__name__}: {e}", file=sys.stderr)
        return 1
    print(f"read bandwidth {bandwidth:.1f} GB/s, other programs used {others:.0%} of the machine")
    for name, operations in peaks.items():
        print(f"{name}: {operations / 1e9:.0f} GOP/s")
    print("case         entrant                          op/byte     GOP/s  of the roof")
    for point in found:
        print(
            f"{point['case']:12} {point['entrant']:28} {point['intensity']:11.1f}"
            f" {point['performance'] / 1e9:9.1f} {point['part']:12.0%}"
        )
    if args.json:
        what = {"kind": "roofline", "bandwidth": bandwidth, "peaks": peaks, "others": others}
        write_json(args.json, what | {"points": found})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
