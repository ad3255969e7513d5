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
class Generated:
    """One answer to a prompt and its score: the higher, the better."""

    text: str
    score: float


@dataclass(frozen=True, slots=True)
class StreamItem:
    """News of one sample: keep `prefix_len` characters of its text so far, append `text`."""

    text: str
    prefix_len: int
    scores: tuple[float, ...]

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
        request = lm_pb2.GenerateRequest(
            model_key=self._key, text=text, extra_inputs=_present(extra)
        )
        response = await self._client.call(GENERATE, request, timeout_s)
        return [Generated(decoded.text, decoded.score) for decoded in response.texts]

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
                    StreamItem(item.text, item.prefix_len, tuple(item.scores) or (item.score,))
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


def _present(extra: common_pb2.ExtraInputs | None) -> common_pb2.ExtraInputs:
    """Servers always find the field, even if it is empty."""
    return extra if extra is not None else common_pb2.ExtraInputs()
