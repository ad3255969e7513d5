"""Terms of admin servers: a server that was deposed must not load or unload anything any more."""

import threading
from collections.abc import Iterable

from saxml.common import errors
from saxml.common.names import TERM_METADATA


class TermFence:
    """Remembers the highest term that has spoken and refuses lower ones; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._highest = 0

    def check(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Checks the metadata of a call from an admin server.

        Calls without a term, from admin servers that know none, pass. Raises
        FailedPreconditionError for a term that is over, InvalidArgumentError for one that is no
        number.
        """
        text = dict(metadata).get(TERM_METADATA)
        if text is None:
            return
        try:
            term = int(text)
        except ValueError:
            raise errors.InvalidArgumentError(
                f"{TERM_METADATA} is {text!r}; it must be a number"
            ) from None
        with self._lock:
            if term < self._highest:
                raise errors.FailedPreconditionError(
                    f"term {term} is over: term {self._highest} has been seen"
                )
            self._highest = term
