"""The language model methods of a published model, for threads."""

from collections.abc import Generator, Sequence

from saxml.client.driver import iterate, run
from saxml.client.language_core import Generated, Generation, LanguageModelCore, StreamItem
from saxml.client.model_client import ModelClient
from saxml.client.retry import DEFAULT_TIMEOUT_S
from saxml.proto import common_pb2

__all__ = ["Generated", "Generation", "LanguageModel", "StreamItem"]


class LanguageModel:
    """score, generate, generate_stream, embed and gradient of one model.

    `extra` are per-request inputs, such as a temperature. Every call ends within `timeout_s`
    seconds, waiting for a server and all tries included; errors are SaxError.
    """

    def __init__(self, client: ModelClient) -> None:
        self._client = client  # keeps the connections
        self._core = LanguageModelCore(client.core)

    def score(
        self,
        prefix: str,
        suffixes: Sequence[str],
        extra: common_pb2.ExtraInputs | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> list[float]:
        """Sum of log p(token) over each suffix, given the prefix."""
        return run(self._core.score(prefix, suffixes, extra, timeout_s))

    def generate(
        self,
        text: str,
        extra: common_pb2.ExtraInputs | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> list[Generated]:
        """Continues a text; best first."""
        return run(self._core.generate(text, extra, timeout_s))

    def generate_detail(
        self,
        text: str,
        extra: common_pb2.ExtraInputs | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Generation:
        """The same, with the prompt's tokens."""
        return run(self._core.generate_detail(text, extra, timeout_s))

    def generate_stream(
        self,
        text: str,
        extra: common_pb2.ExtraInputs | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Generator[list[StreamItem], None, None]:
        """Continues a text as it is made: one item for each sample in every chunk."""
        return iterate(self._core.generate_stream(text, extra, timeout_s))

    def embed(
        self,
        text: str,
        extra: common_pb2.ExtraInputs | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> list[float]:
        """The embedding of a text."""
        return run(self._core.embed(text, extra, timeout_s))

    def gradient(
        self,
        prefix: str,
        suffix: str,
        extra: common_pb2.ExtraInputs | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> tuple[list[float], dict[str, list[float]]]:
        """The score of a suffix, and its gradients by tensor name."""
        return run(self._core.gradient(prefix, suffix, extra, timeout_s))
