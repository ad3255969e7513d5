"""An engine in a process of its own, asked over pipes; see engines/protocol.py."""

import json
import pathlib
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self

_LAST_LINES = 8
_END_S = 30.0


class ChildError(Exception):
    """An engine's process ended, or did not answer in time; the text has the end of its log."""


class Child:
    """Starts at once; wait_until_ready() before the first task."""

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], log: pathlib.Path
    ) -> None:
        self._name = name
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=dict(env),
            )
        self._said: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_ready(self, timeout_s: float) -> dict[str, str]:
        """What the engine says of itself. Raises ChildError."""
        about: dict[str, str] = self._answer(timeout_s)["ready"]
        return about

    def run(self, task: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """The answer to a protocol.Task. Raises ChildError."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
        except OSError:
            self._process.wait(_END_S)
            raise ChildError(self._failure("ended")) from None
        return self._answer(timeout_s)

    def close(self) -> None:
        """Ends it: kindly, and if that does not help with SIGKILL."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(_END_S)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(line)
        self._said.put("")

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        try:
            line = self._said.get(timeout=timeout_s)
        except queue.Empty:
            self._process.kill()
            raise ChildError(
                self._failure(f"did not answer in {timeout_s:.0f} s and was ended")
            ) from None
        if not line:
            code = self._process.wait()
            raise ChildError(self._failure(f"ended with code {code}"))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failure(self, what: str) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return f"{self._name} {what}:\n" + "\n".join([*lines[-_LAST_LINES:], f"(log: {self._log})"])
