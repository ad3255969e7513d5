"""From nothing to generated text: a whole cell on this machine, with a real model.

Starts an admin server and a model server in a temporary folder, converts and publishes
SmolLM2-135M-Instruct, asks it a question, and stays up until Ctrl-C.
"""

import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

from absl import app, flags

from saxml.quickstart.cell import Process, ProcessError

_ONCE = flags.DEFINE_bool("once", False, "Stop everything after the first answer.")
_PROMPT = flags.DEFINE_string("prompt", "What is the capital of France?", "What to ask.")

CELL = "/sax/quickstart"
MODEL = CELL + "/smollm2"
MODEL_PATH = "saxml.server.pax.lm.params.auto.AutoLM"
OVERRIDES = ("APPLY_CHAT_TEMPLATE=true", "MAX_DECODE_STEPS=128", "BATCH_SIZE=8")
_READY_TIMEOUT_S = 300.0


class _Narrator:
    """Says what happens, with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:5.1f} s] {text}", flush=True)


def _program(name: str) -> str:
    """A program of this build, by its path from the repository's root."""
    path = pathlib.Path(name)
    if not path.exists():
        raise ProcessError(f"{name} is not here; run this by `./bazelw run //saxml:quickstart`")
    return str(path.absolute())


def _gguf() -> pathlib.Path:
    found = sorted(pathlib.Path("..").glob("*smollm2*/unpacked/**/*.gguf"))
    if not found:
        raise ProcessError(
            "the model file is not here; run this by `./bazelw run //saxml:quickstart`"
        )
    return found[0].absolute()


class _Quickstart:
    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.root = folder / "sax-root"
        self._narrator = _Narrator()
        self._say = self._narrator.say
        self._processes: list[Process] = []
        self._saxutil = _program("saxml/saxutil/saxutil")

    def start(self) -> None:
        """Cell, servers, model: returns when the model serves."""
        self._say(f"a cell in {self.folder}")
        subprocess.run(
            [
                _program("saxml/admin/admin_config"),
                f"--sax_cell={CELL}",
                f"--sax_root={self.root}",
                f"--fs_root={self.folder}/sax-fs-root",
            ],
            check=True,
            capture_output=True,
        )
        place = (f"--sax_cell={CELL}", f"--sax_root={self.root}")
        admin = self._spawn(
            "admin server", "saxml/admin/admin_server", *place, "--port=0", "--http_port=0"
        )
        model_server = self._spawn("model server", "saxml/server/model_server", *place, "--port=0")
        admin.wait_for(r"Starting the server on port \d+", 60)
        self._say("the admin server leads the cell")
        self._say("converting SmolLM2-135M-Instruct from its GGUF file")
        converter = _program("tools/convert/gguf")
        weights = self.folder / "smollm2"
        subprocess.run([converter, f"--base={_gguf()}", f"--pax={weights}"], check=True)
        model_server.wait_for(r"Joined", 60)
        self._say("the model server has joined the cell")
        checkpoint = weights / "checkpoint_00000000"
        self.saxutil("publish", MODEL, MODEL_PATH, str(checkpoint), "1", *OVERRIDES)
        failed_or_ready = model_server.wait_for(
            r"(loading completed\.|loading \S+ failed.*)", _READY_TIMEOUT_S, self._show_loading
        )
        if "failed" in failed_or_ready[0]:
            raise ProcessError(failed_or_ready[0])
        self._say("the model is ready")

    def saxutil(self, *arguments: str) -> None:
        """Runs saxutil and shows the command and its output."""
        self._say("$ saxutil " + shlex.join(arguments))
        subprocess.run([self._saxutil, f"--sax_root={self.root}", *arguments], check=True)

    def print_commands(self) -> None:
        """What to try next, to be pasted into another terminal."""
        saxutil = f"./bazelw run //saxml:saxutil -- --sax_root={self.root}"
        print(
            "\nThe cell stays up until Ctrl-C. In another terminal, from the repository's root:\n"
        )
        for command in (
            f"ls {CELL}",
            f"ls {MODEL}",
            f'lm.generate {MODEL} "Why is the sky blue?"',
            f'lm.generate -stream {MODEL} "Write a haiku about the sea."',
            f'lm.score {MODEL} "The capital of France is" " Paris" " Rome"',
            f"unpublish {MODEL}",
        ):
            print(f"  {saxutil} {command}")
        print(flush=True)

    def watch(self, stopped: threading.Event) -> None:
        """Returns when stopped; raises ProcessError if a server dies."""
        while not stopped.wait(1.0):
            for process in self._processes:
                process.check()

    def stop(self) -> None:
        """Ends every process, the model server first."""
        for process in reversed(self._processes):
            process.stop()

    def _spawn(self, name: str, program: str, *arguments: str) -> Process:
        log = self.folder / (name.replace(" ", "_") + ".log")
        process = Process(name, [_program(program), *arguments], log)
        self._processes.append(process)
        return process

    def _show_loading(self, line: str) -> None:
        for mark in ("restored ", "compiled "):
            if mark in line:
                self._say("  " + line[line.index(mark) :])


def main(argv: Sequence[str]) -> int:
    """Exit code 0, or 1 with one line that says what failed."""
    if len(argv) > 1:
        print(f"quickstart: unexpected argument {argv[1]!r}; see --help", file=sys.stderr)
        return 2
    stopped = threading.Event()

    def interrupt(number: int, frame: object) -> None:
        stopped.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sax-quickstart-"))
    quickstart = None
    try:
        quickstart = _Quickstart(folder)
        quickstart.start()
        quickstart.saxutil("lm.generate", MODEL, _PROMPT.value)
        if not _ONCE.value:
            quickstart.print_commands()
            quickstart.watch(stopped)
    except KeyboardInterrupt:
        print("\nstopping", flush=True)
    except (ProcessError, subprocess.CalledProcessError, OSError) as e:
        print(f"quickstart: error: {e}", file=sys.stderr)
        return 1
    finally:
        if quickstart is not None:
            quickstart.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    app.run(main)
