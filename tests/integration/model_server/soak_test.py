"""Many mixed requests to a real process: memory stays flat, no page is lost, the counters agree.

SAX_SOAK_REQUESTS (3000) and SAX_SOAK_SEED (1) are taken from the environment; the figures are
printed, and are in docs/operations.md for 10,000.
"""

import collections
import os
import pathlib
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import psutil

from tests.integration.model_server import tiny
from tests.integration.model_server.server_process import ServerProcess, serving

_REQUESTS = int(os.environ.get("SAX_SOAK_REQUESTS", "3000"))
_SEED = int(os.environ.get("SAX_SOAK_SEED", "1"))
_CLIENTS = 12
_CANCELLED = 0.05
_MALFORMED = 0.05
# Memory is compared from here on: threads, connections and arenas are all there by then.
_WARM_UP = 0.25
_MOST_GROWTH = 0.05
_MALFORMED_CODES = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}


class _Soak:
    """Sends the requests from a few threads, each waiting for its answer."""

    def __init__(self, server: ServerProcess) -> None:
        self._client = server.client
        self._lock = threading.Lock()
        self._left = _REQUESTS
        self.sent: collections.Counter[str] = collections.Counter()
        self.codes: collections.Counter[str] = collections.Counter()
        self.seconds: list[float] = []
        self.answered = 0  # as engines count: each suffix of a score is one
        self.wrong: list[str] = []

    def run(self, at: dict[int, Callable[[], None]]) -> None:
        """Sends all; `at` says what to do when only so many are left."""
        threads = [
            threading.Thread(target=self._work, args=(random.Random(_SEED * 1000 + i), at))
            for i in range(_CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, rng: random.Random, at: dict[int, Callable[[], None]]) -> None:
        while True:
            with self._lock:
                if self._left == 0:
                    return
                self._left -= 1
                act = at.get(self._left)
            if act is not None:
                act()
            fate = rng.random()
            try:
                if fate < _MALFORMED:
                    self._malformed(rng)
                else:
                    self._sound(rng, cancelled=fate > 1 - _CANCELLED)
            except Exception as e:
                with self._lock:
                    self.wrong.append(repr(e))

    def _sound(self, rng: random.Random, *, cancelled: bool) -> None:
        kind = rng.choice(["greedy", "greedy", "samples", "beams", "score", "stream", "stream"])
        ids = [rng.randrange(tiny.VOCAB) for _ in range(rng.randint(1, tiny.LONGEST_PROMPT))]
        if rng.random() < 0.3:  # some begin alike
            ids = [*range(30), *ids][: tiny.LONGEST_PROMPT]
        extra: dict[str, float] = {"per_example_max_decode_steps": rng.randint(1, tiny.STEPS)}
        if kind in ("samples", "stream"):
            extra |= {"temperature": 0.8, "seed": rng.randrange(1 << 20)}
        requests = 1
        if kind == "score":
            requests = rng.randint(1, 4)
            suffixes = [
                [rng.randrange(tiny.VOCAB) for _ in range(rng.randint(1, 12))]
                for _ in range(requests)
            ]
            call = self._client.score(ids[:30], suffixes)
        elif kind == "stream":
            call = self._client.stream(ids, model=tiny.SAMPLES, timeout=120, **extra)
        elif kind == "beams":
            call = self._client.generate(ids, model=tiny.BEAMS)
        else:
            call = self._client.generate(ids, model=tiny.SAMPLES, timeout=120, **extra)
        start = time.monotonic()
        if cancelled:
            time.sleep(rng.random() * 0.1)
            call.cancel()
        try:
            self._check(kind, requests, list(call) if kind == "stream" else call.result())
            code = "OK"
        except (grpc.RpcError, grpc.FutureCancelledError) as e:
            code = e.code().name if isinstance(e, grpc.RpcError) else "CANCELLED"
        with self._lock:
            self.sent[f"{kind}, cancelled" if cancelled else kind] += 1
            self.codes[code] += 1
            if code == "OK":
                self.answered += requests
                self.seconds.append(time.monotonic() - start)
            elif not (cancelled and code == "CANCELLED"):
                self.wrong.append(f"{kind} ended with {code}: {call.details()}")

    def _check(self, kind: str, requests: int, answer: Any) -> None:
        if kind == "score":
            assert len(answer.logp) == requests
        elif kind == "stream":
            assert answer
        else:
            assert len(answer.texts) == (3 if kind == "beams" else 2)

    def _malformed(self, rng: random.Random) -> None:
        client = self._client
        ways: list[Callable[[], Any]] = [
            lambda: client.generate([tiny.VOCAB + 5]),
            lambda: client.generate([]),
            lambda: client.generate([1] * (tiny.LONGEST_PROMPT + 1)),
            lambda: client.generate([1], temperature=-1.0),
            lambda: client.generate([1], nonsense=1.0),
            lambda: client.score([1, 2], []),
            lambda: client.generate([1], model="/sax/test/nobody"),
            lambda: client.stream([1], per_example_max_decode_steps=0.5),
        ]
        call = rng.choice(ways)()
        code = call.code()
        with self._lock:
            self.sent["malformed"] += 1
            self.codes[code.name] += 1
            if code not in _MALFORMED_CODES:
                self.wrong.append(f"a malformed request ended with {code}: {call.details()}")


def test_memory_is_flat_no_page_is_lost_and_the_counters_agree(tmp_path: pathlib.Path) -> None:
    with serving(tmp_path, tiny.SAMPLES, tiny.BEAMS) as server:
        process = psutil.Process(server.process.pid)
        resident: dict[int, float] = {}
        marks = {int(_REQUESTS * (1 - i / 20)) for i in range(1, 20)}

        def look(left: int) -> Callable[[], None]:
            return lambda: resident.__setitem__(left, process.memory_info().rss / 1e6)

        compiled = server.client.metrics()("compilations_total")
        soak, start = _Soak(server), time.monotonic()
        soak.run({left: look(left) for left in marks})
        took = time.monotonic() - start
        look(0)()
        metrics = [server.client.metrics(model) for model in server.models]
        _report(soak, resident, took, metrics)
        assert soak.wrong == []
        _until_idle(server)
        metrics = [server.client.metrics(model) for model in server.models]
        assert [m("kv_pages", state="used") for m in metrics] == [0, 0]
        started = sum(m("requests_started_total") for m in metrics)
        finished: collections.Counter[str] = collections.Counter()
        for m in metrics:
            finished.update(m.by_reason("requests_finished_total"))
            firsts = m("time_to_first_token_seconds_count")
            nothing = sum(m.by_reason("requests_without_token_total").values())
            assert firsts + nothing == m("requests_started_total")
        assert sum(finished.values()) == started
        assert set(finished) <= {"stop", "length", "done", "cancelled"}
        answered = finished["stop"] + finished["length"] + finished["done"]
        # Some were answered just when they were cancelled.
        assert 0 <= answered - soak.answered <= soak.codes["CANCELLED"] * 4
        assert server.client.metrics()("compilations_total") == compiled
        warm = [mb for left, mb in resident.items() if left <= _REQUESTS * (1 - _WARM_UP)]
        assert max(warm[-3:]) <= min(warm) * (1 + _MOST_GROWTH), resident
        server.process.terminate()
        assert server.process.wait(60) == 0


def _until_idle(server: ServerProcess) -> None:
    for model in server.models:
        limit = time.monotonic() + 30
        while True:
            m = server.client.metrics(model)
            if m("num_requests_running") + m("num_requests_waiting") == 0:
                break
            assert time.monotonic() < limit
            time.sleep(0.05)


def _report(
    soak: _Soak, resident: dict[int, float], took: float, metrics: list[tiny.Metrics]
) -> None:
    seconds = sorted(soak.seconds)
    print(f"\n{_REQUESTS} requests in {took:.0f} s: {dict(sorted(soak.sent.items()))}")
    print(f"codes: {dict(soak.codes)}")
    print(
        f"answers after {seconds[len(seconds) // 2]:.3f} s (median),"
        f" {seconds[int(len(seconds) * 0.99)]:.3f} s (p99), {seconds[-1]:.3f} s (longest)"
    )
    print("resident MB:", " ".join(f"{_REQUESTS - k}:{v:.0f}" for k, v in resident.items()))
    for model, m in zip((tiny.SAMPLES, tiny.BEAMS), metrics, strict=True):
        print(
            f"{model}: started {m('requests_started_total'):.0f},"
            f" finished {m.by_reason('requests_finished_total')},"
            f" without token {m.by_reason('requests_without_token_total')},"
            f" tokens {m('generation_tokens_total'):.0f}, steps {m('step_seconds_count'):.0f},"
            f" pages used {m('kv_pages', state='used'):.0f}"
            f" cached {m('kv_pages', state='cached'):.0f} free {m('kv_pages', state='free'):.0f}"
        )
