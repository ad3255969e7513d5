"""Names and metadata of the Pax checkpoint layout, format 1.1.

checkpoint_00000000/
  commit_success.txt                    written last: without all three the checkpoint is not whole
  metadata/metadata                     JSON: version, and the shape and dtype of each array
  metadata/commit_success.txt
  state/mdl_vars.params.<name>/         one zarr v2 array each, gzip chunks or plain
  state/mdl_vars.params.<name>_quantized_scale/   where <name> is int8, see quantised.py
  state/step/
  state/commit_success.txt
  sax_model.json, tokenizer/            ours, see record.py; Pax ignores them
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorstore as ts

from saxml.common import errors

VERSION = 1.1
PREFIX = "mdl_vars.params."
STEP = "state/step"
METADATA = "metadata/metadata"
COMMIT = "commit_success.txt"
COMMIT_FILES = (f"state/{COMMIT}", f"metadata/{COMMIT}", COMMIT)
DTYPES = ("float32", "bfloat16", "float16")
INT8 = "int8"  # with scales beside it, see quantised.py
CHUNK_BYTES = 16 << 20
# Ways to write chunks; all that TensorStore knows are read.
COMPRESSIONS: Mapping[str, dict[str, Any] | None] = {
    "gzip": {"id": "gzip", "level": 1},
    "none": None,
}
GZIP = "gzip"
_STEP_NAME = re.compile(r"(?:checkpoint_)?(\d+)$")
_METADATA_TAG = "_array_metadata_tag"


def step_folder(step: int) -> str:
    """Name of a step's folder."""
    return f"checkpoint_{step:08d}"


def parse_step(folder: str) -> int | None:
    """The step that a folder's name stands for: "checkpoint_00000010" or "10"; None for others."""
    found = _STEP_NAME.match(folder)
    return int(found.group(1)) if found else None


def array_path(name: str) -> str:
    """Folder of one array, relative to the checkpoint; `name` has no mdl_vars prefix."""
    return f"state/{PREFIX}{name}"


def chunk_shape(shape: Sequence[int], itemsize: int, limit: int = CHUNK_BYTES) -> tuple[int, ...]:
    """Chunks of at most `limit` bytes, cut along the first axes, so that a slice of leading rows
    can be read by itself."""
    chunk = [max(n, 1) for n in shape]
    for axis, n in enumerate(chunk):
        row = itemsize * math.prod(chunk[axis + 1 :])
        if row * n <= limit:
            break
        rows = max(limit // row, 1)
        chunk[axis] = math.ceil(n / math.ceil(n / rows))
    return tuple(chunk)


def zarr_spec(
    kvstore: dict[str, Any],
    shape: Sequence[int],
    dtype: str,
    chunk_bytes: int = CHUNK_BYTES,
    compression: str = GZIP,
) -> dict[str, Any]:
    """TensorStore's spec that creates one array; compression: one of COMPRESSIONS."""
    return {
        "driver": "zarr",
        "kvstore": kvstore,
        "metadata": {
            "shape": list(shape),
            "chunks": list(chunk_shape(shape, ts.dtype(dtype).numpy_dtype.itemsize, chunk_bytes)),
            "dtype": dtype if dtype == "bfloat16" else ts.dtype(dtype).numpy_dtype.str,
            "compressor": COMPRESSIONS[compression],
            "order": "C",
            "fill_value": None,
        },
    }


def make_metadata(arrays: Mapping[str, tuple[Sequence[int], str]]) -> bytes:
    """The metadata file: name (without prefix) -> (shape, dtype), as a tree split at the dots."""
    tree: dict[str, Any] = {}
    for name, (shape, dtype) in sorted(arrays.items()):
        *parents, leaf = (PREFIX + name).split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = {
            _METADATA_TAG: True,
            "dtype": dtype,
            "is_optax_masked_node": False,
            "unpadded_shape": list(shape),
        }
    return json.dumps({"version": VERSION, "train_state_metadata": tree}).encode()


def parse_metadata(data: bytes, where: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """What make_metadata takes. `where` names the file in errors."""
    try:
        parsed = json.loads(data)
        version, tree = parsed["version"], parsed["train_state_metadata"]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.FailedPreconditionError(
            f"{where} is not the metadata of a Pax checkpoint ({error!r}); convert the model again"
        ) from error
    if not isinstance(version, int | float) or not 1 < version < 2:
        raise errors.FailedPreconditionError(
            f"{where}: format {version!r} is not {VERSION}; convert the model again"
        )
    arrays: dict[str, tuple[tuple[int, ...], str]] = {}
    _collect(tree, "", arrays)
    return arrays


def _collect(node: Any, name: str, arrays: dict[str, tuple[tuple[int, ...], str]]) -> None:
    if isinstance(node, list):
        for index, child in enumerate(node):
            _collect(child, f"{name}_{index}", arrays)
    elif isinstance(node, dict) and node.get(_METADATA_TAG):
        if name.startswith(PREFIX) and "unpadded_shape" in node and "dtype" in node:
            arrays[name[len(PREFIX) :]] = (tuple(node["unpadded_shape"]), node["dtype"])
    elif isinstance(node, dict):
        for key, child in node.items():
            _collect(child, f"{name}.{key}" if name else key, arrays)
