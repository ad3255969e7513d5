import math

import numpy as np
import pytest
from numpy.typing import NDArray

from saxml import native


def ints(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def make(**changes: int | list[int]) -> native.Scheduler:
    sizes = {
        "num_pages": 32,
        "page_size": 4,
        "max_rows": 4,
        "buckets": [4, 8, 16],
        "max_model_len": 40,
        "queue_capacity": 4,
        "row_params": 2,
    }
    return native.Scheduler(**{**sizes, **changes})  # type: ignore[arg-type]


def submit(
    scheduler: native.Scheduler,
    request_id: int,
    prompt: list[int],
    *,
    width: int = 1,
    fork_at_start: bool = False,
    max_new_tokens: int = 4,
    targets: tuple[int, ...] = (),
    row_params: tuple[int, ...] = (0, 0),
    deadline: float = math.inf,
) -> None:
    scheduler.submit(
        request_id,
        np.array(prompt, np.int32),
        width=width,
        fork_at_start=fork_at_start,
        max_new_tokens=max_new_tokens,
        targets=ints(*targets),
        row_params=ints(*row_params),
        deadline=deadline,
    )


def section(scheduler: native.Scheduler, plan: native.StepPlan, name: str) -> list[int]:
    offset, length = scheduler.packed_offsets(plan.bucket)[name]
    return [int(word) for word in plan.packed[offset : offset + length]]


def planned(scheduler: native.Scheduler, now: float = 0.0) -> native.StepPlan:
    plan = scheduler.plan(now)
    assert plan is not None
    scheduler.check_integrity()
    return plan


def test_one_request_from_prompt_to_end() -> None:
    scheduler = make()
    submit(scheduler, 7, [11, 12, 13, 14, 15], row_params=(8, 9))
    assert (scheduler.waiting, scheduler.running) == (1, 0)
    plan = planned(scheduler)
    assert (scheduler.waiting, scheduler.running, scheduler.used_pages) == (0, 1, 2)
    assert (plan.bucket, plan.num_tokens, plan.num_rows, plan.num_decode_rows) == (8, 5, 1, 0)
    assert section(scheduler, plan, "header") == [5, 1, 0, 1, 0, 0, 0, 0]
    assert section(scheduler, plan, "tokens") == [11, 12, 13, 14, 15, 0, 0, 0]
    assert section(scheduler, plan, "positions") == [0, 1, 2, 3, 4, 0, 0, 0]
    pages = section(scheduler, plan, "page_table")[:2]
    slots = [pages[0] * 4 + i for i in range(4)] + [pages[1] * 4]
    assert section(scheduler, plan, "slots") == [*slots, 128, 128, 128]
    assert section(scheduler, plan, "q_start") == [0, 5, 5, 5, 5]
    assert section(scheduler, plan, "kv_len") == [5, 0, 0, 0]
    assert section(scheduler, plan, "copy_src") == [32] * 4
    assert section(scheduler, plan, "copy_dst") == [32] * 4
    assert section(scheduler, plan, "entry_token") == [4, 0, 0, 0]
    assert section(scheduler, plan, "entry_target") == [-1] * 4
    assert section(scheduler, plan, "entry_position") == [5, 0, 0, 0]
    assert section(scheduler, plan, "entry_params") == [8, 9, 0, 0, 0, 0, 0, 0]
    assert plan.entry_request.tolist() == [7]
    assert plan.entry_seq.tolist() == [0]
    assert plan.entry_target.tolist() == [-1]
    assert scheduler.plan(0.0) is None, "it awaits its token"
    scheduler.advance(7, ints(0), ints(42))
    plan = planned(scheduler)
    assert (plan.bucket, plan.num_decode_rows) == (4, 1)
    assert section(scheduler, plan, "tokens") == [42, 0, 0, 0]
    assert section(scheduler, plan, "positions") == [5, 0, 0, 0]
    scheduler.finish(7)
    scheduler.finish(7)
    assert (scheduler.running, scheduler.free_pages) == (0, 32)
    assert scheduler.plan(0.0) is None


def test_plan_arrays_outlive_the_plan_and_the_scheduler() -> None:
    scheduler = make()
    submit(scheduler, 7, [11, 12])
    plan = planned(scheduler)
    packed, request = plan.packed, plan.entry_request
    assert np.shares_memory(packed, plan.packed), "a view, not a copy"
    del plan, scheduler
    assert packed[0] == 2
    assert request.tolist() == [7]


def test_queue_full() -> None:
    scheduler = make(queue_capacity=1)
    submit(scheduler, 1, [1])
    with pytest.raises(native.QueueFullError, match="1 requests are waiting"):
        submit(scheduler, 2, [1])
    planned(scheduler)
    submit(scheduler, 2, [1])
