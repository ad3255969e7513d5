"""What a request asks for reaches the engine: samples, ends, lengths, priority, salt, limits."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from saxml.common import errors
from saxml.common.clock import SystemClock
from saxml.engine.decoders import Continue, Floats, Ints, SampleDecoder
from saxml.engine.engine import Engine
from saxml.proto import common_pb2
from saxml.server import configs, registry
from saxml.server.loading import LoadOptions
from saxml.server.servable_model import LmServable
from tests.unit.server.messages import changes, pairs
from tools.convert.llama import convert_llama

NEVER = math.inf
PROMPT = "5,6,7,8"
configs.import_all()


def ignore(cancel: Callable[[], None]) -> None:
    """For callers that never go away."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return convert_llama("tests/golden/tiny_llama", str(tmp_path_factory.mktemp("pax")))


def load(checkpoint: str, **overrides: str) -> LmServable:
    params = registry.resolve("saxml.server.pax.lm.params.auto.AutoLM")(
        {
            "TOKENIZED_INPUT": "true",
            "TOKENIZED_OUTPUT": "true",
            "INPUT_SEQ_LEN": "64",
            "MAX_DECODE_STEPS": "12",
            "STOP_TOKEN_IDS": "[0]",
            **overrides,
        }
    )
    return LmServable.load("/sax/test/m", params, checkpoint, LoadOptions(), SystemClock())


def engine_of(servable: LmServable) -> Engine:
    return servable._engine


def extra(**sent: Any) -> common_pb2.ExtraInputs:
    found = common_pb2.ExtraInputs()
    for key, value in sent.items():
        if isinstance(value, str):
            found.strings[key] = value
        elif isinstance(value, list):
            found.tensors[key].values.extend(value)
        else:
            found.items[key] = value
    return found


def ask(servable: LmServable, prompt: str = PROMPT, **sent: Any) -> list[tuple[str, float]]:
    return pairs(servable.generate(prompt, extra(**sent), NEVER, ignore))


def ids_of(answer: tuple[str, float]) -> list[int]:
    return [int(i) for i in answer[0].split(",")]


@pytest.fixture(scope="module")
def servable(checkpoint: str) -> Iterator[LmServable]:
    found = load(
        checkpoint,
        BATCH_SIZE="4",
        MAX_NUM_SAMPLES="4",
        EXTRA_INPUTS='{"temperature": 0.0, "per_example_max_decode_steps": 12, "eos_id": [0,0,0]}',
        MAX_SEQ_LEN="70",
    )
    yield found
    assert found.wait_until_idle(10)
    found.check_integrity()
    assert engine_of(found).gauges().used_pages == 0
    found.unload()


def test_samples_are_as_many_as_asked_for_and_sorted(servable: LmServable) -> None:
    assert len(ask(servable)) == 1
    found = ask(servable, num_samples=4, temperature=2.0, seed=3)
    assert len({answer for answer, _ in found}) == 4
    assert [score for _, score in found] == sorted((s for _, s in found), reverse=True)
    assert ask(servable, num_samples=4, temperature=2.0, seed=3) == found
    streamed = ["", "", "", ""]
    sent = extra(num_samples=4, temperature=2.0, seed=3)
    for items in changes(servable.generate_stream(PROMPT, sent, NEVER, ignore)):
        streamed = [t[:kept] + new for t, (new, kept, _) in zip(streamed, items, strict=True)]
    # In their places there, by score here.
    assert sorted(streamed) == sorted(answer for answer, _ in found)


def test_each_sample_may_have_its_temperature(servable: LmServable) -> None:
    greedy = ask(servable)[0][0]
    found = ask(servable, num_samples=3, temperature=[0.0, 5.0, 0.0], seed=1)
    assert sorted(answer == greedy for answer, _ in found) == [False, True, True]
    with pytest.raises(errors.InvalidArgumentError, match="2 values for 3 samples"):
        ask(servable, num_samples=3, temperature=[0.0, 5.0])


def test_eos_sequence_ends_the_answer_and_is_part_of_it(servable: LmServable) -> None:
    whole = ids_of(ask(servable)[0])
    assert len(whole) == 12
    first = next(i for i in range(12) if whole[: i + 1].count(whole[i]) == 1 and i >= 2)
    ended = whole[: first + 1]
    assert ids_of(ask(servable, eos_id=[0, *whole[first - 1 : first + 1]])[0]) == ended
    assert ids_of(ask(servable, eos_id=whole[first])[0]) == ended
    # Not the last two tokens in this order: nothing ends.
    assert (
        ids_of(ask(servable, eos_id=[0, whole[first], whole[first - 1]])[0])[:first]
        == (whole[:first])
    )


