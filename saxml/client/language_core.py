"""What language model methods send and how their answers read."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from saxml.client.model_core import ModelCore
from saxml.client.retry import DEFAULT_TIMEOUT_S
from saxml.client.rpc import EMBED, GENERATE, GENERATE_STREAM, GRADIENT, SCORE
from saxml.common.errors import InternalError
from saxml.proto import common_pb2, lm_pb2


@dataclass(frozen=True, slots=True)
class TokenLogProb:
    """A token, the bytes that it stands for (none where a model answers with ids), and its
    log-probability, under the model's own distribution."""

    id: int
    token: bytes
    logp: float


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of a text, and the most likely ones in its place, best first. The first token of a
    prompt has no log-probability."""

    id: int
    token: bytes
    logp: float | None
    best: tuple[TokenLogProb, ...]


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer to a prompt and its score: the higher, the better; and its tokens, what ended it
    included, if they were asked for (extra input logprobs)."""

    text: str
    score: float
    tokens: tuple[ScoredToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """The answers to a prompt, best first; and the tokens of the prompt, if they were asked for
    (extra input prompt_logprobs)."""

    answers: tuple[Generated, ...]
    prompt: tuple[ScoredToken, ...]


@dataclass(frozen=True, slots=True)
class StreamItem:
    """News of one sample: keep `prefix_len` characters of its text so far, append `text`; and its
    new tokens, if they were asked for."""

    text: str
    prefix_len: int
    scores: tuple[float, ...]
    tokens: tuple[ScoredToken, ...] = ()

    def apply(self, so_far: str) -> str:
        """The sample's text after this item."""
        if self.prefix_len > len(so_far):
            raise InternalError(f"PrefixLen {self.prefix_len} exceeds the current result {so_far}")
        return so_far[: self.prefix_len] + self.text


class LanguageModelCore:
    """score, generate, generate_stream, embed and gradient of one model.

    `extra` are per-request inputs, such as a temperature. Every call ends within `timeout_s`
    seconds, waiting for a server and all tries included; errors are SaxError.
    """

    def __init__(self, client: ModelCore) -> None:
        self._client = client
        self._key = client.model.full

    async def score(
        self,
        prefix: str,
        suffixes: Sequence[str],
        extra: common_pb2.ExtraInputs | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> list[float]:
        """Sum of log p(token) over each suffix, given the prefix."""
        request = lm_pb2.ScoreRequest(
            model_key=self._key, suffix=suffixes, prefix=prefix, extra_inputs=_present(extra)
        )
        return [*(await self._client.call(SCORE, request, timeout_s)).logp]

    async def generate(
        self,
        text: str,
        extra: common_pb2.ExtraInputs | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> list[Generated]:
        """Continues a text; best first."""
        return [*(await self.generate_detail(text, extra, timeout_s)).answers]

    async def generate_detail(
        self,
        text: str,
        extra: common_pb2.ExtraInputs | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Generation:
        """The same, with the prompt's tokens."""
        request = lm_pb2.GenerateRequest(
            model_key=self._key, text=text, extra_inputs=_present(extra)
        )
        response = await self._client.call(GENERATE, request, timeout_s)
        return Generation(
            tuple(Generated(t.text, t.score, _tokens(t.tokens)) for t in response.texts),
            _tokens(response.prompt_tokens),
        )

    async def generate_stream(
        self,
        text: str,
        extra: common_pb2.ExtraInputs | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> AsyncGenerator[list[StreamItem], None]:
        """Continues a text as it is made: one item for each sample in every chunk."""
        request = lm_pb2.GenerateRequest(
            model_key=self._key, text=text, extra_inputs=_present(extra)
        )
        stream = self._client.stream(GENERATE_STREAM, request, timeout_s)
        async with aclosing(stream) as responses:
            async for response in responses:
                yield [
                    StreamItem(
                        item.text,
                        item.prefix_len,
                        tuple(item.scores) or (item.score,),
                        _tokens(item.tokens),
                    )
                    for item in response.items
                ]

    async def embed(
        self,
        text: str,
        extra: common_pb2.ExtraInputs | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> list[float]:
        """The embedding of a text."""
        request = lm_pb2.EmbedRequest(model_key=self._key, text=text, extra_inputs=_present(extra))
        return [*(await self._client.call(EMBED, request, timeout_s)).embedding]

    async def gradient(
        self,
        prefix: str,
        suffix: str,
        extra: common_pb2.ExtraInputs | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> tuple[list[float], dict[str, list[float]]]:
        """The score of a suffix, and its gradients by tensor name."""
        request = lm_pb2.GradientRequest(
            model_key=self._key, suffix=suffix, prefix=prefix, extra_inputs=_present(extra)
        )
        response = await self._client.call(GRADIENT, request, timeout_s)
        return [*response.score], {k: [*g.values] for k, g in sorted(response.gradients.items())}


def _tokens(found: Sequence[lm_pb2.ScoredToken]) -> tuple[ScoredToken, ...]:
    return tuple(
        ScoredToken(
            t.id,
            t.token,
            t.logp if t.HasField("logp") else None,
            tuple(TokenLogProb(other.id, other.token, other.logp) for other in t.best),
        )
        for t in found
    )


def _present(extra: common_pb2.ExtraInputs | None) -> common_pb2.ExtraInputs:
    """Servers always find the field, even if it is empty."""
    return extra if extra is not None else common_pb2.ExtraInputs()
