"""What a command of saxutil is, and how it says that it failed."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from saxml.client.admin_link import code_name
from saxml.client.retry import Deadline
from saxml.common.clock import SystemClock
from saxml.common.errors import SaxError
from saxml.common.names import ModelId, parse_model
from saxml.saxutil.go_flags import FlagSet, UsageError
from saxml.storage.cell import sax_root

SUCCESS, FAILURE, USAGE = 0, 1, 2


class CommandError(Exception):
    """A command failed; its text is for the user."""


def status_text(error: SaxError) -> str:
    """An error as SAX users know it, with its status."""
    return f"rpc error: code = {code_name(error.code)} desc = {error}"


@dataclass(slots=True)
class Context:
    """What the global flags say."""

    root_flag: str
    total_s: float
    # One of output.FORMATS.
    format: str = "table"
    _deadline: Deadline = field(init=False)

    def __post_init__(self) -> None:
        self._deadline = Deadline(SystemClock(), self.total_s)

    @property
    def timeout_s(self) -> float:
        """Seconds left of the command's total."""
        return self._deadline.remaining()

    def root(self) -> str:
        """The root of all cells; FailedPreconditionError if none is given."""
        return sax_root(self.root_flag or None)


@dataclass(slots=True)
class Command(ABC):
    """One verb: flags declared in `declare`, done in `run`, which may raise."""

    flags: FlagSet = field(default_factory=FlagSet)

    name: ClassVar[str]
    synopsis: ClassVar[str]
    usage: ClassVar[str]  # the arguments
    details: ClassVar[str] = ""

    def declare(self) -> None:  # noqa: B027 (most commands have no flags)
        """Declares the flags."""

    @abstractmethod
    def run(self, context: Context, args: Sequence[str]) -> None:
        """Does it. Raises UsageError, CommandError or SaxError."""

    def help(self) -> str:
        """The page that `saxutil help NAME` shows."""
        lines = [f"{self.name} {self.usage}:"]
        lines += [f"\t{line}" for line in (self.details or self.synopsis).splitlines()]
        return "\n".join(lines) + "\n" + self.flags.usage()


class failing:  # noqa: N801 (reads as a phrase)
    """with failing("list model"): an error inside becomes "Failed to list model: ..."."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SaxError):
            raise CommandError(f"Failed to {self._what}: {status_text(error)}") from error


def model_argument(text: str) -> ModelId:
    """The model a command is about."""
    try:
        return parse_model(text)
    except SaxError as error:
        raise CommandError(
            f"Invalid model ID {text}, should be /sax/<cell>/<model>: {status_text(error)}"
        ) from error


def need(ok: bool, text: str) -> None:
    """Raises UsageError unless `ok`."""
    if not ok:
        raise UsageError(text)


def read_argument(text: str) -> str:
    """The argument itself, or standard input for "-"."""
    return sys.stdin.read() if text == "-" else text
