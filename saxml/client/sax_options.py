# ruff: noqa: N802 (the names of the Python module that SAX users know)
"""Options of the Python API: of a model, of a call, of the admin server."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

from saxml.client.retry import DEFAULT_TIMEOUT_S
from saxml.common.errors import InvalidArgumentError
from saxml.proto import common_pb2


@dataclass(slots=True)
class Options:
    """How a model is reached; see ClientOptions. sax_root "" is the environment's SAX_ROOT."""

    num_conn: int = 37
    proxy_addr: str = ""
    fail_fast: bool = False
    sax_root: str = ""


@dataclass(slots=True)
class AdminOptions:
    """timeout in seconds, 60 unless positive; sax_root "" is the environment's SAX_ROOT."""

    timeout: float = DEFAULT_TIMEOUT_S
    sax_root: str = ""

    @property
    def timeout_s(self) -> float:
        """The timeout that applies: every call has one."""
        return _finite(self.timeout)


class ModelOptions:
    """What one call sends beside its text (numbers, lists, strings by name), and its timeout."""

    def __init__(self) -> None:
        self._extra = common_pb2.ExtraInputs()
        self._timeout = DEFAULT_TIMEOUT_S

    def __copy__(self) -> "ModelOptions":
        return copy.deepcopy(self)

    @property
    def timeout_s(self) -> float:
        """The timeout that applies: every call has one."""
        return _finite(self._timeout)

    def SetExtraInput(self, name: str, value: float) -> None:
        """A number, such as temperature."""
        self._extra.items[name] = value

    def SetExtraInputTensor(self, name: str, value: Sequence[float]) -> None:
        """A list of numbers."""
        self._extra.tensors[name].values[:] = value

    def SetExtraInputString(self, name: str, value: str) -> None:
        """A string."""
        self._extra.strings[name] = value

    def GetExtraInput(self, name: str) -> float:
        """The number set under this name; InvalidArgumentError if none was."""
        if name not in self._extra.items:
            raise InvalidArgumentError(f"no extra input {name!r} was set")
        return self._extra.items[name]

    def SetTimeout(self, timeout: float) -> None:
        """Seconds for the whole call; 60 unless positive."""
        self._timeout = timeout

    def GetTimeout(self) -> float:
        """The seconds that were set."""
        return self._timeout

    def ToDebugString(self) -> str:
        """All of it, for a log."""
        return f"timeout: {self._timeout:g} s\n{self._extra}"

    def ToProto(self) -> common_pb2.ExtraInputs:
        """The extra inputs as they are sent."""
        return copy.deepcopy(self._extra)


def _finite(timeout_s: float) -> float:
    return timeout_s if timeout_s > 0 and math.isfinite(timeout_s) else DEFAULT_TIMEOUT_S
