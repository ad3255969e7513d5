"""Writers of small or sparse model files for the converters' tests."""

import json
import math
import pathlib
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"


def copy_model(name: str, target: pathlib.Path, **changes: Any) -> pathlib.Path:
    """A tiny model in one safetensors file, with changed fields of config.json; None removes."""
    source = GOLDEN / name
    target.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text()) | changes
    config = {key: value for key, value in config.items() if value is not None}
    (target / "config.json").write_text(json.dumps(config))
    save_file(load_tensors(name), target / "model.safetensors")
    return target


def load_tensors(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """All tensors of a tiny model."""
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for file in sorted((GOLDEN / name).glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def sparse_safetensors(path: pathlib.Path, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """A file of float32 zeros that takes no disk; gives the bytes of its data."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    data = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        file.truncate(8 + len(data) + end)
    return end


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def gguf(
    metadata: Mapping[str, Any], tensors: Mapping[str, tuple[int, tuple[int, ...], bytes]]
) -> bytes:
    """A GGUF file, version 3. tensors: name -> (type, shape with rows first, data)."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += _text(key) + _value(value)
    body = b""
    for name, (kind, shape, data) in tensors.items():
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        head += _text(name) + dims + struct.pack("<IQ", kind, len(body))
        body += data + b"\0" * (-len(data) % 32)
    return head + b"\0" * (-len(head) % 32) + body
