"""How many programs this process has compiled, as JAX itself reports.

Importing this module starts the count. Programs that come from the compile cache are counted too:
they stop a server for less time, but should not be needed after a model has loaded either.
"""

import threading
from typing import Any

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
_lock = threading.Lock()
_count = 0
_seconds = 0.0


def _note(event: str, duration_secs: float, **unused: Any) -> None:
    global _count, _seconds
    if event == _EVENT:
        with _lock:
            _count += 1
            _seconds += duration_secs


jax.monitoring.register_event_duration_secs_listener(_note)


def count() -> int:
    """Programs since the start of the process."""
    return _count


def seconds() -> float:
    """The time that they took together."""
    return _seconds
