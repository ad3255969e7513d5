"""A language model that computes nothing: it repeats the text, when it is allowed to."""

import threading
from collections.abc import Iterator, Mapping

import numpy as np

from saxml.common import errors
from saxml.common.clock import SystemClock
from saxml.engine.gradient import Gradient
from saxml.engine.heartbeat import Stall
from saxml.engine.metrics import EngineMetrics, Gauges
from saxml.proto import common_pb2, lm_pb2
from saxml.server.servable import OnCancel
from saxml.server.stats import MethodStats


class FakeServable:
    """Answers wait for `gate`, which is open at first."""

    def __init__(self, key: str, limit: int = 1000) -> None:
        self.key = key
        self.gate = threading.Event()
        self.gate.set()
        self.failure: errors.SaxError | None = None
        self.stall: Stall | None = None
        self.metrics = EngineMetrics()
        methods = ("lm.generate", "lm.generate_stream", "lm.score", "lm.embed", "lm.gradient")
        self.stats: Mapping[str, MethodStats] = {
            name: MethodStats(name, limit, SystemClock()) for name in methods
        }

    def gauges(self) -> Gauges:
        return Gauges()

    def generate(
        self, text: str, extra: common_pb2.ExtraInputs, deadline: float, on_cancel: OnCancel
    ) -> lm_pb2.GenerateResponse:
        with self.stats["lm.generate"].admit(self.key):
            self.gate.wait(30)
            return lm_pb2.GenerateResponse(texts=[lm_pb2.DecodedText(text=text, score=-1.0)])

    def generate_stream(
        self, text: str, extra: common_pb2.ExtraInputs, deadline: float, on_cancel: OnCancel
    ) -> Iterator[lm_pb2.GenerateStreamResponse]:
        with self.stats["lm.generate_stream"].admit(self.key):
            for place, character in enumerate(text):
                self.gate.wait(30)
                item = lm_pb2.GenerateStreamItem(text=character, prefix_len=place, scores=[-1.0])
                yield lm_pb2.GenerateStreamResponse(items=[item])

    def score(
        self,
        prefix: str,
        suffixes: list[str],
        extra: common_pb2.ExtraInputs,
        deadline: float,
        on_cancel: OnCancel,
    ) -> list[float]:
        with self.stats["lm.score"].admit(self.key):
            self.gate.wait(30)
            return [-float(len(suffix)) for suffix in suffixes]

    def embed(
        self, text: str, extra: common_pb2.ExtraInputs, deadline: float, on_cancel: OnCancel
    ) -> list[float]:
        with self.stats["lm.embed"].admit(self.key):
            self.gate.wait(30)
            return [float(ord(character)) for character in text]

    def gradient(
        self,
        prefix: str,
        suffix: str,
        extra: common_pb2.ExtraInputs,
        deadline: float,
        on_cancel: OnCancel,
    ) -> Gradient:
        with self.stats["lm.gradient"].admit(self.key):
            self.gate.wait(30)
            lengths = np.array([[len(prefix)], [len(suffix)]], np.float32)
            return Gradient(-1.5, {"gradients/inputs/embeddings": lengths})

    def wait_until_idle(self, timeout_s: float) -> bool:
        return all(stats.wait_until_idle(timeout_s) for stats in self.stats.values())

    def unload(self) -> None:
        self.gate.set()
