"""Command line of the converters: --base, --pax, --overwrite, progress, one-line errors."""

import os
import sys
from collections.abc import Sequence
from typing import Protocol

import tqdm  # type: ignore[import-untyped]
from absl import app, flags

from saxml.checkpoint import layout
from saxml.common import errors, malloc
from tools.convert.mapping import Progress

_BASE = flags.DEFINE_string("base", None, "Model to convert.", required=True)
_PAX = flags.DEFINE_string(
    "pax", None, "Folder or gs:// path to write checkpoint_00000000 into.", required=True
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a checkpoint that is there.")
_COMPRESSION = flags.DEFINE_enum(
    "compression",
    layout.GZIP,
    sorted(layout.COMPRESSIONS),
    "How weights are stored: gzip as Pax does, or none, which is larger and quicker to load.",
)
flags.DEFINE_alias("base_model_path", "base")
flags.DEFINE_alias("pax_model_path", "pax")


class Convert(Protocol):
    """What a converter's function looks like."""

    def __call__(
        self,
        base: str,
        pax: str,
        progress: Progress | None = None,
        *,
        overwrite: bool = False,
        compression: str = layout.GZIP,
    ) -> str:
        """Converts and returns the checkpoint's path."""


def with_underscores(arguments: Sequence[str]) -> list[str]:
    """Flag names may be spelled with dashes: --base-model-path is --base_model_path."""
    spelled = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--") and len(name) > 2:
            name = "--" + name[2:].replace("-", "_")
        spelled.append(name + equals + value)
    return spelled


def main(convert: Convert) -> None:
    """Runs a converter as a program."""
    malloc.return_freed_memory()
    for name in ("base", "pax", "overwrite", "compression"):  # for --help
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))

    def run(arguments: list[str]) -> int:
        if len(arguments) > 1:
            print(f"unknown arguments {' '.join(arguments[1:])}", file=sys.stderr)
            return 2
        try:
            with tqdm.tqdm(
                unit="weight", unit_scale=True, desc="converting", mininterval=0.5
            ) as bar:

                def progress(done: int, total: int) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                path = convert(
                    _BASE.value,
                    _PAX.value,
                    progress,
                    overwrite=_OVERWRITE.value,
                    compression=_COMPRESSION.value,
                )
        except errors.SaxError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
        print(f"wrote {path}")
        return 0

    app.run(run, [sys.argv[0], *with_underscores(sys.argv[1:])])
