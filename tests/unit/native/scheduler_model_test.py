"""Operations as hypothesis chooses them, on small sizes; failures come out short."""

import math
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.native.scheduler_books import Request
from tests.unit.native.scheduler_pair import Pair

IDS = st.integers(0, 7)  # few, so that they are used again, and while in use
TOKENS = st.integers(0, 99)
# Beginnings of a few texts, so that many share pages, and some that are like no other.
TEXTS = st.sampled_from([list(range(20)), [*range(9), *range(50, 61)], [7] * 20])
PROMPTS = st.one_of(
    st.lists(TOKENS, min_size=1, max_size=20),
    st.builds(lambda text, n: text[:n], TEXTS, st.integers(1, 20)),
    st.builds(lambda text, n, last: text[:n] + last, TEXTS, st.integers(1, 19), st.lists(TOKENS)),
).map(lambda prompt: prompt[:20])


class SchedulerMachine(RuleBasedStateMachine):
    """Random operations on the scheduler and on the model."""

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        def upto(low: int, high: int) -> int:
            return data.draw(st.integers(low, high))

        sizes: dict[str, Any] = {
            "num_pages": upto(8, 48),
            "page_size": upto(1, 4),
            "max_rows": upto(1, 6),
            "max_model_len": upto(16, 40),
            "queue_capacity": upto(1, 6),
            "row_params": upto(0, 2),
        }
        sizes["prefix_cache"] = data.draw(st.sampled_from([True, True, False]))
        sizes["max_queued_tokens"] = data.draw(st.sampled_from([None, None, 30]))
        last = sizes["max_rows"] + upto(0, 16)
        sizes["buckets"] = sorted({*data.draw(st.sets(st.integers(1, last), max_size=3)), last})
        sizes["max_preemptions"] = data.draw(st.sampled_from([3, 3, 1, 0]))
        self.pair = Pair(sizes)
        self.model = self.pair.model

    @rule(data=st.data(), count=st.integers(1, 3))
    def submit_good_ones(self, data: st.DataObject, count: int) -> None:
        m = self.model
        for request_id in [i for i in range(20) if not m.known(i)][:count]:
            request = Request(request_id, data.draw(PROMPTS))
            request.priority = data.draw(st.sampled_from([0, 0, 0, 1, -1]))
            request.cache_salt = data.draw(st.sampled_from([0, 0, 0, 2**64 - 1]))
            request.cache_read = data.draw(st.integers(0, 7)) > 0
            request.row_params = [request_id, -1][: m.row_params]
            request.deadline = self.pair.now + data.draw(
                st.sampled_from([1.0, 3.0, math.inf, math.inf])
            )
            if data.draw(st.integers(0, 3)) == 0:
                last = st.lists(TOKENS, min_size=1, max_size=len(request.prompt))
                request.targets = data.draw(last)
            else:
                request.width = data.draw(st.integers(1, min(3, m.max_rows)))
                request.fork_at_start = data.draw(st.booleans())
                request.max_new_tokens = data.draw(st.integers(1, 12))
            self.pair.submit(request)

    @rule(data=st.data(), text=TEXTS, salt=st.sampled_from([0, 0, 1]))
    def submit_alike(self, data: st.DataObject, text: list[int], salt: int) -> None:
        """Several that begin alike at once: one computes the beginning, the others wait for it."""
        m = self.model
        same = data.draw(st.integers(1, 18))
        for request_id in [i for i in range(20) if not m.known(i)][:3]:
            request = Request(request_id, [*text[:same], request_id, request_id])
            request.row_params = [0] * m.row_params
            request.cache_salt = salt
            if data.draw(st.booleans()):
                request.targets = [5]
            else:
                request.max_new_tokens = 3
            self.pair.submit(request)

    @rule(data=st.data(), request_id=IDS)
    def submit_anything(self, data: st.DataObject, request_id: int) -> None:
        request = Request(request_id, data.draw(st.lists(TOKENS, max_size=40)))
        request.row_params = data.draw(st.lists(st.just(3), max_size=3))
        if data.draw(st.booleans()):
            request.targets = data.draw(st.lists(TOKENS, min_size=1, max_size=20))
        else:
            request.width = data.draw(st.integers(0, 8))
            request.max_new_tokens = data.draw(st.integers(0, 40))
        self.pair.submit(request)

    @rule(request_id=IDS)
    def cancel(self, request_id: int) -> None:
        self.pair.cancel(request_id)

    @precondition(lambda self: len(self.model.running) > 1)
    @rule(data=st.data(), request_id=IDS)
    def finish(self, data: st.DataObject, request_id: int) -> None:
        if data.draw(st.booleans()):
            request_id = data.draw(st.sampled_from(self.model.running)).request.id
        self.pair.finish(request_id)

    @rule(data=st.data(), request_id=IDS)
    def advance_anything(self, data: st.DataObject, request_id: int) -> None:
        parents = data.draw(st.lists(st.integers(-1, 5), max_size=6))
        self.pair.advance(request_id, parents, [data.draw(TOKENS) for _ in parents])

    @precondition(lambda self: self.pair.awaiting())
    @rule(data=st.data())
    def advance(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.pair.awaiting()))
        parent = st.integers(0, len(run.beams) - 1)
        parents = data.draw(st.lists(parent, min_size=1, max_size=run.request.width))
        self.pair.advance(run.request.id, parents, [data.draw(TOKENS) for _ in parents])

    @rule(data=st.data(), planned=st.booleans())
    def run_ahead(self, data: st.DataObject, planned: bool) -> None:
        ids = [run.request.id for run in self.pair.awaiting()]
        if self.pair.run_ahead(ids, lambda: data.draw(TOKENS)) and planned:
            self.pair.plan(0.0)
        for run in self.pair.unknown():
            samples = [beam.sample for beam in run.beams]
            self.pair.resolve(run, samples[data.draw(st.integers(0, len(samples) - 1)) :])

    @rule(seconds=st.sampled_from([0.0, 0.0, 0.0, 1.0]))
    def plan(self, seconds: float) -> None:
        self.pair.plan(seconds)

    @rule(steps=st.integers(1, 6))
    def serve(self, steps: int) -> None:
        """Go on as an engine does, so that requests come far."""
        for _ in range(steps):
            self.pair.serve()

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "pair"):
            self.pair.check()

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.end()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=200,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,  # the same operations on every machine
    suppress_health_check=list(HealthCheck),
)
