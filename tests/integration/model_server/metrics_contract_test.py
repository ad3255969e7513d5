"""A known mix of requests over gRPC: each count and sum of /metrics is what was really served."""

import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from saxml.engine.decoders import Continue, SampleDecoder
from tests.integration.model_server import tiny
from tests.integration.model_server.in_process import InProcess

POISON = 113  # a prompt of this token alone fails in its decoder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    folder: pathlib.Path = tmp_path_factory.mktemp("pax")
    served = InProcess(folder, tiny.SAMPLES, tiny.BEAMS)
    yield served
    served.close()


def _code(call: Any) -> grpc.StatusCode:
    error = call.exception()
    assert isinstance(error, grpc.RpcError)
    return error.code()


def _tokens(answer: Any) -> list[list[int]]:
    return [[int(i) for i in t.text.split(",")] for t in answer.texts]


def _streamed(messages: Any) -> list[list[int]]:
    texts = ["", ""]
    for message in messages:
        for place, item in enumerate(message.items):
            texts[place] = texts[place][: item.prefix_len] + item.text
    return [[int(i) for i in t.split(",")] for t in texts]


def _was_cut(samples: list[list[int]], steps: int) -> bool:
    return any(len(s) == steps and s[-1] != tiny.STOP for s in samples)


def test_every_count_is_what_was_served(served: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    client, engine = served.client, served.engine()
    compiled = client.metrics()("compilations_total")
    begun, started, prompt_tokens, tokens = time.monotonic(), 0, 0, 0
    finished = dict.fromkeys(("stop", "length", "done", "cancelled", "deadline", "failed"), 0)
    without = dict.fromkeys(finished, 0)

    def note(prompt: list[int], samples: list[list[int]], steps: int) -> None:
        nonlocal started, prompt_tokens, tokens
        started += 1
        finished["length" if _was_cut(samples, steps) else "stop"] += 1
        prompt_tokens += len(prompt)
        tokens += sum(map(len, samples))

    # Answers and streams, greedy and drawn, of 1 to 47 prompt tokens.
    sent = []
    for i in range(24):
        prompt = [(i * 37 + j * 11) % tiny.VOCAB for j in range(1 + (i * 13) % 47)]
        steps = 1 + (i * 7) % tiny.STEPS
        extra: dict[str, float] = {
            "temperature": i % 3 / 2,
            "seed": i,
            "per_example_max_decode_steps": steps,
        }
        start = client.stream if i % 4 == 3 else client.generate
        call = start(prompt, model=tiny.SAMPLES, timeout=120, **extra)
        sent.append((prompt, call, steps, i % 4 == 3))
    for prompt, call, steps, streams in sent:
        note(prompt, _streamed(call) if streams else _tokens(call.result()), steps)
    # Each suffix of a score is a request; its logits are numbers, not tokens.
    assert len(client.score([1, 2, 3], [[4, 5], [6], [7, 8, 9]]).result().logp) == 3
    started += 3
    finished["done"] += 3
    prompt_tokens += 3 * 3 + 6 - 3  # nothing follows the last token of a suffix

    # One that fails in its decoder.
    def poisoned(decoder: SampleDecoder, seqs: Any, rows: Any) -> Continue | None:
        raise ValueError("poisoned")

    with monkeypatch.context() as patched:
        patched.setattr(SampleDecoder, "step", poisoned)
        assert _code(client.generate([POISON])) == grpc.StatusCode.INTERNAL
    started += 1
    finished["failed"] += 1
    prompt_tokens += 1
    tokens += 2  # they were chosen, though nobody got them

    # Four that run fill the engine; the fifth waits. One of each is cancelled, one is late.
    with served.held() as held:
        calls = [client.generate([i, 3, 5], timeout=2 if i == 3 else 120) for i in range(4)]
        held.wait()
        while client.metrics()("num_requests_running") < 4:
            held.let()
            held.wait()
        late, gone = client.generate([9], timeout=1.0), client.generate([9, 9])
        while client.metrics()("num_requests_waiting") < 2:
            pass
        assert client.metrics()("queued_tokens") == 3
        assert client.metrics()("kv_pages", state="used") >= 4
        # Pages of eight hold the few tokens of each.
        assert 0.1 < client.metrics()("kv_waste_ratio") < 0.9
        cancelled = threading.Event()
        real = engine.cancel
        with monkeypatch.context() as patched:
            patched.setattr(engine, "cancel", lambda r: real(r) or cancelled.set())  # type: ignore[func-returns-value]
            gone.cancel()
            assert cancelled.wait(60)
            cancelled.clear()
            calls[0].cancel()
            assert cancelled.wait(60)
        assert _code(late) == grpc.StatusCode.DEADLINE_EXCEEDED
        assert _code(calls[3]) == grpc.StatusCode.DEADLINE_EXCEEDED
    for call, prompt in ((calls[1], [1, 3, 5]), (calls[2], [2, 3, 5])):
        note(prompt, _tokens(call.result()), tiny.STEPS)
    started += 4
    finished["cancelled"] += 2
    finished["deadline"] += 2
    without["cancelled"] += 1
    without["deadline"] += 1

    # What is refused is not started.
    for refused in (
        client.generate([tiny.VOCAB]),
        client.generate([1] * (tiny.LONGEST_PROMPT + 1)),
        client.generate([1], temperature=-1),
        client.generate([1], nonsense=1),
    ):
        assert _code(refused) == grpc.StatusCode.INVALID_ARGUMENT

    while engine.pending:
        pass
    m = client.metrics()
    assert m("requests_started_total") == started == sum(finished.values())
    assert m.by_reason("requests_finished_total") == {k: v for k, v in finished.items() if v}
    assert m.by_reason("requests_without_token_total") == {k: v for k, v in without.items() if v}
    first = m("time_to_first_token_seconds_count")
    assert first + sum(without.values()) == started
    assert m("request_prefill_time_seconds_count") == first
    answered = finished["stop"] + finished["length"]
    assert m("request_decode_time_seconds_count") == answered
    assert m("e2e_request_latency_seconds_count") == answered + finished["done"]
    # Two were never in a step.
    assert m("request_queue_time_seconds_count") == started - 2
    # calls[0] and calls[3] had some tokens before they ended: at most so many.
    assert m("prompt_tokens_total") == prompt_tokens + 6
    assert tokens < m("generation_tokens_total") <= tokens + 2 * 2 * tiny.STEPS
    assert m("step_seconds_count") == engine.steps
    assert m("step_rows_count") == m("step_tokens_count") == engine.steps
    assert 0 < m("step_seconds_sum") < time.monotonic() - begun
    assert m("prefix_cache_queries_total") >= m("prefix_cache_hits_total") >= 0
    # Every prompt token was computed or found; every token but the last of a sample was computed.
    assert m("step_tokens_sum") + m("prefix_cache_hits_total") >= prompt_tokens
    nothing = ("num_requests_running", "num_requests_waiting", "queued_tokens", "kv_waste_ratio")
    for name in (*nothing, "num_preemptions_total", "requests_stuck_total"):
        assert m(name) == 0
    assert m("kv_pages", state="used") == 0
    pages = m("kv_pages", state="free") + m("kv_pages", state="cached")
    assert pages == engine.options.num_pages
    assert m("compilations_total") == compiled
    served.check()


def test_a_request_that_makes_way_is_counted_once(served: InProcess) -> None:
    """Four fill the engine; a fifth of a higher priority takes the place of one, which goes on
    later. Nothing but the counter of preemptions, and the time it took, shows that."""
    client = served.client
    alone = [_tokens(client.generate([i, 3, 5]).result()) for i in range(5)]
    before = client.metrics()
    with served.held() as held:
        calls = [client.generate([i, 3, 5]) for i in range(4)]
        held.wait()
        while client.metrics()("num_requests_running") < 4:
            held.let()
            held.wait()
        calls.append(client.generate([4, 3, 5], priority=5))
        while client.metrics()("num_requests_waiting") < 1:
            pass
    assert [_tokens(call.result()) for call in calls] == alone
    while served.engine().pending:
        pass
    m = client.metrics()
    for name, count in (
        ("num_preemptions_total", 1),
        ("requests_started_total", 5),
        ("time_to_first_token_seconds_count", 5),
        ("request_queue_time_seconds_count", 5),
        ("e2e_request_latency_seconds_count", 5),
        ("prompt_tokens_total", 15),
        ("generation_tokens_total", sum(len(sample) for answer in alone for sample in answer)),
    ):
        assert m(name) - before(name) == count, name
    served.check()


def test_the_sum_of_times_is_the_time_that_it_took(served: InProcess) -> None:
    before = served.client.metrics()
    steps = max(map(len, _tokens(served.client.generate([5, 6]).result())))
    m = served.client.metrics()

    def grew(name: str) -> float:
        return m(name) - before(name)

    parts = ("request_queue_time", "request_prefill_time", "request_decode_time")
    whole = grew("e2e_request_latency_seconds_sum")
    assert sum(grew(f"{p}_seconds_sum") for p in parts) == pytest.approx(whole, abs=0.05)
    assert grew("inter_token_latency_seconds_count") == steps - 1
    between = grew("inter_token_latency_seconds_sum")
    assert between == pytest.approx(grew("request_decode_time_seconds_sum"))
    first = grew("time_to_first_token_seconds_sum")
    assert first + between == pytest.approx(whole, abs=0.05)


def test_beams_are_counted_as_one_request_with_a_token_a_beam_and_step(served: InProcess) -> None:
    before = served.client.metrics(tiny.BEAMS)
    answer = served.client.generate([3, 4, 5], model=tiny.BEAMS).result()
    assert len(answer.texts) == 3
    m = served.client.metrics(tiny.BEAMS)
    assert m("requests_started_total") - before("requests_started_total") == 1
    assert sum(m.by_reason("requests_finished_total").values()) == 1
    steps = m("step_seconds_count") - before("step_seconds_count")
    assert m("generation_tokens_total") - before("generation_tokens_total") == 1 + 3 * (steps - 1)
    served.check(tiny.BEAMS)
