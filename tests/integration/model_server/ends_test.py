"""Calls whose client is gone or whose deadline has come give their pages back within one step, in
whatever state they are, and nobody else notices."""

import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from tests.integration.model_server import tiny
from tests.integration.model_server.in_process import Held, InProcess

PROMPT = list(range(20, 60))
OTHER = [1, 2, 3]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    folder: pathlib.Path = tmp_path_factory.mktemp("pax")
    served = InProcess(folder, tiny.SAMPLES, tiny.BEAMS)
    yield served
    served.close()


@pytest.fixture(params=["cancelled", "gone", "late"])
def end(request: pytest.FixtureRequest) -> Callable[[tiny.Client, Any], None]:
    """How the call ends: by its client, with its client, or by its deadline."""

    def end(client: tiny.Client, call: Any) -> None:
        if request.param == "cancelled":
            call.cancel()
        elif request.param == "gone":
            client.close()
        else:
            assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED

    end.__name__ = request.param
    return end


def _timeout(end: Callable[..., None]) -> float:
    return 3.0 if end.__name__ == "late" else 120.0


def _until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)


def _told(served: InProcess, model: str, end: Callable[..., None]) -> None:
    """Waits until the engine has been told; a deadline it sees by itself."""
    engine = served.engine(model)

    def told() -> bool:
        requests = list(engine._requests.values())
        return any(r.was_cancelled or r.deadline < time.monotonic() for r in requests)

    _until(told)


def _end_and_step(
    served: InProcess, held: Held, client: tiny.Client, call: Any, end: Any, model: str
) -> None:
    """Ends a call while a step is held, and lets that step run: the next plan is without it."""
    end(client, call)
    _told(served, model, end)
    held.let()


STARTS: dict[str, Callable[[tiny.Client, float], Any]] = {
    "answer": lambda client, timeout: client.generate(PROMPT, timeout=timeout),
    "stream": lambda client, timeout: client.stream(PROMPT, timeout=timeout),
    "score": lambda client, timeout: client.score(
        PROMPT[:5], [PROMPT[5:], [7, 8]], timeout=timeout
    ),
}


@pytest.mark.parametrize("kind", STARTS)
def test_while_its_prompt_is_computed(served: InProcess, end: Any, kind: str) -> None:
    engine, client = served.engine(), served.new_client()
    with served.held() as held:
        call = STARTS[kind](client, _timeout(end))
        held.wait()
        steps = engine.steps
        assert engine.gauges().used_pages > 0
        _end_and_step(served, held, client, call, end, tiny.SAMPLES)
        _until(lambda: engine.pending == 0)
        assert engine.steps == steps + 1
        assert engine.gauges().used_pages == 0
    client.close()
    served.check()


@pytest.mark.parametrize("kind", ["answer", "stream", "beams"])
def test_while_it_decodes(served: InProcess, end: Any, kind: str) -> None:
    model = tiny.BEAMS if kind == "beams" else tiny.SAMPLES
    engine, client = served.engine(model), served.new_client()
    with served.held(model) as held:
        start = client.stream if kind == "stream" else client.generate
        call = start(PROMPT, model=model, timeout=_timeout(end))
        for _ in range(4):
            held.wait()
            held.let()
        held.wait()
        steps = engine.steps
        assert engine.gauges().used_pages > 0
        _end_and_step(served, held, client, call, end, model)
        _until(lambda: engine.pending == 0)
        assert engine.steps == steps + 1
        assert engine.gauges().used_pages == 0
    client.close()
    served.check(model)


def test_while_it_waits(served: InProcess, end: Any) -> None:
    """Others take all rows; they get the same answers as without it."""
    engine, client = served.engine(), served.new_client()
    (wanted,) = {text(served.client.generate(OTHER).result())}
    with served.held() as held:
        running = [served.client.generate(OTHER) for _ in range(4)]
        held.wait()
        while engine.gauges().running < 4:
            held.let()
            held.wait()
        call = client.generate(PROMPT, timeout=_timeout(end))
        _until(lambda: engine.gauges().waiting == 1)
        used, steps = engine.gauges().used_pages, engine.steps
        _end_and_step(served, held, client, call, end, tiny.SAMPLES)
        held.wait()  # the step after that has been planned
        assert engine.gauges().waiting == 0
        assert engine.steps == steps + 1
        assert engine.gauges().running == 4
        assert 0 < engine.gauges().used_pages <= used + 4
    assert {text(r.result()) for r in running} == {wanted}
    client.close()
    served.check()


def test_what_ended_already_is_not_ended_again(served: InProcess) -> None:
    call = served.client.generate(OTHER)
    call.result()
    call.cancel()
    before = served.client.metrics().by_reason("requests_finished_total")
    served.client.generate(OTHER).result()
    after = served.client.metrics().by_reason("requests_finished_total")
    assert sum(after.values()) == sum(before.values()) + 1
    assert after.get("cancelled", 0) == before.get("cancelled", 0)
    served.check()


def text(answer: Any) -> str:
    """The samples of an answer, sorted by the server."""
    return ";".join(t.text for t in answer.texts)
