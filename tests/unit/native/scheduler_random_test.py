"""100,000 random operations, many with far too few pages: no leak, no starvation, and no
difference from the model."""

import math
import random
from typing import Any

import pytest

from tests.unit.native.scheduler_books import Request
from tests.unit.native.scheduler_pair import Pair

OPERATIONS_EACH = 1250
TEXTS = [list(range(20)), [*range(9), *range(50, 61)], [7] * 20]


class Driver:
    """Draws operations; every third run has hardly any pages."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        sizes: dict[str, Any] = {
            "num_pages": rng.randint(6, 12) if seed % 3 == 0 else rng.randint(8, 48),
            "page_size": rng.randint(1, 4),
            "max_rows": rng.randint(1, 6),
            "max_model_len": rng.randint(16, 40),
            "queue_capacity": rng.randint(1, 8),
            "row_params": 0,
            "prefix_cache": rng.random() < 0.6,
            "max_preemptions": rng.choice([3, 3, 3, 1, 0]),
            "max_queued_tokens": rng.choice([None, None, 30]),
        }
        last = sizes["max_rows"] + rng.randint(0, 16)
        sizes["buckets"] = sorted({rng.randint(1, last), rng.randint(1, last), last})
        self.pair = Pair(sizes)
        self.next_id = 0

    def operation(self) -> None:
        """One of all, as often as in service; an engine's step most often."""
        pick = self.rng.random()
        if pick < 0.3:
            self.submit()
        elif pick < 0.35:
            self.pair.cancel(self.next_id - self.rng.randint(0, 8))
        elif pick < 0.4:
            self.pair.finish(self.next_id - self.rng.randint(0, 8))
        elif pick < 0.45:
            parents = [self.rng.randint(-1, 3) for _ in range(self.rng.randint(0, 3))]
            self.pair.advance(self.next_id - self.rng.randint(0, 8), parents, [5] * len(parents))
        elif pick < 0.55:
            self.advance()
        elif pick < 0.65:
            self.run_ahead()
        elif pick < 0.8:
            self.pair.plan(self.rng.choice([0.0, 0.0, 0.0, 1.0]))
        else:
            self.pair.serve()

    def submit(self) -> None:
        """Prompts that often begin alike; the last token is seldom the same."""
        rng, model = self.rng, self.pair.model
        text = rng.choice(TEXTS)[: rng.randint(0, 18)]
        last = rng.choice([[], [1, 2], [3]])
        request = Request(self.next_id, [*text, rng.randint(0, 99), *last])
        self.next_id += 1
        request.priority = rng.choice([0, 0, 1, -1, 2])
        request.cache_salt = rng.choice([0, 0, 0, 1])
        request.cache_read = rng.random() < 0.9
        request.deadline = self.pair.now + rng.choice([2.0, 5.0, math.inf, math.inf, math.inf])
        if rng.random() < 0.25:
            request.targets = [9] * rng.randint(1, len(request.prompt))
        else:
            request.width = rng.randint(1, min(3, model.max_rows))
            request.fork_at_start = rng.random() < 0.5
            request.max_new_tokens = rng.randint(0, 12)
        self.pair.submit(request)

    def advance(self) -> None:
        """One request goes on: beams part, join and end at random."""
        awaiting = self.pair.awaiting()
        if not awaiting:
            self.pair.plan(0.0)
            return
        run = self.rng.choice(awaiting)
        count = self.rng.randint(1, run.request.width)
        parents = [self.rng.randrange(len(run.beams)) for _ in range(count)]
        tokens = [self.rng.randint(0, 3) for _ in parents]
        if not self.pair.advance(run.request.id, parents, tokens):
            self.pair.finish(run.request.id)

    def run_ahead(self) -> None:
        """As an engine does that plans a step before it has read the last one: then some samples
        end, or whole requests, with the step in flight."""
        rng, ids = self.rng, [run.request.id for run in self.pair.awaiting()]
        if self.pair.run_ahead(ids, lambda: rng.randint(0, 3)):
            if rng.random() < 0.9:
                self.pair.plan(rng.choice([0.0, 0.0, 1.0]))
            self.pair.check()
        for run in self.pair.unknown():
            if rng.random() < 0.1:
                self.pair.finish(run.request.id)
                continue
            samples = [beam.sample for beam in run.beams]
            kept = [sample for sample in samples if rng.random() < 0.8]
            self.pair.resolve(run, kept or samples[:1])

    def drain(self) -> None:
        """Nothing comes any more: everybody ends within what their tokens take, one a step, each
        computed again at every preemption."""
        model = self.pair.model
        runs = [*model.waiting, *(r.request for r in model.running + model.suspended)]
        work = sum(r.width * (len(r.prompt) + r.max_new_tokens + 2) for r in runs)
        for _ in range((model.max_preemptions + 1) * work + 1):
            if not self._left():
                break
            self.pair.serve()
            self.pair.check()
        assert self._left() == 0, "somebody starves"
        assert self.pair.scheduler.used_pages == 0

    def _left(self) -> int:
        model = self.pair.model
        return len(model.waiting) + len(model.running) + len(model.suspended)


@pytest.mark.parametrize("seed", range(80))
def test_random_operations(seed: int) -> None:
    driver = Driver(seed)
    for _ in range(OPERATIONS_EACH):
        driver.operation()
        driver.pair.check()
    assert driver.next_id > 0
    driver.drain()
