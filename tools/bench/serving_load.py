"""Requests sent at due times, or by so many clients in turn, and what became of each.

An open loop sends a request when it is due, whatever became of those before, and counts everything
from that moment: a server (or a generator) that falls behind cannot make its own figures look
better by that. A closed loop has so many clients, each of which sends when its last answer is
there: it measures capacity, not what users wait.
"""

import asyncio
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from saxml.common.errors import SaxError
from tools.bench.workload import Job


@dataclasses.dataclass(slots=True)
class Outcome:
    """One request, in seconds since the start of the run.

    due: when it was to be sent; sent: when it was; pieces: when new text came (without streaming
    never); end: when it was over; text: the answer; code: of the gRPC status that ended it, "" if
    it was answered.
    """

    due: float
    sent: float = 0.0
    pieces: list[float] = dataclasses.field(default_factory=list)
    end: float = 0.0
    text: str = ""
    code: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """News of an answer: all of its text so far, and whether it came while it was made."""

    text: str
    streamed: bool


# A job and its number -> the answer as it comes. Raises SaxError.
Send = Callable[[Job, int], AsyncIterator[Piece]]
Progress = Callable[[int], object]


async def open_loop(
    jobs: Sequence[Job], send: Send, progress: Progress = lambda done: None
) -> list[Outcome]:
    """Sends each job at its arrival."""
    start = time.perf_counter()
    outcomes = [Outcome(job.arrival_s) for job in jobs]
    tasks = []
    async with asyncio.TaskGroup() as group:
        for number, (job, outcome) in enumerate(zip(jobs, outcomes, strict=True)):
            delay = start + job.arrival_s - time.perf_counter()
            # Also where it is late: others get their turn.
            await asyncio.sleep(max(0.0, delay))
            tasks.append(group.create_task(_one(start, outcome, send(job, number), progress)))
    return outcomes


async def closed_loop(
    jobs: Sequence[Job], clients: int, send: Send, progress: Progress = lambda done: None
) -> list[Outcome]:
    """Has so many clients send the jobs, each one after its last; arrivals count for nothing."""
    start = time.perf_counter()
    outcomes: list[Outcome] = []
    left: Iterator[tuple[int, Job]] = iter(enumerate(jobs))

    async def client() -> None:
        for number, job in left:
            outcome = Outcome(time.perf_counter() - start)
            outcomes.append(outcome)
            await _one(start, outcome, send(job, number), progress)

    async with asyncio.TaskGroup() as group:
        for _ in itertools.repeat(None, clients):
            group.create_task(client())
    return outcomes


async def _one(
    start: float, outcome: Outcome, answer: AsyncIterator[Piece], progress: Progress
) -> None:
    outcome.sent = time.perf_counter() - start
    try:
        async for piece in answer:
            if piece.streamed and piece.text != outcome.text:
                outcome.pieces.append(time.perf_counter() - start)
            outcome.text = piece.text
    except SaxError as e:
        outcome.code = e.code.name
    outcome.end = time.perf_counter() - start
    progress(1)
