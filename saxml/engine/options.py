"""How an engine is sized and how it chooses tokens; fixed when its steps are compiled."""

import dataclasses

from saxml.common import errors
from saxml.engine import pace
from saxml.ops.backend import PLAIN, Backend


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Sizes are in tokens, pages and rows (a row is one sequence in a step).

    max_model_len   prompt plus generated tokens of the longest sequence
    max_rows        sequences alive at once; a request with four beams counts four
    buckets         token counts that steps are padded to, ascending; each is compiled at load, the
    last is the
                    budget of one step
    queue_capacity  requests that may wait before others are refused
    max_queued_tokens  prompt tokens that may wait before others are refused; None: any number
    top_k           candidates kept before sampling; 0: the whole vocabulary
    num_candidates  best tokens a row that beam search gets to see; 0 without beams
    stop_ids        tokens that end a sequence
    max_logprobs    best tokens whose log-probabilities a request may ask for
    prefix_cache    whether full pages are kept for prompts that begin alike
    run_ahead       whether a step is given to the device before the tokens of the last one were
                    read, where all requests in it allow it
    prefill_stretch how many times longer prompts may make a step that decodes; inf: no bound
    backend         how the model's operations are computed; its parameters are packed for it
    """

    page_size: int
    num_pages: int
    max_model_len: int
    max_rows: int
    buckets: tuple[int, ...]
    queue_capacity: int
    top_k: int
    num_candidates: int
    stop_ids: tuple[int, ...]
    max_logprobs: int = 0
    prefix_cache: bool = True
    max_queued_tokens: int | None = None
    run_ahead: bool = False
    prefill_stretch: float = pace.STRETCH
    backend: Backend = PLAIN

    def __post_init__(self) -> None:
        if self.buckets[-1] < self.max_rows:
            raise errors.InvalidArgumentError(
                f"the largest token bucket, {self.buckets[-1]}, is smaller than the"
                f" {self.max_rows} rows a step may have"
            )

    def check_vocabulary(self, size: int) -> None:
        """Raises InvalidArgumentError for what a vocabulary of this size does not have."""
        if self.num_candidates > size:
            raise errors.InvalidArgumentError(
                f"TOKENS_PER_BEAM and stop tokens need {self.num_candidates} candidates;"
                f" the vocabulary has {size}"
            )
        if self.max_logprobs > size:
            raise errors.InvalidArgumentError(
                f"max_logprobs is {self.max_logprobs}; the vocabulary has {size} tokens"
            )
        if outside := [i for i in self.stop_ids if not 0 <= i < size]:
            raise errors.InvalidArgumentError(
                f"stop token {outside[0]} is outside the vocabulary of {size}"
            )


def token_buckets(max_rows: int, max_prompt: int, largest: int = 256) -> tuple[int, ...]:
    """Token buckets for up to max_rows decode rows and prompts of up to max_prompt tokens.

    Powers of four and max_rows itself, so that padding never costs more than a few times the work
    and few programs are compiled; the largest is a chunk of prefill on top of the decode rows.
    """
    chunk = min(largest, max_prompt)
    top = max(max_rows, chunk)
    sizes = {1, max_rows, top}
    size = 4
    while size < top:
        sizes.add(size)
        size *= 4
    return tuple(sorted(sizes))
