"""The load generator without a server: when requests are sent, what is counted, what is said."""

import asyncio
import math
import pathlib
import time
from collections.abc import AsyncIterator

import pytest

from saxml.common.errors import ResourceExhaustedError, UnavailableError
from tools.bench import serving
from tools.bench.serving_load import Outcome, Piece, closed_loop, open_loop
from tools.bench.serving_report import Limits, summary, table
from tools.bench.workload import Job, Lengths


async def two_pieces(job: Job, number: int) -> AsyncIterator[Piece]:
    yield Piece("1", streamed=True)
    await asyncio.sleep(0)
    yield Piece("1", streamed=True)
    yield Piece("1,2", streamed=True)


def test_open_loop_counts_from_the_due_time_even_when_nobody_could_send() -> None:
    async def blocking(job: Job, number: int) -> AsyncIterator[Piece]:
        if number == 0:
            time.sleep(0.2)  # the whole process stands still
        yield Piece("1", streamed=True)

    jobs = [Job(0.0, 1, 1), Job(0.05, 1, 1), Job(0.1, 1, 1)]
    outcomes = asyncio.run(open_loop(jobs, blocking))
    assert [o.due for o in outcomes] == [0.0, 0.05, 0.1]
    for outcome in outcomes[1:]:
        assert outcome.sent >= 0.2
        assert outcome.pieces[0] - outcome.due >= 0.2 - outcome.due
    found = summary(outcomes, serving.count_ids, Limits(ttft=0.0001))
    assert found["ttft_s"]["p99"] >= 0.1
    assert found["late_s"]["p99"] >= 0.1
    assert found["good"] == 0


def test_open_loop_does_not_wait_for_answers() -> None:
    sent: list[int] = []

    async def last_first(job: Job, number: int) -> AsyncIterator[Piece]:
        sent.append(number)
        while len(sent) < 3:
            await asyncio.sleep(0)
        yield Piece("7", streamed=True)

    outcomes = asyncio.run(open_loop([Job(0.0, 1, 1)] * 3, last_first))
    assert [o.text for o in outcomes] == ["7"] * 3


def test_closed_loop_has_so_many_clients() -> None:
    running = 0
    most = 0

    async def counting(job: Job, number: int) -> AsyncIterator[Piece]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        yield Piece(str(number), streamed=False)

    done: list[int] = []
    outcomes = asyncio.run(closed_loop([Job(9.0, 1, 1)] * 10, 3, counting, done.append))
    assert most == 3
    assert sorted(int(o.text) for o in outcomes) == list(range(10))
    assert all(o.due <= o.sent <= o.end for o in outcomes)
    assert not any(o.pieces for o in outcomes)
    assert sum(done) == 10


def test_pieces_are_noted_when_text_is_new() -> None:
    (outcome,) = asyncio.run(open_loop([Job(0.0, 1, 1)], two_pieces))
    assert len(outcome.pieces) == 2
    assert outcome.text == "1,2"


def test_errors_are_counted_by_code() -> None:
    async def failing(job: Job, number: int) -> AsyncIterator[Piece]:
        yield Piece("1", streamed=True)
        if number % 2:
            raise ResourceExhaustedError("full")
        if number == 2:
            raise UnavailableError("gone")

    outcomes = asyncio.run(open_loop([Job(0.0, 1, 1)] * 5, failing))
    found = summary(outcomes, serving.count_ids, Limits())
    assert found["errors"] == {"RESOURCE_EXHAUSTED": 2, "UNAVAILABLE": 1}
    assert found["ok"] == found["output_tokens"] == 2
    assert "RESOURCE_EXHAUSTED" in table([{"load": "5/s"} | found])


def outcome(due: float, pieces: list[float], end: float) -> Outcome:
    return Outcome(due, due, pieces, end, ",".join("1" * len(pieces)))


