"""Runs saxutil as users do: a process of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    out: str
    err: str


def command() -> list[str]:
    """The Bazel binary where there is one, else the module."""
    runfiles = os.environ.get("TEST_SRCDIR")
    if runfiles:
        return [os.path.join(runfiles, os.environ["TEST_WORKSPACE"], "saxml/saxutil/saxutil")]
    return [sys.executable, "-m", "saxml.saxutil.main"]


def saxutil(*args: str, root: Path | None = None, stdin: str = "") -> Result:
    environ = {k: v for k, v in os.environ.items() if k not in ("SAX_ROOT", "TERM")}
    if root:
        environ["SAX_ROOT"] = str(root)
    done = subprocess.run(
        [*command(), *args],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        env=environ,
        timeout=60,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)
