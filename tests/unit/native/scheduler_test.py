import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from saxml import native


def ints(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def make(**changes: Any) -> native.Scheduler:
    sizes: dict[str, Any] = {
        "num_pages": 32,
        "page_size": 4,
        "max_rows": 4,
        "buckets": [4, 8, 16],
        "max_model_len": 40,
        "queue_capacity": 4,
        "row_params": 2,
        "prefix_cache": False,
    }
    return native.Scheduler(**{**sizes, **changes})


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


def test_entries_keep_their_sample_when_others_end() -> None:
    scheduler = make()
    submit(scheduler, 7, [1, 2, 3, 4, 5], width=3, fork_at_start=True)
    planned(scheduler)
    scheduler.advance(7, ints(0, 0), ints(22, 23), ints(1, 2))
    assert section(scheduler, planned(scheduler), "entry_sample")[:2] == [1, 2]
    scheduler.advance(7, ints(1), ints(33), ints(2))
    assert section(scheduler, planned(scheduler), "entry_sample")[:1] == [2]
    with pytest.raises(ValueError, match="1 parents and 2 samples"):
        scheduler.advance(7, ints(0), ints(43), ints(2, 1))
    scheduler.advance(7, ints(0), ints(43), ints(2))
    assert section(scheduler, planned(scheduler), "entry_sample")[:1] == [2]


def test_samples_fork_after_the_prompt() -> None:
    scheduler = make()
    submit(scheduler, 7, [1, 2, 3, 4, 5], width=3, fork_at_start=True)
    plan = planned(scheduler)
    assert plan.entry_request.tolist() == [7, 7, 7]
    assert plan.entry_seq.tolist() == [0, 0, 0]
    assert section(scheduler, plan, "entry_sample") == [0, 1, 2, 0]
    assert section(scheduler, plan, "entry_token") == [4, 4, 4, 0]
    scheduler.advance(7, ints(0, 0, 0), ints(21, 22, 23))
    assert scheduler.used_pages == 2, "forks share their pages"
    plan = planned(scheduler)
    assert plan.entry_seq.tolist() == [0, 1, 2]
    assert section(scheduler, plan, "tokens") == [21, 22, 23, 0]
    assert plan.num_copies == 2, "the last one keeps the page"
    assert scheduler.used_pages == 4


def test_beams_join_and_their_pages_come_back() -> None:
    scheduler = make()
    submit(scheduler, 7, [1, 2, 3, 4, 5], width=3, max_new_tokens=9)
    planned(scheduler)
    scheduler.advance(7, ints(0, 0, 0), ints(21, 22, 23))
    planned(scheduler)
    scheduler.advance(7, ints(1, 1, 1), ints(31, 32, 33))
    assert scheduler.used_pages == 2
    plan = planned(scheduler)
    assert plan.num_copies == 2
    scheduler.advance(7, ints(2), ints(41))
    assert scheduler.used_pages == 2
    plan = planned(scheduler)
    assert (plan.num_copies, plan.num_rows) == (0, 1)


def test_scoring_in_pieces() -> None:
    scheduler = make(max_rows=2)
    submit(scheduler, 7, [1, 2, 3, 4], max_new_tokens=0, targets=(52, 53, 54))
    plan = planned(scheduler)
    assert section(scheduler, plan, "tokens")[: plan.num_tokens] == [1, 2, 3]
    assert section(scheduler, plan, "entry_token") == [1, 2]
    assert plan.entry_target.tolist() == [52, 53]
    plan = planned(scheduler)
    assert plan.entry_target.tolist() == [54]
    assert section(scheduler, plan, "entry_position") == [4, 0]
    assert scheduler.plan(0.0) is None
    with pytest.raises(ValueError, match="it is scored; finish it"):
        scheduler.advance(7, ints(0), ints(1))
    scheduler.finish(7)
    assert scheduler.free_pages == 32


def test_dropped_requests_are_told_once_and_why() -> None:
    scheduler = make()
    submit(scheduler, 1, [1, 2])
    submit(scheduler, 2, [1, 2], deadline=5.0)
    submit(scheduler, 3, [1, 2])
    planned(scheduler)
    scheduler.cancel(1)
    scheduler.cancel(1)
    scheduler.cancel(99)
    assert scheduler.take_dropped() == []
    assert scheduler.plan(5.0) is None, "the third awaits its token"
    dropped = scheduler.take_dropped()
    assert dropped == [(1, native.DropReason.CANCELLED), (2, native.DropReason.EXPIRED)]
    assert scheduler.take_dropped() == []
    assert scheduler.running == 1
    scheduler.check_integrity()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": []}, "the prompt is empty"),
        ({"max_new_tokens": 40}, r"together they may be at most 40 \(max_model_len\)"),
        ({"max_new_tokens": -1}, "must not be negative"),
        ({"width": 0}, "width is 0"),
        ({"width": 5}, r"it must be 1 to 4 \(max_rows\)"),
        ({"targets": (1, 2, 3), "max_new_tokens": 0}, "3 targets for a prompt of 2 tokens"),
        ({"targets": (1,)}, "max_new_tokens 0"),
        ({"row_params": (1,)}, "row_params has 1 words; this scheduler takes 2"),
        ({"deadline": math.nan}, "the deadline is not a number"),
        ({"max_new_tokens": 38, "width": 4}, "may need 40 pages .* there are 32 in all"),
        ({"request_id": 7}, "request 7 is already waiting or running"),
    ],
)
def test_submit_refuses_what_could_never_run(changes: dict[str, Any], message: str) -> None:
    scheduler = make()
    submit(scheduler, 7, [1])
    with pytest.raises(ValueError, match=message):
        submit(scheduler, **{"request_id": 8, "prompt": [1, 2], **changes})
    assert scheduler.waiting == 1


