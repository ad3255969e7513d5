"""A cell of real processes in a folder: started one by one, watched, and stopped together."""

import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

_STOP_GRACE_S = 10.0
_LOG_PERIOD_S = 0.1


class ProcessError(Exception):
    """A process of the cell ended by itself, or did not say in time what was waited for."""


class Process:
    """One program with its output in a file."""

    def __init__(self, name: str, command: Sequence[str], log: pathlib.Path) -> None:
        self.name = name
        self._log = log
        self._read = 0
        with log.open("wb") as out:
            # A session of its own: Ctrl-C reaches the launcher, which stops the others in order.
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(
        self, pattern: str, timeout_s: float, on_line: Callable[[str], None] = lambda line: None
    ) -> re.Match[str]:
        """The first match in the lines written since the last call. Each line is shown to on_line.

        Raises ProcessError, with the end of the log, when the program ends or the time is over.
        """
        compiled = re.compile(pattern)
        deadline = time.monotonic() + timeout_s
        while True:
            ended = self._child.poll()
            for line in self._new_lines():
                on_line(line)
                if found := compiled.search(line):
                    return found
            if ended is not None:
                raise ProcessError(f"the {self.name} ended with code {ended}:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"the {self.name} did not get ready in {timeout_s:.0f} s:\n{self._tail()}"
                )
            time.sleep(_LOG_PERIOD_S)

    def check(self) -> None:
        """Raises ProcessError if the program has ended."""
        if (code := self._child.poll()) is not None:
            raise ProcessError(f"the {self.name} ended with code {code}:\n{self._tail()}")

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to the whole session if that does not help in time."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            try:
                self._child.wait(_STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
        self._child.wait()

    def _new_lines(self) -> list[str]:
        with self._log.open("rb") as log:
            log.seek(self._read)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.decode(errors="replace").splitlines()

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
