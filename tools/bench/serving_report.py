"""What a load of requests comes to: rates, quantiles, goodput, errors; and its table."""

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from tools.bench.serving_load import Outcome
from tools.bench.workload import quantile

_QUANTILES = (0.5, 0.9, 0.99)


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What a good request keeps, in seconds: to its first token, and between its tokens on
    average."""

    ttft: float = math.inf
    tbt: float = math.inf


def summary(
    outcomes: Sequence[Outcome], count_tokens: Callable[[str], int], limits: Limits
) -> dict[str, Any]:
    """Of one run. Times are those of requests that were answered, from when they were due; those of
    tokens are there where answers were streamed.

    requests = ok + errors; late_s: how late requests were sent by ourselves.
    """
    answered = [o for o in outcomes if not o.code]
    tokens = [count_tokens(o.text) for o in answered]
    streamed = [(o, n) for o, n in zip(answered, tokens, strict=True) if o.pieces]
    span = max(o.end for o in outcomes) - min(o.due for o in outcomes)
    good = sum(
        o.pieces[0] - o.due <= limits.ttft and _between(o, n) <= limits.tbt for o, n in streamed
    )
    errors = collections.Counter(o.code for o in outcomes if o.code)
    found: dict[str, Any] = {
        "requests": len(outcomes),
        "ok": len(answered),
        "errors": dict(sorted(errors.items())),
        "seconds": span,
        "requests_per_s": len(answered) / span,
        "output_tokens": sum(tokens),
        "output_tokens_per_s": sum(tokens) / span,
        "latency_s": _quantiles([o.end - o.due for o in answered]),
        "late_s": _quantiles([o.sent - o.due for o in outcomes]),
    }
    if streamed:
        gaps = [b - a for o, _ in streamed for a, b in zip(o.pieces, o.pieces[1:], strict=False)]
        found |= {
            "ttft_s": _quantiles([o.pieces[0] - o.due for o, _ in streamed]),
            "tbt_s": _quantiles(gaps),
            "good": good,
            "goodput_per_s": good / span,
        }
    return found


def _between(outcome: Outcome, tokens: int) -> float:
    """Seconds between tokens, on average."""
    return (outcome.pieces[-1] - outcome.pieces[0]) / max(1, tokens - 1)


def _quantiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {f"p{round(100 * q)}": quantile(values, q) for q in _QUANTILES}


def table(runs: Sequence[dict[str, Any]]) -> str:
    """A line a run, and errors behind it."""
    lines = [
        f"{'load':>14} {'ok':>6} {'errors':>6} {'req/s':>7} {'tokens/s':>9} {'good/s':>7}"
        f" {'TTFT p50/p90/p99 ms':>24} {'TBT p50/p90/p99 ms':>24} {'latency p50/p90/p99 s':>24}"
    ]
    for run in runs:
        lines.append(
            f"{run['load']:>14} {run['ok']:6} {run['requests'] - run['ok']:6}"
            f" {run['requests_per_s']:7.2f} {run['output_tokens_per_s']:9.1f}"
            f" {_number(run.get('goodput_per_s'))}"
            f" {_triple(run.get('ttft_s'), 1e3)} {_triple(run.get('tbt_s'), 1e3)}"
            f" {_triple(run['latency_s'], 1)}"
        )
        lines += [f"{'':>14} {count:6} {code}" for code, count in run["errors"].items()]
        if run["late_s"]["p99"] > 0.01:
            late = 1e3 * run["late_s"]["p99"]
            lines.append(f"{'':>14} requests were sent late by us: p99 {late:.0f} ms")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return f"{'-':>7}" if value is None else f"{value:7.2f}"


def _triple(values: dict[str, float] | None, unit: float) -> str:
    if values is None:
        return f"{'-':>24}"
    text = " / ".join(f"{unit * v:.0f}" if unit > 1 else f"{v:.2f}" for v in values.values())
    return f"{text:>24}"