def test_summary() -> None:
    outcomes = [
        outcome(0.0, [1.0, 1.5, 2.0], 2.0),
        outcome(1.0, [3.0, 4.0], 5.0),
        Outcome(2.0, 2.0, [], 10.0, "", "UNAVAILABLE"),
    ]
    found = summary(outcomes, serving.count_ids, Limits(ttft=1.5, tbt=0.6))
    assert (found["requests"], found["ok"], found["seconds"]) == (3, 2, 10.0)
    assert (found["output_tokens"], found["output_tokens_per_s"]) == (5, 0.5)
    assert found["ttft_s"]["p50"] == 1.5
    assert found["tbt_s"]["p50"] == 0.5
    assert found["latency_s"]["p50"] == 3.0
    assert (found["good"], found["goodput_per_s"]) == (1, 0.1)
    assert summary(outcomes, serving.count_ids, Limits(ttft=3, tbt=0.6))["good"] == 1
    assert summary(outcomes, serving.count_ids, Limits(ttft=3, tbt=1))["good"] == 2


def test_answers_without_streaming_have_no_token_times() -> None:
    found = summary([Outcome(0.0, 0.0, [], 1.0, "4,5")], serving.count_ids, Limits())
    assert found["output_tokens"] == 2
    assert "ttft_s" not in found
    assert "goodput_per_s" not in found
    assert " - " in table([{"load": "1/s"} | found])


def test_ids_are_counted_and_other_text_is_refused() -> None:
    assert [serving.count_ids(text) for text in ("", "7", "1,22,333")] == [0, 1, 3]
    with pytest.raises(serving.LoadError, match=r"'Paris is.*--tokenizer"):
        serving.count_ids("Paris is the capital")


def args(*flags: str) -> list[str]:
    return ["--model=/sax/test/m", "--rate=2", *flags]


def test_drawn_prompts_depend_on_seed_and_number_alone() -> None:
    parse = serving.parser().parse_args
    draw = serving.texts(parse(args("--vocab=50", "--seed=4"))).prompt
    again = serving.texts(parse(args("--vocab=50", "--seed=4"))).prompt
    job = Job(0.0, 9, 1)
    assert [draw(job, n) for n in (1, 2)] == [again(job, n) for n in (2, 1)][::-1]
    assert draw(job, 1) != draw(job, 2)
    ids = [int(part) for part in draw(job, 1).split(",")]
    assert len(ids) == 9
    assert max(ids) < 50


def test_prompts_of_a_file_are_taken_in_turn(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "prompts"
    file.write_text("one\n\ntwo\n")
    prompt = serving.texts(serving.parser().parse_args(args(f"--prompts={file}"))).prompt
    assert [prompt(Job(0.0, 1, 1), number) for number in range(3)] == ["one", "two", "one"]
    file.write_text("\n")
    with pytest.raises(serving.LoadError, match="has no prompt"):
        serving.texts(serving.parser().parse_args(args(f"--prompts={file}")))


def test_lengths_may_be_one_number() -> None:
    assert Lengths.parse("128") == Lengths(128, 0, 128, 128)
    parsed = serving.parser().parse_args(args("--requests=40", "--prompt_tokens=9,1,3,20"))
    jobs = serving.plan(parsed, 2.0)
    assert {job.steps for job in jobs} == {1}
    assert len({job.prompt for job in jobs}) > 5
    assert math.isclose(jobs[-1].arrival_s / 40, 0.5, rel_tol=0.5)


@pytest.mark.parametrize(
    "flags",
    [
        ["--model=m"],
        args("--concurrency=3"),
        args("--ttft_limit=1"),
        args("--extra=temperature"),
        args("--prompt_tokens=0"),
        args("--requests=0"),
        ["--model=m", "--rate=0"],
        ["--model=m", "--sweep=1,x"],
        ["--model=m", "--concurrency=0"],
    ],
)
def test_bad_flags(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        serving.main(["serving", *flags])
    assert ended.value.code == 2


def test_errors_before_the_load_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert serving.main(["serving", *args("--prompts=/nowhere")]) == 1
    assert capsys.readouterr().err.startswith("serving: FileNotFoundError: ")
