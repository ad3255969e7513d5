"""A picture of a benchmark's report: plot.py REPORT.json PICTURE.svg.

Needs matplotlib, which the build does not have: pip install -r tools/bench/plot_requirements.txt,
then run it with that Python from the root of the repository.
"""

import itertools
import json
import sys
from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.figure

_COLOURS = {"static": "#b45309", "continuous": "#1d4ed8"}


def continuous_batching(report: dict[str, Any]) -> matplotlib.figure.Figure:
    """Output against the p99 of the latency, on the engine and replayed."""
    figure = matplotlib.figure.Figure(figsize=(9, 3.6), layout="constrained")
    titles = {
        "measured": "On the engine",
        "replayed": "Replayed with the measured step costs",
    }
    for axes, (part, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        found = report[part]
        for side, colour in _COLOURS.items():
            rows = [row for row in found["rows"] if row["side"] == side]
            rows.sort(key=lambda row: row["part"])
            axes.plot(
                [row["tokens_per_s"] for row in rows],
                [row["p99_s"] for row in rows],
                "o-",
                color=colour,
                label=side,
            )
        axes.axhline(found["limit_s"], color="#888888", linestyle=":", linewidth=1)
        axes.set(
            title=title, xlabel="output tokens/s", ylabel="p99 of the latency, s", yscale="log"
        )
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    return figure


def mlperf_server(report: dict[str, Any]) -> matplotlib.figure.Figure:
    """Latency against the rate."""
    figure = matplotlib.figure.Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    rates = [row["rate"] for row in report["rates"]]
    for side, colour in _COLOURS.items():
        for quantile, line in (("p99_s", "o-"), ("p50_s", ".--")):
            axes.plot(
                rates,
                [row[side][quantile] for row in report["rates"]],
                line,
                color=colour,
                label=f"{side}, {quantile[:3]}",
            )
    axes.axhline(report["limit_s"], color="#888888", linestyle=":", linewidth=1)
    axes.set(xlabel="requests/s", ylabel="latency, s", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


def step_profile(report: dict[str, Any]) -> matplotlib.figure.Figure:
    """What a step is made of, a bar for each number of rows."""
    figure = matplotlib.figure.Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    names = [str(row["rows"]) for row in report["rows"]]
    below = [0.0] * len(names)
    for part in report["rows"][0]["parts"]:
        heights = [row["parts"][part] for row in report["rows"]]
        axes.bar(names, heights, bottom=below, label=part)
        below = [a + b for a, b in zip(below, heights, strict=True)]
    axes.set(xlabel="rows that decode", ylabel="ms a step")
    axes.grid(alpha=0.3, axis="y")
    axes.legend()
    return figure


def serving(report: dict[str, Any]) -> matplotlib.figure.Figure:
    """Latencies against the load that was offered, and what of it was good."""
    figure = matplotlib.figure.Figure(figsize=(9, 3.6), layout="constrained")
    times, rates = figure.subplots(1, 2)
    runs = sorted(report["runs"], key=lambda run: run["rate"] or run["concurrency"])
    load = [run["rate"] or run["concurrency"] for run in runs]
    label = "requests/s offered" if runs[0]["rate"] else "clients"
    names = {"ttft_s": "TTFT", "tbt_s": "TBT", "latency_s": "latency"}
    for colour, (key, name) in zip(("#b45309", "#047857", "#1d4ed8"), names.items(), strict=True):
        for quantile, line in (("p99", "o-"), ("p50", ".--")):
            found = [(run.get(key) or {}).get(quantile) for run in runs]
            if any(value is not None for value in found):
                times.plot(load, found, line, color=colour, label=f"{name}, {quantile}")
    times.set(xlabel=label, ylabel="s", yscale="log")
    for key, name in (("requests_per_s", "answered"), ("goodput_per_s", "good")):
        if all(key in run for run in runs):
            rates.plot(load, [run[key] for run in runs], "o-", label=name)
    rates.set(xlabel=label, ylabel="requests/s")
    for axes in (times, rates):
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    return figure


def roofline(report: dict[str, Any]) -> matplotlib.figure.Figure:
    """Operations a second against operations a byte, below the roofs of the types of weights."""
    figure = matplotlib.figure.Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    points = report["points"]
    ends = [point["intensity"] for point in points] + [0.5]
    for weights, peak in report["peaks"].items():
        ridge = peak / (report["bandwidth"] * 1e9)
        across = [min(ends), ridge, max([*ends, 4 * ridge])]
        heights = [min(peak, x * report["bandwidth"] * 1e9) / 1e9 for x in across]
        axes.plot(across, heights, color="#888888", linewidth=1)
        axes.annotate(weights, (across[-1], heights[-1]), ha="right", va="bottom", fontsize=8)
    entrants = sorted({point["entrant"] for point in points})
    for entrant, marker in zip(entrants, itertools.cycle("osD^v<>PX*"), strict=False):
        own = [point for point in points if point["entrant"] == entrant]
        heights = [point["performance"] / 1e9 for point in own]
        axes.plot([p["intensity"] for p in own], heights, marker, label=entrant, alpha=0.8)
        if entrant.startswith("sax-bare"):
            for point, height in zip(own, heights, strict=True):
                place = (point["intensity"], height)
                axes.annotate(point["case"], place, (4, 4), textcoords="offset points", fontsize=7)
    axes.set(xlabel="operations a byte", ylabel="GOP/s", xscale="log", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    return figure


KINDS = {
    "continuous_batching": continuous_batching,
    "mlperf_server": mlperf_server,
    "step_profile": step_profile,
    "serving": serving,
    "roofline": roofline,
}


def main(argv: Sequence[str]) -> int:
    """Writes the picture."""
    if len(argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    with open(argv[1], encoding="utf-8") as file:
        report = json.load(file)
    # Text stays text, and the same report gives the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sax"})
    KINDS[report["kind"]](report).savefig(argv[2], metadata={"Date": None})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
