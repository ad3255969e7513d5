"""The engine of the batching benchmark, and one run of it in real time."""

import contextlib
import dataclasses
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import psutil

from saxml.engine.decoders import SampleDecoder
from saxml.engine.engine import Engine
from saxml.engine.options import EngineOptions
from saxml.models import registry, sharding
from saxml.models.config import ModelConfig
from saxml.models.params import random_params
from saxml.ops.backend import Backend, Element
from saxml.server.weights import RandomWeights, packed
from tools.bench.workload import Batches, Job

# Small enough for a core or two, large enough that a step is mostly the model's work.
MODEL = ModelConfig(
    family="llama",
    num_layers=4,
    model_dim=256,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    hidden_dim=704,
    vocab_size=2048,
    rotary_dim=64,
    rotary_base=1e4,
    rotary_style="halves",
    norm_eps=1e-5,
    tied_embeddings=True,
    combined_qkv=False,
    max_positions=1024,
)
PAGE = 16
_MEASURED = 50
_GRACE_S = 600.0


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What the requests saw, in seconds."""

    latencies: list[float]  # from when a request was to come to its end
    first: list[float]  # to its first token
    gaps: list[float]  # between two tokens of a request, all requests together
    cpu_gaps: list[float]  # the same in CPU time of this process, all its threads together
    tokens: int  # of all answers
    seconds: float  # from the start to the last answer
    others: float  # CPU that other programs used meanwhile, as a part of the machine


def make_engine(
    rows: int,
    buckets: Sequence[int],
    progress: Callable[[str], None],
    weights: Element | None = None,
) -> Engine:
    """With random weights, and pages for all rows at full length. weights: how the CPU kernels
    store them; None: plain JAX computes the model, in float32."""
    backend = Backend(weights)
    options = EngineOptions(
        page_size=PAGE,
        num_pages=rows * MODEL.max_positions // PAGE,
        max_model_len=MODEL.max_positions,
        max_rows=rows,
        buckets=tuple(buckets),
        queue_capacity=1 << 16,
        top_k=1,
        num_candidates=0,
        stop_ids=(),
        backend=backend,
    )
    if weights is None:
        operands = _plain_operands()
    else:
        source = RandomWeights(registry.parameters(MODEL), jax.random.key(0), jnp.float32)
        operands = packed(source, MODEL, backend, jnp.float32, lambda done, total: None)
    mesh = sharding.make_mesh((1, 1, 1), jax.devices())
    return Engine(MODEL, operands, options, mesh, jnp.float32, progress=progress)


def _plain_operands() -> dict[str, jax.Array]:
    mesh = sharding.make_mesh((1, 1, 1), jax.devices())
    declared = registry.parameters(MODEL)
    shardings = {
        name: sharding.sharding(mesh, p.stacked_axes, p.stacked_shape)
        for name, p in declared.items()
    }
    key, dtype = jax.random.key(0), jnp.dtype(jnp.float32)
    return registry.prepare(MODEL, random_params(declared, key, dtype, shardings))


def step_costs(engine: Engine) -> dict[int, float]:
    """Seconds of a step of each bucket, by lone prompts that fill it; the host's part is in it. The
    quickest of many, in turn, as other programs only make it longer; none is longer than that of a
    larger bucket."""
    random = np.random.default_rng(0)
    costs = dict.fromkeys(engine.options.buckets, math.inf)
    for _ in range(_MEASURED):
        for bucket in costs:
            prompt = random.integers(0, MODEL.vocab_size, bucket, np.int32)
            start = time.monotonic()
            engine.submit(prompt, _answer(1)).future.result()
            costs[bucket] = min(costs[bucket], time.monotonic() - start)
    return {bucket: min(s for b, s in costs.items() if b >= bucket) for bucket in costs}


def serve(
    engine: Engine,
    jobs: Sequence[Job],
    batches: Batches | None,
    *,
    seed: int = 0,
    progress: Callable[[int], object] = lambda done: None,
) -> Run:
    """Sends the jobs when they are due, to be served continuously or in static batches, and waits
    for all answers."""
    random = np.random.default_rng(seed)
    prompts = [random.integers(0, MODEL.vocab_size, job.prompt, np.int32) for job in jobs]
    watch = _Watch()
    clients = [_Client(engine, job, prompt) for job, prompt in zip(jobs, prompts, strict=True)]
    start = time.monotonic() + 0.05
    if batches is None:
        for client in clients:
            _sleep_until(start + client.job.arrival_s)
            client.send(progress)
    else:
        _serve_batches(clients, batches, start, progress)
    for client in clients:
        client.wait()
    return Run(
        latencies=[c.times[-1] - start - c.job.arrival_s for c in clients],
        first=[c.times[0] - start - c.job.arrival_s for c in clients],
        gaps=[gap for c in clients for gap in np.diff(c.times).tolist()],
        cpu_gaps=[gap for c in clients for gap in np.diff(c.cpu).tolist()],
        tokens=sum(job.steps for job in jobs),
        seconds=max(c.times[-1] for c in clients) - start,
        others=watch.others(),
    )


class _Client:
    """One request: when its tokens came."""

    def __init__(self, engine: Engine, job: Job, prompt: npt.NDArray[np.int32]) -> None:
        self.job = job
        self.times: list[float] = []
        self.cpu: list[float] = []
        self._engine = engine
        self._prompt = prompt
        self._ended = threading.Event()

    def send(self, progress: Callable[[int], object]) -> None:
        """Submits it. Its last token has no on_step of its own: the future comes instead."""
        request = self._engine.submit(
            self._prompt,
            _answer(self.job.steps),
            on_step=lambda results: self._token(),
        )

        def ended(future: object) -> None:
            self._token()
            self._ended.set()
            progress(1)

        request.future.add_done_callback(ended)

    def _token(self) -> None:
        self.times.append(time.monotonic())
        self.cpu.append(time.process_time())

    def wait(self) -> None:
        """Until it has ended."""
        if not self._ended.wait(_GRACE_S) or len(self.times) != self.job.steps:
            raise RuntimeError(f"a request of {self.job.steps} tokens got {len(self.times)}")


def _answer(steps: int) -> SampleDecoder:
    return SampleDecoder(num_samples=1, max_steps=steps, stop_ids=())


def _serve_batches(
    clients: Sequence[_Client],
    batches: Batches,
    start: float,
    progress: Callable[[int], object],
) -> None:
    arrived: queue.Queue[_Client] = queue.Queue()

    def arrive() -> None:
        for client in clients:
            _sleep_until(start + client.job.arrival_s)
            arrived.put(client)

    arrivals = threading.Thread(target=arrive, daemon=True)
    arrivals.start()
    left = len(clients)
    waiting: list[_Client] = []
    while left:
        if not waiting:
            waiting.append(arrived.get())
        oldest = start + waiting[0].job.arrival_s
        while not arrived.empty():
            waiting.append(arrived.get())
        if not batches.ready(len(waiting), time.monotonic() - oldest):
            with contextlib.suppress(queue.Empty):
                left_s = max(0.0, oldest + batches.wait_s - time.monotonic())
                waiting.append(arrived.get(timeout=left_s))
            continue
        batch, waiting = waiting[: batches.size], waiting[batches.size :]
        for client in batch:
            client.send(progress)
        for client in batch:
            client.wait()
        left -= len(batch)
    arrivals.join()


class _Watch:
    """How much of the machine other programs use."""

    def __init__(self) -> None:
        self._start = self._now()

    def others(self) -> float:
        """Since the start, 0 to 1."""
        busy, own, whole = (b - a for a, b in zip(self._start, self._now(), strict=True))
        return max(0.0, busy - own) / whole

    @staticmethod
    def _now() -> tuple[float, float, float]:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        own = psutil.Process().cpu_times()
        return sum(times) - idle, own.user + own.system, sum(times)


def _sleep_until(moment: float) -> None:
    delay = moment - time.monotonic()
    if delay > 0:
        time.sleep(delay)
