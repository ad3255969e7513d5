"""A model of any size with random weights, as a Hugging Face folder to convert, publish and ask.

bazel run //tools/bench:big_model -- --out=/tmp/gptj-6b-hf
bazel run //tools/convert:gptj -- --base=/tmp/gptj-6b-hf --pax=/tmp/gptj-6b
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence

from tools.bench.cases import SHAPES
from tools.bench.peers_models import config, fresh, tensors, write_safetensors

Shapes = Mapping[str, tuple[int, ...]]
_GB = 10**9


def parser() -> argparse.ArgumentParser:
    """Its flags."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    made.add_argument("--out", type=pathlib.Path, required=True, help="folder to make")
    made.add_argument("--model", choices=sorted(SHAPES), default="6b", help="its shape")
    made.add_argument("--layers", type=int, help="so many layers instead of the shape's")
    made.add_argument("--shard_gb", type=float, default=2, help="GB of a file at most")
    return made


def shards(shapes: Shapes, limit: float) -> Iterator[Shapes]:
    """Tensors in their order, as many together as fit in `limit` bytes of bfloat16, or one."""
    shard: dict[str, tuple[int, ...]] = {}
    size = 0
    for name, shape in shapes.items():
        more = 2 * math.prod(shape)
        if shard and size + more > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = shape
        size += more
    yield shard


def write(folder: pathlib.Path, model: str, layers: int | None, shard_bytes: float) -> None:
    """Makes the folder. One tensor is in memory at a time."""
    shape = SHAPES[model] if layers is None else dataclasses.replace(SHAPES[model], L=layers)
    parts = list(shards(tensors(shape), shard_bytes))
    with fresh(folder) as made:
        (made / "config.json").write_text(json.dumps(config(shape), indent=1))
        placed: dict[str, str] = {}
        for number, part in enumerate(parts, 1):
            name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
            write_safetensors(made / name, part)
            placed |= dict.fromkeys(part, name)
        index = {"metadata": {"total_size": _bytes(tensors(shape))}, "weight_map": placed}
        (made / "model.safetensors.index.json").write_text(json.dumps(index))


def _bytes(shapes: Shapes) -> int:
    return 2 * sum(map(math.prod, shapes.values()))


def main(argv: Sequence[str]) -> int:
    """Writes the folder and says what comes next."""
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    made = parser()
    args = made.parse_args(argv[1:])
    if args.out.exists():
        made.error(f"--out={args.out} exists; name a new folder")
    if args.layers is not None and args.layers < 1:
        made.error(f"--layers={args.layers}; a model has at least 1")
    if args.shard_gb <= 0:
        made.error(f"--shard_gb={args.shard_gb} is not positive")
    write(args.out, args.model, args.layers, args.shard_gb * _GB)
    converter = SHAPES[args.model].family
    print(f"wrote {args.out}; next: bazel run //tools/convert:{converter} -- --base={args.out} ...")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
