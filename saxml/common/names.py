"""Names users type: cells, models, model paths, checkpoints, roots.

    parse_cell("/sax/test").full == "/sax/test"
    parse_model("/sax/test/lm") == ModelId(CellId("test"), "lm")

Every function raises InvalidArgumentError with the text that SAX users know.
"""

import re
from dataclasses import dataclass

from saxml.common.errors import InvalidArgumentError

_NAME = "^[a-z]+[a-z0-9-_]*$"
_MODEL_PATH = "^[a-zA-Z]+[a-zA-Z0-9_.-]*$"
_CHECKPOINT = r"^(/|\d|\w|_|\.|-|%|:|=|\||\+)+$"
_FS_ROOT = "^[a-zA-Z0-9_./=-]+$"
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


# Trailer of sax.Admin/Stats for a cell: servers by state, such as "Active=3,Draining=1".
SERVERS_TRAILER = "sax-servers"

# Metadata of Load, Unload and UpdateLoaded: the term of the admin server that calls, in decimal.
TERM_METADATA = "sax-term"


@dataclass(frozen=True, slots=True)
class CellId:
    """A cell, such as /sax/test."""

    cell: str

    @property
    def full(self) -> str:
        """/sax/<cell>."""
        return f"/sax/{self.cell}"


@dataclass(frozen=True, slots=True)
class ModelId:
    """A published model, such as /sax/test/lm."""

    cell_id: CellId
    model: str

    @property
    def cell(self) -> str:
        """The name of its cell, without /sax/."""
        return self.cell_id.cell

    @property
    def full(self) -> str:
        """/sax/<cell>/<model>."""
        return f"{self.cell_id.full}/{self.model}"

    def __str__(self) -> str:
        return self.full


def quote(text: str) -> str:
    """`text` in double quotes, with control characters, quotes and backslashes escaped."""
    return '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else _hex(c)) for c in text) + '"'


def _hex(c: str) -> str:
    n = ord(c)
    return f"\\x{n:02x}" if n < 0x80 else f"\\u{n:04x}" if n < 0x10000 else f"\\U{n:08x}"


def _check(what: str, text: str, pattern: str) -> None:
    # fullmatch: in Python "$" also matches before a final newline.
    if not re.fullmatch(pattern.removeprefix("^").removesuffix("$"), text, re.ASCII):
        raise InvalidArgumentError(f"{what} {quote(text)} must match {quote(pattern)}")


def parse_cell(text: str) -> CellId:
    """The cell called /sax/<cell name>."""
    parts = text.split("/")
    if len(parts) != 3 or parts[:2] != ["", "sax"]:
        raise InvalidArgumentError(
            f"cell full name {quote(text)} should have the form /sax/<cell name>"
        )
    _check("cell name", parts[2], _NAME)
    return CellId(parts[2])


def parse_model(text: str) -> ModelId:
    """The model called /sax/<cell name>/<model name>."""
    if not text.startswith("/sax/") or text.count("/") < 3:
        raise InvalidArgumentError(
            f"model full name {quote(text)} should have the form /sax/<cell name>/<model name>"
        )
    cell, _, model = text.rpartition("/")
    cell_id = parse_cell(cell)
    _check("model name", model, _NAME)
    return ModelId(cell_id, model)


def check_model_path(text: str) -> None:
    """A registered configuration class, such as saxml.server.pax.lm.params.gptj.GPTJ."""
    _check("model path", text, _MODEL_PATH)


def check_checkpoint(text: str) -> None:
    """A folder or bucket path of a checkpoint, or the word None."""
    _check("checkpoint path", text, _CHECKPOINT)


def check_fs_root(text: str) -> None:
    """A folder or bucket path in which a cell keeps its state."""
    plain = re.sub("^(gs|mem)://", "/", text)
    if not re.fullmatch("[a-zA-Z0-9_./=-]+", plain, re.ASCII):
        raise InvalidArgumentError(f"fs_root {quote(text)} must match {quote(_FS_ROOT)}")
