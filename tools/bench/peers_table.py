"""What the comparison with peers makes of its runs: medians, ranges, ratios, tables."""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tools.bench.cases import BYTES, Case, Shape

_STAR = "  * other programs ran"


@dataclasses.dataclass(frozen=True, slots=True)
class Entrant:
    """One side: an engine with weights of a type. malloc: "huge" with huge pages from malloc."""

    engine: str
    shape: str
    weights: str
    malloc: str = "plain"

    @property
    def name(self) -> str:
        """As tables have it."""
        malloc = "" if self.malloc == "plain" else f" {self.malloc}"
        return f"{self.engine} {self.weights}{malloc}"

    @property
    def is_ours(self) -> bool:
        """Whether it is SAX."""
        return self.engine.startswith("sax-")


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One turn of an entrant at a case: tokens a second; read bandwidth in GB/s around it; CPU of
    other programs meanwhile, as a part of the machine."""

    entrant: Entrant
    case: str
    round: int
    rate: float
    bandwidth: float
    others: float


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """A median, and between what it lies."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Raises ValueError for none."""
        found = sorted(values)
        if not found:
            raise ValueError("the spread of no values")
        return cls(statistics.median(found), found[0], found[-1], len(found))

    def __str__(self) -> str:
        return f"{_number(self.median)} ({_number(self.low)}-{_number(self.high)})"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def quiet(samples: Sequence[Sample], limit: float) -> list[Sample]:
    """Those during which other programs used at most `limit` of the machine."""
    return [sample for sample in samples if sample.others <= limit]


def rates(samples: Sequence[Sample]) -> dict[tuple[str, Entrant], Spread]:
    """(case, entrant) -> tokens a second."""
    found: dict[tuple[str, Entrant], list[float]] = {}
    for sample in samples:
        found.setdefault((sample.case, sample.entrant), []).append(sample.rate)
    return {key: Spread.of(values) for key, values in found.items()}


def bandwidth_parts(
    samples: Sequence[Sample], cases: Mapping[str, Case], shapes: Mapping[str, Shape]
) -> dict[tuple[str, Entrant], float]:
    """(case, entrant) -> the part of the bandwidth around it that reading the weights once a step
    takes, for decodes: the median."""
    found: dict[tuple[str, Entrant], list[float]] = {}
    for sample in samples:
        case, entrant = cases[sample.case], sample.entrant
        if case.kind != "decode":
            continue
        size = shapes[entrant.shape].step_weights * BYTES[entrant.weights]
        part = size * sample.rate / case.rows / (sample.bandwidth * 1e9)
        found.setdefault((sample.case, entrant), []).append(part)
    return {key: statistics.median(values) for key, values in found.items()}


def ratios(
    samples: Sequence[Sample], limit: float
) -> dict[tuple[str, Entrant, Entrant], tuple[Spread, bool]]:
    """(case, ours, peer) -> how many times as many tokens a second ours makes, round by round, and
    whether others left these turns alone; turns of all rounds count where there are no such.

    Only the same shape is compared; of a peer's variants of malloc the one with the higher median
    counts.
    """
    turns = {(s.case, s.entrant, s.round): s for s in samples}
    best: dict[tuple[str, str, str, str], tuple[float, Entrant]] = {}
    for (case, entrant), spread in rates(samples).items():
        key = (case, entrant.engine, entrant.weights, entrant.shape)
        if not entrant.is_ours and spread.median > best.get(key, (0.0, entrant))[0]:
            best[key] = (spread.median, entrant)
    pairs: dict[tuple[str, Entrant, Entrant], list[tuple[float, bool]]] = {}
    for (case, ours, number), mine in turns.items():
        for (other_case, *_, shape), (_, peer) in best.items():
            theirs = turns.get((case, peer, number))
            if not ours.is_ours or other_case != case or shape != ours.shape or theirs is None:
                continue
            alone = max(mine.others, theirs.others) <= limit
            pairs.setdefault((case, ours, peer), []).append((mine.rate / theirs.rate, alone))
    found = {}
    for sides, values in pairs.items():
        undisturbed = [ratio for ratio, alone in values if alone]
        found[sides] = (
            Spread.of(undisturbed or [ratio for ratio, _ in values]),
            bool(undisturbed),
        )
    return found


def tables(
    samples: Sequence[Sample],
    cases: Mapping[str, Case],
    shapes: Mapping[str, Shape],
    limit: float,
) -> str:
    """Both tables, of the runs that others left alone; of all runs, which is then said, where there
    is no such run of an entrant at a case."""
    kept = quiet(samples, limit)
    have = {(sample.case, sample.entrant) for sample in kept}
    disturbed = {(s.case, s.entrant) for s in samples} - have
    kept += [s for s in samples if (s.case, s.entrant) in disturbed]
    parts = bandwidth_parts(kept, cases, shapes)
    lines = ["tokens/s: median (range), part of the bandwidth that the weights take"]
    for case in cases:
        for (found, entrant), spread in rates(kept).items():
            if found != case:
                continue
            part = parts.get((case, entrant))
            share = "" if part is None else f"{part:5.0%}"
            star = _STAR if (case, entrant) in disturbed else ""
            model = f"{entrant.name} ({entrant.shape})"
            lines.append(f"{case:12} {model:44} {spread!s:26} n={spread.count} {share}{star}")
    lines += ["", "ours / peer, in the same round: median (range)"]
    for case in cases:
        for (found, ours, peer), (spread, alone) in ratios(samples, limit).items():
            if found == case:
                star = "" if alone else _STAR
                lines.append(f"{case:12} {ours.name:24} / {peer.name:28} {spread!s}{star}")
    return "\n".join(lines)


def report(
    samples: Sequence[Sample],
    cases: Mapping[str, Case],
    shapes: Mapping[str, Shape],
    limit: float,
) -> dict[str, Any]:
    """For --json: every run, and work of each case for the roofline."""
    work = []
    for case in cases.values():
        for entrant in sorted({s.entrant for s in samples if s.case == case.name}, key=str):
            weights: Any = entrant.weights
            read, operations = case.work(shapes[entrant.shape], weights)
            work.append(
                {
                    "case": case.name,
                    "entrant": dataclasses.asdict(entrant),
                    "bytes_per_token": read,
                    "operations_per_token": operations,
                }
            )
    return {
        "kind": "peers",
        "others_limit": limit,
        "cases": [dataclasses.asdict(case) for case in cases.values()],
        "samples": [dataclasses.asdict(sample) for sample in samples],
        "work": work,
    }
