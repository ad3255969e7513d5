"""Where the time of a decode step goes, from the kernels to gRPC: step_profile [--help].

A model with random weights is loaded as a model server loads it. For each number of rows, in turn,

  bare       the compiled step is called in a loop with the plan of a step in which all rows decode
  engine     as many requests decode in the engine
  ahead      the same, each step given to the device before the last one was read (run_ahead)
  generate   the same through a model server in this process, and a client in another
  stream     the same with GenerateStream: each token is sent

Counted are the steps in which all rows decode: the time from one to the next, and the CPU time of
this process, which other programs lengthen less. A profile of the bare loop says how much of it are
kernels (products, attention, choice) and other operations of XLA; what is left of its time is the
dispatch and the wait for the result. What the other sides take on top is the host's: scheduler,
decoders, callbacks, gRPC.
"""

import argparse
import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import psutil
import tqdm  # type: ignore[import-untyped]

from saxml import native
from saxml.checkpoint.record import ModelRecord
from saxml.common.clock import SystemClock
from saxml.engine.decoders import SampleDecoder
from saxml.engine.engine import Engine
from saxml.models.config import ModelConfig
from saxml.proto import admin_pb2
from saxml.server import loading
from saxml.server.lifecycle import ModelTable
from saxml.server.pax.lm.params.template import CommonServingTemplate
from saxml.server.servable_model import LmServable
from saxml.server.serving import ModelServer
from tools.bench import step_client, step_trace
from tools.bench.cases import SHAPES, WEIGHTS, Shape
from tools.bench.machine import Watch
from tools.bench.workload import write_json

SIDES = ("bare", "engine", "ahead", "generate", "stream")
# What the host does is told apart by what each of these takes more than the one before.
CHAIN = ("bare", "engine", "generate", "stream")
DISPATCH = "dispatch and wait"
KEY = "/sax/bench/model"
_TRACED = 10
# All rows of some steps decode together.
_LEAST_STEPS = 4
_LARGEST_STEP = 256  # tokens
_NO_STEP = "in no two steps all rows decoded together; ask for more --steps"


