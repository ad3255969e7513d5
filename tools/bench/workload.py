"""Requests as benchmarks draw them: when they come, how long they are. The same seed, the same
requests at any rate."""

import dataclasses
import json
from typing import Any, Self

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths in tokens from a lognormal distribution, clipped: long tails as real traffic has
    them."""

    median: float
    sigma: float  # of the logarithm
    low: int
    high: int

    def draw(self, random: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        """i64[count]."""
        drawn = random.lognormal(np.log(self.median), self.sigma, count)
        return np.clip(np.rint(drawn), self.low, self.high).astype(np.int64)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "median,sigma,low,high", or one length that all have. Raises ValueError."""
        if "," not in text:
            text = f"{text},0,{text},{text}"
        median, sigma, low, high = text.split(",")
        lengths = cls(float(median), float(sigma), int(low), int(high))
        if not (lengths.median > 0 and lengths.sigma >= 0 and 0 < lengths.low <= lengths.high):
            raise ValueError(f"{text}: wanted median,sigma,low,high, or one length")
        return lengths

    def __str__(self) -> str:
        return (
            f"median {self.median:g}, sigma {self.sigma:g} of the logarithm, {self.low} to"
            f" {self.high}"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One request: when it comes, tokens of its prompt, tokens of its answer (with beams, steps of
    the search)."""

    arrival_s: float
    prompt: int
    steps: int


def jobs(count: int, prompts: Lengths, answers: Lengths, *, rate: float, seed: int) -> list[Job]:
    """Poisson arrivals, `rate` a second on average; the first comes after one interval. An endless
    rate: all at once."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1.0, count)) / rate
    lengths = zip(prompts.draw(random, count), answers.draw(random, count), strict=True)
    return [
        Job(float(arrival), int(prompt), int(steps))
        for arrival, (prompt, steps) in zip(arrivals, lengths, strict=True)
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class Batches:
    """Static batching: up to `size` requests start together, when so many wait or the oldest has
    waited `wait_s`, and never before the last batch has ended."""

    size: int
    wait_s: float

    def ready(self, waiting: int, oldest_waited_s: float) -> bool:
        """Whether a batch starts, if none runs."""
        return waiting >= self.size or (waiting > 0 and oldest_waited_s >= self.wait_s)


def quantile(values: npt.ArrayLike, q: float) -> float:
    """With the usual interpolation; NaN of nothing."""
    array = np.asarray(values, np.float64)
    return float(np.quantile(array, q)) if len(array) else float("nan")


def write_json(path: str, report: dict[str, Any]) -> None:
    """A report that plot.py reads."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
        file.write("\n")
