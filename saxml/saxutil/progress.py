"""How far a model is, on standard error: one line that changes, or a line a change."""

import shutil
import sys
import time
from types import TracebackType

from saxml.client.readiness import Progress

_CLEAR_LINE = "\r\x1b[K"


class ProgressDisplay:
    """with ProgressDisplay() as display: wait_until_ready(..., display.show)."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._start = time.monotonic()
        self._last = ""

    def __enter__(self) -> "ProgressDisplay":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_terminal and self._last:
            sys.stderr.write("\n")

    def show(self, progress: Progress) -> None:
        """Says what there is to say; plain lines only when it is news."""
        text = _text(progress)
        if self._is_terminal:
            text = f"{text} ({time.monotonic() - self._start:.0f} s)"
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(
                _CLEAR_LINE + (text if len(text) <= width else text[: width - 3] + "...")
            )
        elif text != self._last:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()
        self._last = text


def _text(progress: Progress) -> str:
    ready = "?" if progress.ready is None else progress.ready
    loading = max(0, progress.assigned - (progress.ready or 0))
    parts = [f"{progress.model_id}: {ready} of {progress.wanted} replicas ready"]
    if loading and progress.ready is not None and progress.ready < progress.wanted:
        parts.append(f"{loading} loading")
    if progress.current is not None and progress.current < (progress.ready or 0):
        parts.append(f"{progress.current} with the published checkpoint")
    if progress.why:
        parts.append(progress.why)
    return "; ".join(parts)
