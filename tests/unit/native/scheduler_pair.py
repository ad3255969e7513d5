"""A scheduler and its model side by side: every operation is done to both and compared."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from saxml import native
from tests.unit.native.scheduler_books import Phase, Request, Run, Step
from tests.unit.native.scheduler_model import Model


def chain(salt: int, tokens: list[int]) -> list[int]:
    """What stands for the keys and values of each token."""
    return list(itertools.accumulate(tokens, lambda before, t: hash((before, t)), initial=salt))[1:]


class Pair:
    """The scheduler, the model, and a cache that executes the plans."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        self.model = Model(**sizes)
        self.scheduler = native.Scheduler(**sizes)
        self.now = 0.0
        # What was computed in each slot: it depends on the token, all before it, and the salt. One
        # page more: the last is where padding would be written.
        self.last: list[tuple[int, int]] = []  # request and sample of the last plan's entries
        self.cache = [-1] * ((self.model.num_pages + 1) * self.model.page_size)

    def submit(self, request: Request) -> None:
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

    def cancel(self, request_id: int) -> None:
        """Cancels a request, known or not."""
        self.scheduler.cancel(request_id)
        self.model.cancel(request_id)

    def finish(self, request_id: int) -> None:
        """Finishes a request, known or not."""
        self.scheduler.finish(request_id)
        self.model.release(request_id)

    def advance(self, request_id: int, parents: list[int], tokens: list[int]) -> bool:
        """Advances a request if it may be; False: it may not, and the scheduler said so."""
        arrays = np.array(parents, np.int32), np.array(tokens, np.int32)
        if self.model.may_advance(request_id, parents):
            self.scheduler.advance(request_id, *arrays)
            self.model.advance(request_id, parents, tokens)
            return True
        with pytest.raises(ValueError, match=f"request {request_id}"):
            self.scheduler.advance(request_id, *arrays)
        return False

    def run_ahead(self, ids: list[int], token: Callable[[], int]) -> bool:
        """Has requests run ahead; `token` gives what the device chooses for each entry."""
        may = self.model.may_run_ahead(ids)
        assert self.scheduler.run_ahead(ids) == may
        for run in self.model.going_ahead(ids) if may else []:
            count = len(run.beams)
            if run.advances == 0:
                count = run.request.width if run.request.fork_at_start else 1
            self.model.run_ahead(run, [token() for _ in range(count)])
        return may

    def resolve(self, run: Run, samples: list[int]) -> None:
        """Tells the tokens with which these samples of a request have run ahead."""
        tokens = [b.cached[-1] if run.phase is Phase.AWAITING else b.pending for b in run.beams]
        told = [t for b, t in zip(run.beams, tokens, strict=True) if b.sample in samples]
        self.scheduler.resolve(
            run.request.id, np.array(samples, np.int32), np.array(told, np.int32)
        )
        self.model.resolve(run, samples)

    def unknown(self) -> list[Run]:
        """Those that have run ahead."""
        return [r for r in self.model.running if r.unknown]

    def awaiting(self) -> list[Run]:
        """Those whose entries are out."""
        return [r for r in self.model.running if r.phase is Phase.AWAITING and not r.unknown]

    def plan(self, seconds: float) -> None:
        """Plans a step so much later, and looks whether it is the model's."""
        self.now += seconds
        dropped = self.model.drop(self.now)
        ready = any(r.phase is not Phase.AWAITING for r in self.model.running)
        expected = self.model.plan()
        plan = self.scheduler.plan(self.now)
        assert {i: reason.name for i, reason in self.scheduler.take_dropped()} == dropped
        assert (plan is None) == (expected is None)
        if plan is None or expected is None:
            assert not ready, "work is left and nothing was planned"
            assert self.model.running or not self.model.waiting + self.model.suspended
            return
        self._check(plan, expected)

    def serve(self) -> None:
        """One step as an engine does it."""
        self.plan(0.0)
        for run in self.unknown():
            self.resolve(run, [beam.sample for beam in run.beams])
        for run in self.awaiting():
            width = run.request.width
            parents = [i % len(run.beams) for i in range(width)]
            if not self.advance(run.request.id, parents, list(range(width))):
                self.finish(run.request.id)

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
        known = [0 if i in step.sources else token for i, token in enumerate(step.tokens)]
        assert s["tokens"] == padded(known, T)
        sources = [
            self.last.index(step.sources[i]) if i in step.sources else -1
            for i in range(len(step.tokens))
        ]
        assert s["token_source"] == padded(sources, T, -1)
        self.last = [(e.request, e.sample) for e in entries]
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

    def check(self) -> None:
        """Looks whether all counts agree."""
        self.scheduler.check_integrity()
        assert self.scheduler.waiting == len(self.model.waiting + self.model.suspended)
        assert self.scheduler.preemptions == self.model.preemptions
        assert self.scheduler.stuck == 0
        assert self.scheduler.running == len(self.model.running)
        assert self.scheduler.queued_tokens == self.model.queued_tokens()
        assert self.scheduler.used_pages == self.model.used_pages()
        assert self.scheduler.used_tokens == self.model.used_tokens()
        assert self.scheduler.cached_pages == len(self.model.idle)
        pages = self.scheduler.free_pages, self.scheduler.cached_pages, self.scheduler.used_pages
        assert sum(pages) == self.model.num_pages
        assert self.scheduler.prefix_queried_tokens == self.model.queried
        assert self.scheduler.prefix_hit_tokens == self.model.hits
        work = self.model.waiting or self.model.running or self.model.suspended
        assert self.scheduler.wait(0.0) == bool(work)

    def end(self) -> None:
        """Finishes everything: nothing may be left."""
        for request in [*self.model.waiting, *(r.request for r in self.model.running)]:
            self.finish(request.id)
        for run in list(self.model.suspended):
            self.finish(run.request.id)
        self.check()
        assert self.scheduler.used_pages == 0
        assert self.scheduler.plan(self.now) is None