def test_choice_of_tokens_is_the_requests(servable: LmServable) -> None:
    whole = ids_of(ask(servable)[0])
    without = ids_of(ask(servable, logit_bias=f"{whole[0]}=-100")[0])
    assert whole[0] not in without
    assert set(ids_of(ask(servable, logit_bias="9=100")[0])) == {9}
    forbidden = ids_of(ask(servable, logit_bias="0=100", min_decode_steps=5)[0])
    assert len(forbidden) == 6
    assert forbidden.index(0) == 5
    assert ids_of(ask(servable, temperature=5.0, min_p=1.0, seed=4)[0]) == whole
    frequent = ask(servable, logit_bias="9=50", frequency_penalty=2.0, presence_penalty=2.0)
    assert len(ids_of(frequent[0])) == 12
    many = [ids_of(ask(servable, repetition_penalty=p)[0]) for p in (1.0, 50.0)]
    assert many[0] == whole
    assert len(set(many[1])) == len(many[1])  # nothing comes twice


def test_lengths_are_the_requests_within_the_configurations(servable: LmServable) -> None:
    assert len(ids_of(ask(servable, per_example_max_decode_steps=3)[0])) == 3
    # 64 tokens of prompt leave six of MAX_SEQ_LEN.
    longest = ",".join(["5"] * 64)
    assert len(ids_of(ask(servable, longest)[0])) == 6


def test_prompts_share_pages_within_a_salt_only(servable: LmServable) -> None:
    engine = engine_of(servable)
    prompt = ",".join(str(i) for i in range(10, 60))

    def hits(**sent: Any) -> int:
        before = engine.gauges().prefix_hit_tokens
        ask(servable, prompt, **sent)
        return engine.gauges().prefix_hit_tokens - before

    assert hits() == 0
    assert hits() >= 48
    assert hits(cache_salt="a") == 0
    assert hits(cache_salt="a") >= 48
    assert hits(cache_salt="b") == 0
    before = engine.gauges().prefix_hit_tokens
    servable.score(prompt, ["1"], extra(cache_salt="c"), NEVER, ignore)
    assert engine.gauges().prefix_hit_tokens == before


@pytest.fixture(scope="module")
def narrow(checkpoint: str) -> Iterator[LmServable]:
    """One sequence at a time, slowly; ten requests at once; a few tokens may wait."""
    step = SampleDecoder.step

    def slow(self: SampleDecoder, seqs: Ints, rows: Floats) -> Continue | None:
        time.sleep(0.01)
        return step(self, seqs, rows)

    found = load(
        checkpoint,
        BATCH_SIZE="1",
        MAX_LIVE_BATCHES="10",
        INPUT_SEQ_LEN="28",
        MAX_DECODE_STEPS="100",
        MAX_QUEUED_TOKENS="25",
        STOP_TOKEN_IDS="[1]",
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SampleDecoder, "step", slow)
        yield found
    assert found.wait_until_idle(30)
    found.check_integrity()
    found.unload()


class Waiting:
    """Requests under way, and the order in which they end."""

    def __init__(self, servable: LmServable) -> None:
        self._servable = servable
        self._threads: list[threading.Thread] = []
        self.ended: list[str] = []
        self.answers: dict[str, list[tuple[str, float]]] = {}
        self.cancels: list[Callable[[], None]] = []

    def start(self, name: str, prompt: str, **sent: Any) -> None:
        begun = threading.Event()

        def on_cancel(cancel: Callable[[], None]) -> None:
            self.cancels.append(cancel)
            begun.set()

        def run() -> None:
            try:
                answers = pairs(self._servable.generate(prompt, extra(**sent), NEVER, on_cancel))
                self.answers[name] = answers
                self.ended.append(name)
            except errors.CancelledError:
                pass

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()
        assert begun.wait(10)

    def start_running(self, **sent: Any) -> None:
        """Starts a long one, "running", and waits until it runs: it does not wait any more."""
        self.start("running", PROMPT, logit_bias="9=100", **sent)
        end = time.monotonic() + 30
        while (now := engine_of(self._servable).gauges()).queued_tokens or not now.running:
            assert time.monotonic() < end, now
            time.sleep(0.001)

    def join(self) -> list[str]:
        for thread in self._threads:
            thread.join(30)
        return self.ended


