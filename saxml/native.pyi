"""
The native core of the model server: KV pages, scheduling, text.
"""

from __future__ import annotations

import collections.abc
import enum

import numpy
import numpy.typing

__all__: list[str] = [
    "DropReason",
    "OutOfPagesError",
    "PagePool",
    "QueueFullError",
    "Scheduler",
    "StepPlan",
    "StopMatcher",
    "Utf8Decoder",
    "format_token_ids",
    "parse_token_ids",
]

class QueueFullError(RuntimeError):
    """
    Scheduler.submit found as many requests, or tokens, waiting as may wait.
    """

class OutOfPagesError(RuntimeError):
    """
    PagePool.allocate found no free page.
    """

class DropReason(enum.Enum):
    """
    Why plan() gave a request up.
    """

    CANCELLED = ...
    EXPIRED = ...
    STUCK = ...

class PagePool:
    """
    Reference-counted, fixed-size pages of the KV cache.

    It knows numbers only; one thread owns it. Raises ValueError for a page that is unknown
    or, where a used one is needed, free.
    """
    def __init__(self, num_pages: int, page_size: int) -> None: ...
    def allocate(self) -> int:
        """
        Give a free page, now used once; raises OutOfPagesError.
        """
    def check_integrity(self) -> None:
        """
        Raise RuntimeError with the numbers if the free list and the counts disagree.
        """
    def ref_count(self, page: int) -> int:
        """
        Count the users of a page.
        """
    def release(self, page: int) -> None:
        """
        Count one user less; without users the page is free.
        """
    def retain(self, page: int) -> None:
        """
        Count one user more.
        """
    @property
    def free_pages(self) -> int:
        """
        Pages that nobody uses.
        """
    @property
    def num_pages(self) -> int:
        """
        Pages in all.
        """
    @property
    def page_size(self) -> int:
        """
        Tokens a page holds.
        """

