"""A Pax checkpoint to one whose matrices are int8, with a scale for each column.

bazel run //tools/convert:quantize -- --input_dir DIR --output_dir DIR

What is no matrix of a layer or of the output head keeps its type: embeddings, norms, biases. The
model's record and tokenizer go along.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorstore as ts
from absl import flags

from saxml.checkpoint import layout, quantised
from saxml.checkpoint.folder import Folder, translated
from saxml.checkpoint.pax import Checkpoint, open_checkpoint
from saxml.checkpoint.writer import CheckpointWriter
from saxml.common import errors
from saxml.models import config, registry
from tools.convert import cli
from tools.convert.mapping import Progress

_BITS = 8
_NUMBER_BITS = flags.DEFINE_integer("number_bits", _BITS, "Bits of a number; 8.")
flags.DEFINE_alias("input_dir", "base")
flags.DEFINE_alias("output_dir", "pax")
_PIECE_BYTES = 16 << 20  # of float32 values, rounded at a time


def contracted_axes(name: str) -> tuple[int, ...]:
    """Over which axes the array of this name is summed up in its product; none where it is no
    matrix of a model family."""
    for pattern, axes in _matrices():
        if pattern.fullmatch(name):
            return axes
    return ()


@functools.cache
def _matrices() -> list[tuple[re.Pattern[str], tuple[int, ...]]]:
    """Names are the same whatever a model's sizes, but depend on whether it has a combined qkv."""
    sizes = dict.fromkeys(
        ("num_layers", "model_dim", "num_heads", "num_kv_heads", "hidden_dim", "vocab_size"), 1
    )
    found = []
    for family in config.FAMILIES:
        for combined in (True, False):
            model = config.ModelConfig(
                family=family,
                head_dim=2,
                rotary_dim=2,
                rotary_base=1.0,
                rotary_style=config.ROTARY_STYLES[0],
                norm_eps=1.0,
                tied_embeddings=False,
                combined_qkv=combined,
                max_positions=1,
                **sizes,
            )
            for param in registry.parameters(model).values():
                if param.contracted:
                    pattern = re.escape(param.pax_name).replace(re.escape("{layer}"), r"\d+")
                    found.append((re.compile(pattern), param.contracted))
    return found


def quantize(
    base: str,
    pax: str,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    compression: str = layout.GZIP,
    number_bits: int = _BITS,
) -> str:
    """Writes the checkpoint `base`, or the one whose state folder that is, with int8 matrices into
    `pax`/checkpoint_<step> and returns that path.

    Raises UnimplementedError for other than 8 bits, FailedPreconditionError for a checkpoint that
    has no matrices in floating point or numbers that are none; what was written is removed then.
    """
    if number_bits != _BITS:
        raise errors.UnimplementedError(
            f"--number_bits={number_bits}: matrices are made into {_BITS} bits only"
        )
    source = open_checkpoint(base.rstrip("/").removesuffix("/state"))
    _check(source)
    if Folder(pax).child(layout.step_folder(source.step)).path == source.folder.path:
        raise errors.InvalidArgumentError(f"{source.folder.path} is to be read; write elsewhere")
    total = sum(math.prod(shape) for shape, _ in source.arrays.values())
    done = 0
    with CheckpointWriter(
        pax, step=source.step, overwrite=overwrite, compression=compression
    ) as writer:
        # One array is in memory, and of what is being compressed there are two copies.
        writer.limit_in_flight(max(math.prod(shape) for shape, _ in source.arrays.values()) // 2)
        for name in source.arrays:
            array = _Array(source, name)
            if axes := contracted_axes(name):
                array.quantise(writer, axes)
            else:
                array.copy(writer)
            done += math.prod(array.shape)
            if progress:
                progress(done, total)
        _copy_files(source, writer)
        writer.commit()
        return writer.folder.path


def _check(source: Checkpoint) -> None:
    """Raises FailedPreconditionError unless there are matrices to quantise, all in floats."""
    matrices = [name for name in source.arrays if contracted_axes(name)]
    if not matrices:
        raise errors.FailedPreconditionError(
            f"checkpoint {source.folder.path} has no matrix of {' or '.join(config.FAMILIES)}"
        )
    for name in matrices:
        shape, dtype = source.arrays[name]
        where = f"checkpoint {source.folder.path}: array {layout.PREFIX}{name}"
        if dtype not in layout.DTYPES:
            raise errors.FailedPreconditionError(
                f"{where} is {dtype}; {', '.join(layout.DTYPES)} can be quantised"
            )
        if not math.prod(shape) or len(shape) <= max(contracted_axes(name)):
            raise errors.FailedPreconditionError(
                f"{where} has shape {list(shape)}, which is no matrix; convert the model again"
            )


def _copy_files(source: Checkpoint, writer: CheckpointWriter) -> None:
    """What lies beside the arrays: the record and the tokenizer."""
    ours = (layout.METADATA, *layout.COMMIT_FILES)
    for name in source.folder.list():
        if name not in ours and not name.startswith("state/"):
            data = source.folder.read(name)
            if data is not None:
                writer.file(name, data)


class _Array:
    """One array of the checkpoint that is read."""

    def __init__(self, source: Checkpoint, name: str) -> None:
        self.name = name
        self.where = f"array {layout.PREFIX}{name} in {source.folder.path}"
        spec = {"driver": "zarr", "kvstore": source.folder.spec(layout.array_path(name))}
        with translated(self.where):
            self._store = ts.open(spec, read=True).result()
        self.shape: tuple[int, ...] = tuple(self._store.shape)

    def copy(self, writer: CheckpointWriter) -> None:
        """As it is."""
        array = writer.array(self.name, self.shape, self._store.dtype.name)
        array.put(self._read())

    def quantise(self, writer: CheckpointWriter, contracted: tuple[int, ...]) -> None:
        """As int8 and scales. The array is held in memory once, as it is, and once as int8."""
        values = self._read()
        scale = quantised.column_scales(values, contracted)
        if not np.isfinite(scale).all():
            raise errors.FailedPreconditionError(
                f"{self.where} has values that are no finite numbers; convert the model again"
            )
        small = np.empty(self.shape, np.int8)
        for piece in self._pieces():
            # Pieces are cut along the first axis, which the scales may have, too.
            own = scale if 0 in contracted else scale[piece]
            small[piece] = quantised.quantise(values[piece], own, contracted)
        writer.array(self.name, self.shape, layout.INT8).put(small)
        writer.array(quantised.scale_name(self.name), scale.shape, "float32").put(scale)

    def _pieces(self) -> Iterator[slice]:
        rows = max(1, _PIECE_BYTES // (4 * math.prod(self.shape[1:])))
        for first in range(0, self.shape[0], rows):
            yield slice(first, first + rows)

    def _read(self) -> np.ndarray[Any, Any]:
        with translated(self.where):
            found: np.ndarray[Any, Any] = self._store.read().result()
            return found


def _run(
    base: str,
    pax: str,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    compression: str = layout.GZIP,
) -> str:
    return quantize(
        base,
        pax,
        progress,
        overwrite=overwrite,
        compression=compression,
        number_bits=_NUMBER_BITS.value,
    )


if __name__ == "__main__":
    cli.main(_run)