def test_higher_priority_starts_first(narrow: LmServable) -> None:
    waiting = Waiting(narrow)
    waiting.start_running(priority=100)
    for name, priority in (("low", -1), ("plain", 0), ("high", 1), ("later", 0)):
        waiting.start(name, PROMPT, priority=priority, per_example_max_decode_steps=2)
    assert waiting.ended == []
    assert waiting.join() == ["running", "high", "plain", "later", "low"]


def test_running_request_makes_way_for_a_higher_priority_and_answers_the_same(
    narrow: LmServable,
) -> None:
    sampled = {"temperature": 1.0, "seed": 3, "min_decode_steps": 60}
    alone = ask(narrow, PROMPT, **sampled)
    waiting = Waiting(narrow)
    waiting.start("low", PROMPT, **sampled)
    time.sleep(0.1)
    waiting.start("high", "9,9", priority=1, per_example_max_decode_steps=2)
    assert waiting.join() == ["high", "low"]
    ((text, score),) = waiting.answers["low"]
    assert text == alone[0][0]
    assert score == pytest.approx(alone[0][1], rel=1e-5)  # its tokens were computed anew


def test_more_tokens_than_may_wait_are_refused_at_once(narrow: LmServable) -> None:
    waiting = Waiting(narrow)
    waiting.start_running(priority=100)
    waiting.start("first", ",".join(["5"] * 20), per_example_max_decode_steps=2)
    with pytest.raises(errors.ResourceExhaustedError) as refused:
        ask(narrow, ",".join(["6"] * 20))
    assert refused.value.retry_after_s is not None
    assert 0.01 <= refused.value.retry_after_s <= 5
    # What can never be served is told first.
    with pytest.raises(errors.InvalidArgumentError, match="min_p"):
        ask(narrow, PROMPT, min_p=2)
    # A shorter one fits.
    waiting.start("second", "7,7", per_example_max_decode_steps=2)
    waiting.cancels[0]()
    assert waiting.join() == ["first", "second"]
    assert narrow.stats["lm.generate"].to_proto().pending_reqs == 0


def test_any_number_of_suffixes_is_scored_though_few_tokens_may_wait(narrow: LmServable) -> None:
    suffixes = [str(i) for i in range(2, 60)]
    found = narrow.score(PROMPT, suffixes, extra(), NEVER, ignore)
    assert len(found) == 58
    few = narrow.score(PROMPT, ["5", "59"], extra(), NEVER, ignore)
    assert few == pytest.approx([found[3], found[57]], abs=1e-5)
    waiting = Waiting(narrow)
    waiting.start_running(priority=100)
    waiting.start("first", ",".join(["5"] * 22), per_example_max_decode_steps=2)
    with pytest.raises(errors.ResourceExhaustedError):
        narrow.score(PROMPT, suffixes, extra(), NEVER, ignore)
    waiting.cancels[0]()
    assert waiting.join() == ["first"]


def test_client_that_leaves_ends_all_of_its_suffixes(narrow: LmServable) -> None:
    waiting = Waiting(narrow)
    waiting.start_running(priority=100)
    begun = threading.Event()
    cancels: list[Callable[[], None]] = []
    raised: list[BaseException] = []

    def on_cancel(cancel: Callable[[], None]) -> None:
        cancels.append(cancel)
        begun.set()

    def score() -> None:
        try:
            narrow.score(PROMPT, ["1"] * 50, extra(), NEVER, on_cancel)
        except errors.SaxError as error:
            raised.append(error)

    thread = threading.Thread(target=score)
    thread.start()
    assert begun.wait(10)
    cancels[0]()
    thread.join(30)
    assert [type(error) for error in raised] == [errors.CancelledError]
    waiting.cancels[0]()
    assert waiting.join() == []
    assert engine_of(narrow).pending == 0


def test_methods_and_rows_are_those_of_the_configuration(checkpoint: str) -> None:
    found = load(checkpoint, ENABLE_GENERATE="false", NUM_CACHE_SLOTS="3", BATCH_SIZE="1")
    assert sorted(found.stats) == ["lm.embed", "lm.generate_stream", "lm.score"]
    assert engine_of(found).options.max_rows == 3
    with pytest.raises(errors.InvalidArgumentError, match=r"does not offer lm\.generate;"):
        ask(found)
    found.unload()
