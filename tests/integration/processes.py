"""Programs of ours as real processes whose log lines can be waited for."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping

from tests import permissions

_LINE = re.compile(r"([DIWEF])\d{4} \d\d:\d\d:\d\d\.\d{6} \d+ [\w.]+:\d+\] (.*)")


class Process:
    """python -m MODULE FLAGS..., with this process's import path and environment."""

    def __init__(
        self,
        module: str,
        *flags: str,
        env: Mapping[str, str] | None = None,
        obeys_permissions: bool = False,
    ) -> None:
        """obeys_permissions: those of files apply to it, also when root starts it."""
        command = [sys.executable, "-m", module, *flags]
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._ended = False
        self._process = subprocess.Popen(
            permissions.command(*command) if obeys_permissions else command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                "SAX_DEBUG_IPADDR": "1",
                **(env or {}),
            },
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *unused: object) -> None:
        self.kill()

    @property
    def output(self) -> str:
        """Everything on stderr so far."""
        with self._changed:
            return "\n".join(self._lines)

    @property
    def log(self) -> list[str]:
        """The log lines so far: severity, blank, text; without time, process and place."""
        with self._changed:
            return [f"{m[1]} {m[2]}" for line in self._lines if (m := _LINE.fullmatch(line))]

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its number, for who wants to look at it from outside."""
        return self._process.pid

    def wait_for(self, pattern: str, timeout_s: float = 30.0) -> re.Match[str]:
        """The first line in which `pattern` is found; its absence is an assertion."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found[:] = [m for line in self._lines if (m := re.search(pattern, line))]
            return bool(found) or self._ended

        with self._changed:
            self._changed.wait_for(look, timeout_s)
            assert found, f"no {pattern!r} in:\n" + "\n".join(self._lines)
        return found[0]

    def wait(self, timeout_s: float = 30.0) -> int:
        """The exit status."""
        code = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def interrupt(self) -> None:
        """SIGINT, as from Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def send_signal(self, number: signal.Signals) -> None:
        """Any signal, such as SIGSTOP."""
        self._process.send_signal(number)

    def pause(self) -> None:
        """SIGSTOP: it neither runs nor ends until resume()."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        self._process.kill()
        self.wait()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
