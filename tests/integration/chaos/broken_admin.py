"""An admin server that is made worse than it is: what the harness must notice."""

import asyncio
from collections.abc import Callable
from typing import Any

from absl import app, flags

from saxml.admin import admin_server, election
from saxml.admin.lease import Outcome, Read, Write, execute
from saxml.admin.registry import Registry
from saxml.proto import admin_pb2
from saxml.storage.base import Store

_BROKEN = flags.DEFINE_enum(
    "broken", None, ["nothing", "early_ack", "blind_lease"], "How.", required=True
)
# Longer than the pause between two publishes.
_LATE_S = 3.0


def _acknowledge_before_the_write() -> None:
    """What was published is kept in memory, and written later."""
    writes: set[asyncio.Task[None]] = set()

    async def change_locked(
        self: Any, change: Callable[[dict[str, admin_pb2.Model]], None]
    ) -> None:
        async with self._lock:
            models = {i: p.proto for i, p in self.models.items()}
            change(models)
            self._apply(models)

        async def write() -> None:
            await asyncio.sleep(_LATE_S)
            await asyncio.to_thread(self._state.save, [p.proto for p in self.models.values()])

        task = asyncio.create_task(write())
        writes.add(task)
        task.add_done_callback(writes.discard)

    Registry._change_locked = change_locked  # type: ignore[method-assign]


def _renew_without_a_look_at_the_generation() -> None:
    """The lease is written whatever is in it."""

    class Blind:
        def __init__(self, store: Store) -> None:
            self.root, self.read, self._store = store.root, store.read, store

        def write(self, name: str, data: bytes, *, if_generation: int | None = None) -> int:
            return self._store.write(name, data)

    def execute_blindly(store: Store, name: str, action: Read | Write) -> Outcome:
        blind: Any = Blind(store)
        return execute(blind, name, action)

    election.execute = execute_blindly  # type: ignore[attr-defined]


def main(argv: list[str]) -> None:
    if _BROKEN.value == "early_ack":
        _acknowledge_before_the_write()
    elif _BROKEN.value == "blind_lease":
        _renew_without_a_look_at_the_generation()
    admin_server.main(argv)


if __name__ == "__main__":
    app.run(main)
