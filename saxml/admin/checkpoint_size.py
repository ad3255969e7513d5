"""How many bytes the arrays of a checkpoint have, from its metadata alone.

sizes = CheckpointSizes(clock, on_change, read=read_size)
sizes.get("gs://b/gptj/checkpoint_00000000")    # None at first: it is being read
# ... on_change() is called ...
sizes.get("gs://b/gptj/checkpoint_00000000") == Size(12_100_000_000)
"""

import asyncio
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from saxml.common.clock import Clock
from saxml.common.errors import SaxError
from saxml.storage.base import open_store

# What could not be read is read again after this time, when somebody asks.
RETRY_S = 60.0
# So many checkpoints are remembered.
MOST = 10_000
_READERS = 4
_FILE = "metadata/metadata"
_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "uint32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "int4": 0.5,
    "uint4": 0.5,
}
_BYTES_OTHERWISE = 4


@dataclass(frozen=True, slots=True)
class Size:
    """The bytes of a checkpoint, or why they are not known."""

    bytes: int | None
    why: str = ""


class CheckpointSizes:
    """Reads in threads of its own and remembers; use it in one event loop until close()."""

    def __init__(
        self,
        clock: Clock,
        on_change: Callable[[], None],
        *,
        patience_s: float = 5.0,
        read: Callable[[str], Size],
    ) -> None:
        """on_change: called when a size has come to be known. patience_s: see get()."""
        self._patience_s = patience_s
        self._clock = clock
        self._on_change = on_change
        self._read = read
        self._threads = ThreadPoolExecutor(_READERS, thread_name_prefix="checkpoint size")
        self._known: dict[str, tuple[Size, float]] = {}
        # Checkpoint -> since when it is being read.
        self._reading: dict[str, float] = {}

    def get(self, checkpoint: str) -> Size | None:
        """The size; None while it is read for the first time and that takes no longer than
        patience_s. Never waits."""
        if checkpoint == "None":
            return Size(None, "checkpoint None")
        now = self._clock.monotonic()
        size, read_again = self._known.get(checkpoint, (None, -math.inf))
        if read_again <= now and checkpoint not in self._reading:
            self._reading[checkpoint] = now
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._threads, self._read, checkpoint)
            future.add_done_callback(lambda done: self._note(checkpoint, done))
        if size is None and self._reading[checkpoint] + self._patience_s <= now:
            return Size(None, f"{checkpoint}/{_FILE} is still being read")
        return size

    def next_due(self, now: float) -> float:
        """When patience with one of them ends; infinity if none is awaited."""
        ends = (since + self._patience_s for since in self._reading.values())
        return min((end for end in ends if end > now), default=math.inf)

    def close(self) -> None:
        """Waits for nothing; what is still being read is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _note(self, checkpoint: str, done: "asyncio.Future[Size]") -> None:
        self._reading.pop(checkpoint, None)
        if done.cancelled():
            return
        error = done.exception()
        size = Size(None, f"cannot read {checkpoint}/{_FILE}: {error}") if error else done.result()
        again = self._clock.monotonic() + RETRY_S if size.bytes is None else math.inf
        if len(self._known) >= MOST:
            self._known.pop(next(iter(self._known)))
        old, _ = self._known.get(checkpoint, (None, 0.0))
        self._known[checkpoint] = (size, again)
        if size != old:
            self._on_change()


def read_size(checkpoint: str) -> Size:
    """Reads the metadata of the checkpoint in a folder or bucket; blocks."""
    if not checkpoint.startswith(("/", "gs://")):
        return Size(None, f"checkpoint {checkpoint} is a path relative to its servers")
    where = f"{checkpoint}/{_FILE}"
    try:
        stored = open_store(checkpoint).read(_FILE)
    except SaxError as error:
        return Size(None, f"cannot read {where}: {error}")
    if stored is None:
        return Size(None, f"{where} is missing")
    try:
        tree = json.loads(stored.data)["train_state_metadata"]["mdl_vars"]
        size = math.ceil(_sum(tree))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return Size(None, f"{where} is not the metadata of a Pax checkpoint ({error!r})")
    return Size(size) if size > 0 else Size(None, f"{where} lists no arrays")


def _sum(node: Any) -> float:
    if isinstance(node, list):
        return sum(_sum(child) for child in node)
    if not isinstance(node, dict):
        return 0
    if node.get("_array_metadata_tag"):
        if node.get("is_optax_masked_node"):
            return 0
        elements = math.prod(int(n) for n in node["unpadded_shape"])
        return elements * _BYTES.get(str(node["dtype"]), _BYTES_OTHERWISE)
    return sum(_sum(child) for child in node.values())
