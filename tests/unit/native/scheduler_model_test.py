import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from saxml import native
from tests.unit.native.scheduler_model import Model, Phase, Request, Step

IDS = st.integers(0, 7)  # few, so that they are used again, and while in use
TOKENS = st.integers(0, 99)
# Beginnings of a few texts, so that many share pages, and some that are like no other.
TEXTS = st.sampled_from([list(range(20)), [*range(9), *range(50, 61)], [7] * 20])
PROMPTS = st.one_of(
    st.lists(TOKENS, min_size=1, max_size=20),
    st.builds(lambda text, n: text[:n], TEXTS, st.integers(1, 20)),
    st.builds(lambda text, n, last: text[:n] + last, TEXTS, st.integers(1, 19), st.lists(TOKENS)),
).map(lambda prompt: prompt[:20])


def chain(salt: int, tokens: list[int]) -> list[int]:
    """What stands for the keys and values of each token."""
    return list(itertools.accumulate(tokens, lambda before, t: hash((before, t)), initial=salt))[1:]


class SchedulerMachine(RuleBasedStateMachine):
    """Random operations on the scheduler and on the model, and a cache that executes the plans."""

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
        self.model = Model(**sizes)
        self.scheduler = native.Scheduler(**sizes)
        self.now = 0.0
        # What was computed in each slot: it depends on the token, all before it, and the salt. One
        # page more: the last is where padding would be written.
        self.cache = [-1] * ((self.model.num_pages + 1) * self.model.page_size)

    @rule(data=st.data(), count=st.integers(1, 3))
    def submit_good_ones(self, data: st.DataObject, count: int) -> None:
        m = self.model
        for request_id in [i for i in range(20) if not m.known(i)][:count]:
            request = Request(request_id, data.draw(PROMPTS))
            request.priority = data.draw(st.sampled_from([0, 0, 0, 1, -1]))
            request.cache_salt = data.draw(st.sampled_from([0, 0, 0, 2**64 - 1]))
            request.cache_read = data.draw(st.integers(0, 7)) > 0
            request.row_params = [request_id, -1][: m.row_params]
            request.deadline = self.now + data.draw(st.sampled_from([1.0, 3.0, math.inf, math.inf]))
            if data.draw(st.integers(0, 3)) == 0:
                last = st.lists(TOKENS, min_size=1, max_size=len(request.prompt))
                request.targets = data.draw(last)
            else:
                request.width = data.draw(st.integers(1, min(3, m.max_rows)))
                request.fork_at_start = data.draw(st.booleans())
                request.max_new_tokens = data.draw(st.integers(1, 12))
            self._submit_checked(request)

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
            self._submit_checked(request)

    @rule(data=st.data(), request_id=IDS)
    def submit_anything(self, data: st.DataObject, request_id: int) -> None:
        request = Request(request_id, data.draw(st.lists(TOKENS, max_size=40)))
        request.row_params = data.draw(st.lists(st.just(3), max_size=3))
        if data.draw(st.booleans()):
            request.targets = data.draw(st.lists(TOKENS, min_size=1, max_size=20))
        else:
            request.width = data.draw(st.integers(0, 8))
            request.max_new_tokens = data.draw(st.integers(0, 40))
        self._submit_checked(request)

    def _submit_checked(self, request: Request) -> None:
        if not self.model.could_run(request) or self.model.known(request.id):
            with pytest.raises(ValueError, match=f"request {request.id}"):
                self._submit(request)
        elif not self.model.has_room(request):
            with pytest.raises(native.QueueFullError):
                self._submit(request)
        else:
            self._submit(request)
            self.model.submit(request)

    def _submit(self, request: Request) -> None:
        self.scheduler.submit(
            request.id,
            np.array(request.prompt, np.int32),
            width=request.width,
            fork_at_start=request.fork_at_start,
            max_new_tokens=request.max_new_tokens,
            targets=np.array(request.targets, np.int32),
            row_params=np.array(request.row_params, np.int32),
            deadline=request.deadline,
            priority=request.priority,
            cache_salt=request.cache_salt,
            cache_read=request.cache_read,
        )

    @rule(request_id=IDS)
    def cancel(self, request_id: int) -> None:
        self.scheduler.cancel(request_id)
        self.model.cancel(request_id)

    @precondition(lambda self: len(self.model.running) > 1)
    @rule(data=st.data(), request_id=IDS)
    def finish(self, data: st.DataObject, request_id: int) -> None:
        if data.draw(st.booleans()):
            request_id = data.draw(st.sampled_from(self.model.running)).request.id
        self.scheduler.finish(request_id)
        self.model.release(request_id)

    @rule(data=st.data(), request_id=IDS)
    def advance_anything(self, data: st.DataObject, request_id: int) -> None:
        self._advance(request_id, data.draw(st.lists(st.integers(-1, 5), max_size=6)), data)

    @precondition(lambda self: any(r.phase is Phase.AWAITING for r in self.model.running))
    @rule(data=st.data())
    def advance(self, data: st.DataObject) -> None:
        awaiting = [r for r in self.model.running if r.phase is Phase.AWAITING]
        run = data.draw(st.sampled_from(awaiting))
        parent = st.integers(0, len(run.beams) - 1)
        parents = data.draw(st.lists(parent, min_size=1, max_size=run.request.width))
        self._advance(run.request.id, parents, data)

    def _advance(self, request_id: int, parents: list[int], data: st.DataObject) -> None:
        tokens = [data.draw(TOKENS) for _ in parents]
        arrays = np.array(parents, np.int32), np.array(tokens, np.int32)
        if self.model.may_advance(request_id, parents):
            self.scheduler.advance(request_id, *arrays)
            self.model.advance(request_id, parents, tokens)
        else:
            with pytest.raises(ValueError, match=f"request {request_id}"):
                self.scheduler.advance(request_id, *arrays)

    @rule(seconds=st.sampled_from([0.0, 0.0, 0.0, 1.0]))
    def plan(self, seconds: float) -> None:
        self._plan(seconds)

    @rule(steps=st.integers(1, 6))
    def serve(self, steps: int) -> None:
        """Go on as an engine does, so that requests come far."""
        for _ in range(steps):
            self._plan(0.0)
            for run in [r for r in self.model.running if r.phase is Phase.AWAITING]:
                width = run.request.width
                parents = [i % len(run.beams) for i in range(width)]
                if self.model.may_advance(run.request.id, parents):
                    tokens = list(range(width))
                    arrays = np.array(parents, np.int32), np.array(tokens, np.int32)
                    self.scheduler.advance(run.request.id, *arrays)
                    self.model.advance(run.request.id, parents, tokens)
                else:
                    self.scheduler.finish(run.request.id)
                    self.model.release(run.request.id)

    def _plan(self, seconds: float) -> None:
        self.now += seconds
        dropped = self.model.drop(self.now)
        busy = any(r.phase is not Phase.AWAITING for r in self.model.running)
        expected = self.model.plan()
        plan = self.scheduler.plan(self.now)
        assert {i: reason.name for i, reason in self.scheduler.take_dropped()} == dropped
        assert (plan is None) == (expected is None)
        if plan is None or expected is None:
            assert not busy, "work is left and nothing was planned"
            return
        self._check(plan, expected)

    def _check(self, plan: native.StepPlan, step: Step) -> None:
        m = self.model
        T, R = step.bucket, min(step.bucket, m.max_rows)
        MP = math.ceil(m.max_model_len / m.page_size)
        rows, entries = len(step.starts), step.entries
        header = [len(step.tokens), rows, step.decode_rows, len(entries), step.copies]
        assert plan.bucket == T
        assert [
            plan.num_tokens,
            plan.num_rows,
            plan.num_decode_rows,
            plan.num_entries,
            plan.num_copies,
        ] == header
        s = {}
        for name, (offset, length) in self.scheduler.packed_offsets(T).items():
            s[name] = [int(word) for word in plan.packed[offset : offset + length]]
        assert sum(map(len, s.values())) == len(plan.packed)

        def padded(values: list[int], length: int, padding: int = 0) -> list[int]:
            return values + [padding] * (length - len(values))

        assert s["header"] == [*header, 0, 0, 0]
        assert s["tokens"] == padded(step.tokens, T)
        assert s["positions"] == padded(step.positions, T)
        assert s["q_start"] == padded(step.starts, R + 1, len(step.tokens))
        assert s["kv_len"] == padded([len(h) for h in step.histories], R)
        assert s["entry_token"] == padded([e.token for e in entries], R)
        assert s["entry_target"] == padded([e.target for e in entries], R, -1)
        assert s["entry_sample"] == padded([e.sample for e in entries], R)
        assert s["entry_position"] == padded([e.position for e in entries], R)
        assert s["entry_params"] == padded(
            [word for e in entries for word in e.params], R * m.row_params
        )
        assert plan.entry_request.tolist() == [e.request for e in entries]
        assert plan.entry_seq.tolist() == [e.seq for e in entries]
        assert plan.entry_target.tolist() == [e.target for e in entries]
        # Where things lie is the scheduler's choice: execute it and look at what each row reads.
        S = m.page_size
        assert s["slots"][len(step.tokens) :] == [m.num_pages * S] * (T - len(step.tokens))
        assert s["page_table"][rows * MP :] == [0] * ((R - rows) * MP)
        for name in "copy_src", "copy_dst":
            assert s[name][step.copies :] == [m.num_pages] * (R - step.copies)
        for src, dst in zip(s["copy_src"], s["copy_dst"], strict=True):
            self.cache[dst * S : (dst + 1) * S] = self.cache[src * S : (src + 1) * S]
        computed = [chain(*both) for both in zip(step.salts, step.histories, strict=True)]
        for row, (first, last) in enumerate(itertools.pairwise([*step.starts, len(step.tokens)])):
            for i in range(first, last):
                self.cache[s["slots"][i]] = computed[row][s["positions"][i]]
        for row, wanted in enumerate(computed):
            table = s["page_table"][row * MP : (row + 1) * MP]
            assert [self.cache[table[p // S] * S + p % S] for p in range(len(wanted))] == wanted

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        self.scheduler.check_integrity()
        assert self.scheduler.waiting == len(self.model.waiting)
        assert self.scheduler.running == len(self.model.running)
        assert self.scheduler.queued_tokens == self.model.queued_tokens()
        assert self.scheduler.used_pages == self.model.used_pages()
        assert self.scheduler.used_tokens == self.model.used_tokens()
        assert self.scheduler.cached_pages == len(self.model.idle)
        pages = self.scheduler.free_pages, self.scheduler.cached_pages, self.scheduler.used_pages
        assert sum(pages) == self.model.num_pages
        assert self.scheduler.prefix_queried_tokens == self.model.queried
        assert self.scheduler.prefix_hit_tokens == self.model.hits
        work = self.model.waiting or self.model.running
        assert self.scheduler.wait(0.0) == bool(work)

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        for request_id in range(20):
            self.scheduler.finish(request_id)
        self.scheduler.check_integrity()
        assert self.scheduler.used_pages == 0
        assert self.scheduler.plan(self.now) is None


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=300,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,  # the same operations on every machine
    suppress_health_check=list(HealthCheck),
)
