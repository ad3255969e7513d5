"""Environments of the peers: one each, outside the build, from the pinned requirements beside the
engines' programs."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

from tools.bench.cases import Shape, Weights, llama_of
from tools.bench.peers_models import fresh

ENGINES = pathlib.Path(__file__).parent / "engines"
_ROOT = pathlib.Path(__file__).parents[2]
_LAST_LINES = 3


class PeerMissingError(Exception):
    """A peer cannot be had here; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """name: of its requirements and program, run_NAME.py; weights that it takes; whether make_NAME
    has to make a model of its own of the Hugging Face folder, and how its name ends; unwanted: what
    is installed with it and must go."""

    name: str
    weights: tuple[Weights, ...]
    maker: str | None = None
    suffix: str = ""
    beams: bool = True
    shape_of: Callable[[Shape], Shape] = lambda shape: shape
    unwanted: tuple[str, ...] = ()


PEERS = {
    peer.name: peer
    for peer in (
        Peer("hf", ("bfloat16", "float32")),
        Peer("ctranslate2", ("int8", "float32"), "make_ctranslate2"),
        Peer(
            "llama_cpp",
            ("bfloat16", "int8", "float32"),
            "make_gguf",
            ".gguf",
            beams=False,
            shape_of=llama_of,
        ),
        Peer(
            "openvino",
            ("bfloat16", "int8", "float32"),
            "make_openvino",
            # optimum asks for it, uses nothing of it here, and it fits only one build of torch.
            unwanted=("torchvision",),
        ),
    )
}


def default_cache() -> pathlib.Path:
    """$XDG_CACHE_HOME/sax-bench, or that of ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "sax-bench"


def environment(peer: Peer, cache: pathlib.Path, say: Callable[[str], None]) -> pathlib.Path:
    """The Python of a peer's virtual environment; installed first if it is not there for these very
    requirements. Raises PeerMissingError with the end of pip's output."""
    requirements = ENGINES / f"{peer.name}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = cache / "peers" / f"{peer.name}-{digest}"
    python, done = folder / "bin" / "python", folder / "installed"
    if done.exists():
        return python
    log = cache / "peers" / f"{peer.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"installing {peer.name} into {folder}; pip's output is in {log}")
    pip = [str(python), "-m", "pip"]
    commands = [
        # Not a child of this environment: nothing of ours is seen there.
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [*pip, "install", "--requirement", str(requirements)],
    ]
    if peer.unwanted:
        commands.append([*pip, "uninstall", "--yes", *peer.unwanted])
    with log.open("wb") as out:
        for command in commands:
            try:
                subprocess.run(command, check=True, stdout=out, stderr=subprocess.STDOUT)
            except (subprocess.CalledProcessError, OSError) as e:
                out.flush()
                raise PeerMissingError(_reason(peer.name, log, e)) from None
    done.touch()
    return python


def model(
    peer: Peer, shape: Shape, weights: Weights, base: pathlib.Path, python: pathlib.Path
) -> pathlib.Path:
    """What a peer loads, made of the Hugging Face folder `base` first if it is not there. Raises
    PeerMissingError."""
    if peer.maker is None:
        return base
    made = base.with_name(f"{shape.name}-{peer.name}-{weights}")
    file = made / f"model{peer.suffix}"
    if made.exists():
        return file
    log = base.with_name(f"{made.name}.log")
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(log.open("wb"))
        partial = stack.enter_context(fresh(made))
        command = [
            str(python),
            "-m",
            f"tools.bench.engines.{peer.maker}",
            str(base),
            str(partial / file.name),
            weights,
        ]
        try:
            subprocess.run(command, check=True, stdout=out, stderr=subprocess.STDOUT, env=environ())
        except (subprocess.CalledProcessError, OSError) as e:
            out.flush()
            raise PeerMissingError(_reason(peer.name, log, e)) from None
    return file


def environ() -> dict[str, str]:
    """Of a peer's programs: they see this tree, and nothing that our Python sees beside it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return kept | {"PYTHONPATH": str(_ROOT), "HF_HUB_OFFLINE": "1"}


def _reason(name: str, log: pathlib.Path, error: Exception) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{name}: {error}\n" + "\n".join([*lines[-_LAST_LINES:], f"(all of it: {log})"])