def test_arrays_must_be_flat_int32() -> None:
    scheduler = make()
    with pytest.raises(ValueError, match="prompt has 2 dimensions"):
        submit(scheduler, 1, [[1, 2]])  # type: ignore[list-item]
    submit(scheduler, 1, [1])
    planned(scheduler)
    with pytest.raises(TypeError):
        scheduler.advance(1, np.array([0]), ints(1))
    with pytest.raises(TypeError):
        scheduler.advance(1, ints(0), np.array([1.0]))
    scheduler.advance(1, ints(0, 5)[::2], ints(1, 2)[::2])  # strided ones are copied


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_pages": 0}, "num_pages is 0"),
        ({"page_size": 0}, "page_size is 0"),
        ({"max_rows": 0}, "max_rows is 0"),
        ({"buckets": []}, "buckets is empty"),
        ({"buckets": [8, 4]}, "buckets must ascend"),
        ({"buckets": [2]}, "must hold max_rows = 4"),
        ({"queue_capacity": 0}, "queue_capacity is 0"),
        ({"row_params": -1}, "row_params is -1"),
    ],
)
def test_sizes_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_offsets_of_a_bucket() -> None:
    scheduler = make()
    offsets = scheduler.packed_offsets(8)
    lengths = {name: length for name, (_, length) in offsets.items()}
    T, R, MP, W = 8, 4, 10, 2
    assert list(lengths.items()) == [
        ("header", 8),
        ("tokens", T),
        ("token_source", T),
        ("positions", T),
        ("slots", T),
        ("q_start", R + 1),
        ("kv_len", R),
        ("page_table", R * MP),
        ("copy_src", R),
        ("copy_dst", R),
        ("entry_token", R),
        ("entry_target", R),
        ("entry_sample", R),
        ("entry_position", R),
        ("entry_params", R * W),
    ]
    with pytest.raises(ValueError, match="bucket 5 is none of the 3 buckets"):
        scheduler.packed_offsets(5)