class StepPlan:
    """
    One step of the device, padded to its bucket.

    The arrays share the plan's memory and keep it alive; Scheduler.packed_offsets says what
    lies where in `packed`.
    """
    @property
    def bucket(self) -> int:
        """
        T, the tokens that the arrays have room for.
        """
    @property
    def entry_request(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        Request id of each entry.
        """
    @property
    def entry_seq(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        Index of each entry's sequence inside its request.
        """
    @property
    def entry_target(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        Token whose log-probability is wanted, -1 where tokens are chosen.
        """
    @property
    def num_copies(self) -> int:
        """
        Pages to copy before anything is written.
        """
    @property
    def num_decode_rows(self) -> int:
        """
        Rows of one token that was chosen in an earlier step.
        """
    @property
    def num_entries(self) -> int:
        """
        Tokens whose logits are wanted.
        """
    @property
    def num_rows(self) -> int:
        """
        Sequences that take part; those that decode come first.
        """
    @property
    def num_tokens(self) -> int:
        """
        Tokens of the step.
        """
    @property
    def packed(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        All sections in one array, for one transfer.
        """
    @property
    def row_request(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        Request id of each row.
        """

class Scheduler:
    """
    Continuous batching over paged KV: what runs next, on which pages.

    submit, cancel, wait, wake and the properties may be used from any thread, the rest from
    the engine's thread only. A request is started only when its rows and its worst case of
    pages can be set aside, so a running one is never stopped for want of pages, only for
    one of higher priority that finds no room. Requests start by priority, then in the order
    of their arrival. Full pages of keys and values are
    kept for prompts that begin alike, until others need them; plans must be run in order.
    """
    def __init__(
        self,
        *,
        num_pages: int,
        page_size: int,
        max_rows: int,
        buckets: collections.abc.Sequence[int],
        max_model_len: int,
        queue_capacity: int,
        row_params: int,
        prefix_cache: bool = True,
        max_preemptions: int = 3,
        max_queued_tokens: int | None = None,
    ) -> None:
        """
        Set the sizes; ValueError if they do not fit together.

        buckets: ascending token counts that steps are padded to; the last is the most tokens of
        a step and at least max_rows, the most sequences at once. max_model_len: most tokens of
        a sequence. row_params: words that travel with each request. prefix_cache: whether pages
        are kept for later prompts. max_preemptions: how often a request is suspended at most
        for others of higher priority. max_queued_tokens: most prompt tokens that wait, None for any
        number; a request that comes while none waits is always taken.
        """
    def advance(
        self,
        request_id: int,
        parents: numpy.typing.NDArray[numpy.int32],
        tokens: numpy.typing.NDArray[numpy.int32],
        samples: numpy.typing.NDArray[numpy.int32] | None = None,
    ) -> None:
        """
        Replace a request's sequences after its entries were emitted.

        Child j continues sequence parents[j] with tokens[j]; 1 to width children. samples[j]
        is what its entries carry as entry_sample from now on; None: j. Pages are
        shared, those of sequences without a child are released. ValueError if nothing is
        awaited, a parent does not exist, there are too many children, or max_new_tokens would
        be passed.
        """
    def cancel(self, request_id: int) -> None:
        """
        Have the next plan() drop a request; unknown ids are ignored. Any thread.
        """
    def check_integrity(self) -> None:
        """
        Raise RuntimeError with the numbers if counts, tables and reservations disagree.
        """
    def finish(self, request_id: int) -> None:
        """
        Release all that a request holds; unknown ids are ignored.
        """
    def packed_offsets(self, bucket: int) -> dict[str, tuple[int, int]]:
        """
        Give (offset, length) of each section of StepPlan.packed in a bucket, in order.

        With T the bucket, R = min(T, max_rows), MP = ceil(max_model_len / page_size), W =
        row_params: header[8] (num_tokens, num_rows, num_decode_rows, num_entries, num_copies,
        0, 0, 0), tokens[T], token_source[T], positions[T], slots[T], q_start[R + 1], kv_len[R],
        page_table[R * MP], copy_src[R], copy_dst[R], entry_token[R], entry_target[R],
        entry_sample[R], entry_position[R], entry_params[R * W].
        """
    def plan(self, now: float) -> StepPlan | None:
        """
        Choose the next step, or None when there is nothing to do.

        Drops what was cancelled or is late by `now` (time.monotonic() seconds), and a request
        that is stuck, if there ever is one. Then takes
        every sequence with a pending token and fills up with prompts. It takes microseconds and
        keeps the GIL.
        """
    def resolve(
        self,
        request_id: int,
        samples: numpy.typing.NDArray[numpy.int32],
        tokens: numpy.typing.NDArray[numpy.int32],
    ) -> None:
        """
        Tell the tokens that a request has run ahead with.

        The sequences of samples[j], in ascending order of their places, go on with tokens[j];
        the others end, and what later plans emitted for them is stale. ValueError if the request
        has not run ahead, or no such sample goes on.
        """
    def run_ahead(self, request_ids: collections.abc.Sequence[int]) -> bool:
        """
        Have requests go on before the tokens that the last plan's entries give are known.

        The next plan's token_source says which entry of the last one gives each such token.
        Requests that end with these tokens, and scored ones, stay as they are. False, and nothing
        has changed, if one
        of them cannot go on so, or is to make way for a request of a higher priority: then
        advance them first.
        """
    def set_mix(self, largest: collections.abc.Sequence[int]) -> None:
        """
        Bound the tokens of steps that decode: when the decode rows alone fit into buckets[i],
        prompts may fill a step of largest[i] tokens. They get at least 8 tokens a step all the
        same.
        Before the first plan().

        Raises ValueError unless there is one of the buckets, no smaller, for each.
        """
    def submit(
        self,
        request_id: int,
        prompt: numpy.typing.NDArray[numpy.int32],
        *,
        width: int,
        fork_at_start: bool,
        max_new_tokens: int,
        targets: numpy.typing.NDArray[numpy.int32],
        row_params: numpy.typing.NDArray[numpy.int32],
        deadline: float,
        priority: int = 0,
        cache_salt: int = 0,
        cache_read: bool = True,
    ) -> None:
        """
        Queue a request; any thread.

        width: most sequences alive at once (beams or samples). fork_at_start: the finished
        prompt emits `width` entries (samples 0..width-1) instead of one. targets: empty to
        generate; to score, the last len(targets) prompt tokens each emit an entry with that
        target (then width is 1, max_new_tokens 0). deadline: time.monotonic() seconds, inf for
        none. priority: higher ones leave the queue first, lower ones wait as long as such ones
        come; where one finds no room, running ones of lower priority are suspended, wait in
        their old places, and are restored later: what they emitted is not emitted again.
        cache_salt: unsigned 64 bits; pages are shared among requests with the same one.
        cache_read: whether pages that others computed may be used; at least the last prompt
        token, and every one with a target, is computed in any case. Raises ValueError for a
        request that could never run and for an id in use, QueueFullError when queue_capacity
        requests or max_queued_tokens wait.
        """
    def take_dropped(self) -> list[tuple[int, DropReason]]:
        """
        Give the requests that plan() dropped since the last call, and why.
        """
    def wait(self, timeout: float) -> bool:
        """
        Wait at most `timeout` seconds for work, without the GIL; any thread.

        True as soon as a request waits, runs or is to be dropped, or wake() was called.
        """
    def wake(self) -> None:
        """
        Have one wait() return True. Any thread.
        """
    @property
    def cached_pages(self) -> int:
        """
        Pages kept for later prompts that no sequence uses; taken when none is free.
        """
    @property
    def free_pages(self) -> int:
        """
        Pages that hold nothing.
        """
    @property
    def preemptions(self) -> int:
        """
        How often a request was suspended for one of higher priority.
        """
    @property
    def prefix_hit_tokens(self) -> int:
        """
        How many of these were found and not computed again.
        """
    @property
    def prefix_queried_tokens(self) -> int:
        """
        Tokens of all prompts that were looked up in the prefix cache.
        """
    @property
    def queued_tokens(self) -> int:
        """
        Prompt tokens of the requests in the queue.
        """
    @property
    def running(self) -> int:
        """
        Requests that were started.
        """
    @property
    def stuck(self) -> int:
        """
        Requests given up because nothing could be planned: a bug if not 0.
        """
    @property
    def used_pages(self) -> int:
        """
        Pages that sequences use: all but the free and the cached.
        """
    @property
    def used_tokens(self) -> int:
        """
        Tokens in the used pages, those of shared pages once; the rest of these pages is waste.
        """
    @property
    def waiting(self) -> int:
        """
        Requests that wait: in the queue, or suspended.
        """

class Utf8Decoder:
    """
    UTF-8 that arrives in pieces, as characters.

    What comes out does not depend on where the bytes were cut. Bytes that are not UTF-8
    become U+FFFD, one for each maximal subpart, as bytes.decode(errors="replace") has it.
    """
    def __init__(self) -> None: ...
    def feed(self, data: bytes) -> str:
        """
        Give the characters that data completes; the start of one is kept.
        """
    def finish(self) -> str:
        """
        Give U+FFFD if a character was left incomplete, else ""; then start afresh.
        """

class StopMatcher:
    """
    Ends a text before the first of several stop strings.

    Held back is exactly the longest end of the text that is a proper prefix of some stop
    string. The stop string that is complete first counts; of those complete at the same
    character, the longest.
    """
    def __init__(self, stops: collections.abc.Sequence[str]) -> None:
        """
        Set the stop strings; ValueError if one is empty.
        """
    def feed(self, text: str) -> str:
        """
        Give the text that can go out now; "" once a stop string was found.
        """
    def finish(self) -> str:
        """
        Give what was held back: the text is over.
        """
    @property
    def matched(self) -> str | None:
        """
        The stop string that was found, or None.
        """

def format_token_ids(ids: numpy.typing.NDArray[numpy.int32]) -> str:
    """
    Write token ids as "1,2,3"; no ids give "".
    """

def parse_token_ids(text: str) -> numpy.typing.NDArray[numpy.int32]:
    """
    Read token ids from "1,2,3"; blanks around the numbers are allowed.

    ValueError names the piece that is not a number from 0 to 2147483647, and its place.
    """