class RandomModel(CommonServingTemplate):
    """A shape with random weights, greedy."""

    RANDOM_WEIGHTS: Any = True
    TOKENIZED_INPUT: Any = True
    TOKENIZED_OUTPUT: Any = True
    PREPEND_SOS: Any = False
    ENABLE_GENERATE_STREAM: Any = True
    NUM_SAMPLES: Any = 1
    TOP_K: Any = 1
    PREFILL_STRETCH: Any = None
    PREFIX_CACHE: Any = False
    SHAPE: Any = None

    def model_config(self, record: ModelRecord | None) -> ModelConfig:
        """That of SHAPE."""
        s: Shape = self.SHAPE
        return ModelConfig(
            family=s.family,
            num_layers=s.L,
            model_dim=s.D,
            num_heads=s.H,
            num_kv_heads=s.K,
            head_dim=s.head_dim,
            hidden_dim=s.F,
            vocab_size=s.V,
            rotary_dim=s.rotary_dim,
            rotary_base=1e4,
            rotary_style="pairs" if s.family == "gptj" else "halves",
            norm_eps=1e-5,
            tied_embeddings=s.tied,
            combined_qkv=s.family == "gptj",
            max_positions=s.max_positions,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is run."""

    shape: Shape
    weights: str
    prompt: int
    steps: int
    rounds: int

    def params(self, rows: int) -> RandomModel:
        """The configuration for so many rows."""
        params = RandomModel({})
        params.SHAPE = self.shape
        params.FPROP_DTYPE = "float32" if self.weights == "float32" else "bfloat16"
        params.WEIGHT_DTYPE = "int8" if self.weights == "int8" else None
        # Prompts hurry, so that most of the time all rows decode together.
        params.INPUT_SEQ_LEN = max(self.prompt, _LARGEST_STEP)
        params.MAX_DECODE_STEPS = self.steps
        params.STOP_TOKEN_IDS = [self.shape.V - 1]
        params.BATCH_SIZE = rows
        params.EXTRA_INPUTS = {"temperature": 0.0}
        return params


class Recorder:
    """Notes when the steps begin in which all rows decode; keeps the plan of one."""

    def __init__(self, engine: Engine, rows: int) -> None:
        self.device = engine._device
        self._run, self._rows = self.device.run, rows
        self.packed: np.ndarray | None = None
        self.bucket = 0
        self._marks: list[tuple[float, float]] = []
        self.device.run = self._noting  # type: ignore[method-assign]

    def _noting(
        self, plan: native.StepPlan, changes: np.ndarray | jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        if plan.num_decode_rows == self._rows and plan.num_tokens == self._rows:
            self.mark()
            if self.packed is None:
                self.packed, self.bucket = plan.packed.copy(), plan.bucket
        return self._run(plan, changes)

    def mark(self) -> None:
        """A step begins."""
        self._marks.append((time.monotonic(), time.process_time()))

    def take(self) -> np.ndarray:
        """f64[n, 2]: seconds and CPU seconds of each step since the last call."""
        marks, self._marks = self._marks, []
        return np.diff(np.array(marks).reshape(-1, 2), axis=0)


def bare_step(engine: Engine, recorder: Recorder) -> Callable[[], None]:
    """One call of the compiled step, and its result read."""
    packed, bucket = recorder.packed, recorder.bucket
    if packed is None:
        raise RuntimeError(_NO_STEP)
    nothing = engine._choosing.nothing[bucket]

    def step() -> None:
        recorder.mark()
        found, _ = recorder.device._run(bucket, packed, nothing)
        np.asarray(found)

    return step


def profile(engine: Engine, recorder: Recorder) -> dict[str, float]:
    """Seconds of a bare step by kind."""
    step = bare_step(engine, recorder)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(_TRACED):
                step()
        recorder.take()
        program: Any = recorder.device.steps[recorder.bucket]
        kinds = step_trace.instructions(program.as_text())
        return step_trace.by_kind(step_trace.read(folder), kinds, _TRACED)


@contextlib.contextmanager
def served(loaded: loading.Loaded) -> Iterator[str]:
    """The address of a model server in this process; stops the engine in the end."""
    models = ModelTable(lambda key, *_: LmServable(key, loaded, SystemClock()))
    server = ModelServer(
        models, port=0, cell=None, description=admin_pb2.ModelServer(), clock=SystemClock()
    )
    server.start()
    try:
        models.load(KEY, "", loading.NO_CHECKPOINT, {}, {})
        yield f"localhost:{server.port}"
    finally:
        server.stop()


@contextlib.contextmanager
def client() -> Iterator[Callable[[str, str, int, str], None]]:
    """(method, address, rows, prompt) -> these calls, by a process of its own."""
    with subprocess.Popen(
        [sys.executable, step_client.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        lines, answers = process.stdin, process.stdout
        assert lines is not None
        assert answers is not None

        def call(method: str, address: str, rows: int, prompt: str) -> None:
            print(method, address, KEY, rows, prompt, file=lines, flush=True)
            if answers.readline() != "done\n":
                raise RuntimeError("the client has failed; see what it said")

        yield call
        lines.close()


def measure(plan: Plan, rows: int, progress: Callable[[], Any]) -> dict[str, Any]:
    """What is reported of so many rows."""
    watch = Watch()
    loaded = loading.load(plan.params(rows), loading.NO_CHECKPOINT, loading.LoadOptions())
    engine, recorder = loaded.engine, Recorder(loaded.engine, rows)
    prompt = np.random.default_rng(0).integers(0, plan.shape.V - 1, plan.prompt, np.int32)
    text = ",".join(map(str, prompt.tolist()))

    def decode() -> None:
        decoders = (
            SampleDecoder(num_samples=1, max_steps=plan.steps, stop_ids=()) for _ in range(rows)
        )
        for request in [engine.submit(prompt, decoder) for decoder in decoders]:
            request.future.result()

    found: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
    with served(loaded) as address, client() as call:
        decode()
        step = bare_step(engine, recorder)

        def loop() -> None:
            for _ in range(plan.steps):
                step()

        def ahead() -> None:
            options = engine.options
            engine.options = dataclasses.replace(options, run_ahead=True)
            decode()
            engine.options = options

        runs: dict[str, Callable[[], None]] = {
            "bare": loop,
            "engine": decode,
            "ahead": ahead,
            "generate": lambda: call("generate", address, rows, text),
            "stream": lambda: call("stream", address, rows, text),
        }
        for run in runs.values():  # what is slow the first time is not counted
            run()
        for number in range(plan.rounds):
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                recorder.take()
                runs[side]()
                found[side].append(recorder.take())
                progress()
        kinds = profile(engine, recorder)
    taken = {side: np.concatenate(steps) for side, steps in found.items()}
    return {"rows": rows, "others": watch.others(), **summary(kinds, taken)}


def summary(kinds: dict[str, float], taken: dict[str, np.ndarray]) -> dict[str, Any]:
    """Milliseconds of a step: of each side, and of the parts that make up the last one's. kinds:
    seconds of a bare step; taken: f64[n, 2], seconds and CPU seconds of each side's steps."""
    if lacking := [side for side, steps in taken.items() if not len(steps)]:
        raise RuntimeError(f"{lacking[0]}: {_NO_STEP}")
    sides = {
        side: {
            "ms": 1e3 * float(np.median(steps[:, 0])),
            "cpu_ms": 1e3 * float(np.median(steps[:, 1])),
            "steps": len(steps),
        }
        for side, steps in taken.items()
    }
    parts = {kind: 1e3 * seconds for kind, seconds in kinds.items()}
    parts[DISPATCH] = max(0.0, sides["bare"]["ms"] - sum(parts.values()))
    for side, before in zip(CHAIN[1:], CHAIN, strict=False):
        parts[side] = max(0.0, sides[side]["cpu_ms"] - sides[before]["cpu_ms"])
    return {"sides": sides, "parts": parts}


def show(row: dict[str, Any]) -> None:
    """Its tables."""
    print(f"\n{row['rows']} rows (other programs used {row['others']:.0%} of the machine)")
    bare = row["sides"]["bare"]
    print("side          ms/step   to bare   CPU ms/step   to bare")
    for side, found in row["sides"].items():
        print(
            f"{side:10} {found['ms']:10.3f} {found['ms'] / bare['ms']:9.3f}"
            f" {found['cpu_ms']:13.3f} {found['cpu_ms'] / bare['cpu_ms']:9.3f}"
        )
    print("part               ms/step")
    for part, ms in row["parts"].items():
        print(f"{part:18} {ms:7.3f}", flush=True)


def main(argv: Sequence[str]) -> int:
    """Prints tables; --json writes them for plot.py."""
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="small", choices=sorted(SHAPES))
    parser.add_argument("--weights", default="bfloat16", choices=WEIGHTS)
    parser.add_argument("--rows", default="1,8,32", help="rows that decode together")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--steps", type=int, default=64, help="tokens of an answer, 4 or more")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args(argv[1:])
    if args.steps < _LEAST_STEPS:
        parser.error(f"--steps {args.steps}: at least {_LEAST_STEPS} are wanted")
    plan = Plan(SHAPES[args.model], args.weights, args.prompt, args.steps, args.rounds)
    numbers = [int(rows) for rows in args.rows.split(",")]
    rows = []
    with tqdm.tqdm(total=len(numbers) * len(SIDES) * plan.rounds, unit="run", disable=None) as bar:
        for number in numbers:
            rows.append(measure(plan, number, bar.update))
            show(rows[-1])
    if args.json:
        report = {
            "kind": "step_profile",
            "plan": dataclasses.asdict(plan),
            "cores": psutil.cpu_count(),
            "rows": rows,
        }
        write_json(args.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
