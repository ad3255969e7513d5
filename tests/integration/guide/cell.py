"""A cell of real processes that serves the tiny GPT-J, and saxutil to talk to it."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator

from tests.integration import gcs
from tests.integration.processes import Process

CELL = "/sax/test"
MODEL = "/sax/test/gptj"
MODEL_PATH = "saxml.server.pax.lm.params.gptj.GPTJ4TokenizedBF16BS32"
SIZES = [
    "NUM_LAYERS=3",
    "MODEL_DIMS=32",
    "NUM_HEADS=4",
    "DIMS_PER_HEAD=8",
    "HIDDEN_DIMS=128",
    "ROTARY_DIMS=4",
    "VOCAB_SIZE=211",
    "EOS_ID=1",
    "SOS_ID=1",
    "INPUT_SEQ_LEN=40",
    "MAX_DECODE_STEPS=[8,16]",
    "MIN_DECODE_STEPS=4",
    "BATCH_SIZE=2",
]


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cell:
    """The guide's steps. `root` and `fs_root` are folders or gs:// paths."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.root = place + "/sax-root"
        self.fs_root = place + "/sax-fs-root"
        self.admin_port = free_port()
        self.model_port = free_port()

    def configure(self) -> Process:
        return Process(
            "saxml.admin.admin_config",
            f"--sax_cell={CELL}",
            f"--sax_root={self.root}",
            f"--fs_root={self.fs_root}",
        )

    def admin_server(self) -> Process:
        return Process(
            "saxml.admin.admin_server",
            f"--sax_cell={CELL}",
            f"--sax_root={self.root}",
            f"--port={self.admin_port}",
            "--http_port=0",
        )

    def model_server(self, *flags: str) -> Process:
        return Process(
            "saxml.server.model_server",
            f"--sax_cell={CELL}",
            f"--port={self.model_port}",
            "--platform_chip=tpuv4",
            "--platform_topology=1x1",
            *flags,
            env={"SAX_ROOT": self.root, "JAX_PLATFORMS": "cpu"},
        )

    def convert(self) -> str:
        """The tiny GPT-J as a Pax checkpoint in the same place."""
        subprocess.run(
            [
                sys.executable,
                "-m",
                "tools.convert.gptj",
                "--base-model-path=tests/golden/tiny_gptj",
                f"--pax-model-path={self.place}/pax",
            ],
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        return self.place + "/pax/checkpoint_00000000"

    def saxutil(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "saxml.saxutil.main", f"--sax_root={self.root}", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            timeout=200,
        )

    def publish(self, checkpoint: str, *overrides: str) -> None:
        done = self.saxutil("publish", MODEL, MODEL_PATH, checkpoint, "1", *(overrides or SIZES))
        assert (done.returncode, done.stdout) == (0, ""), done.stderr


@contextlib.contextmanager
def cell_in(kind: str, folder: pathlib.Path) -> Iterator[Cell]:
    """A configured cell in a folder, or in a bucket."""
    with contextlib.ExitStack() as stack:
        if kind == "bucket":
            stack.enter_context(gcs.bucket("cells"))
            place = "gs://cells"
        else:
            place = str(folder)
        cell = Cell(place)
        with cell.configure() as configured:
            assert configured.wait() == 0, configured.output
        yield cell


@contextlib.contextmanager
def joined_cell(folder: pathlib.Path) -> Iterator[tuple[Cell, Process]]:
    """A cell in a folder, and its model server, which has joined. Neither server may have met an
    error that nobody expected."""
    with (
        cell_in("folder", folder) as cell,
        cell.admin_server() as admin,
        cell.model_server() as server,
    ):
        server.wait_for("Joined")
        yield cell, server
        assert "Traceback" not in admin.output + server.output
