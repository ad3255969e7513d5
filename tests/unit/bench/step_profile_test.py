"""The profile of a step: what is read of a program and a trace, and a whole run."""

import json
import pathlib

import numpy as np
import pytest

from tools.bench import step_profile, step_trace
from tools.bench.step_trace import Event

PROGRAM = """
%body (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %ffi_call.1 = (f32[1,64]{1,0}, f32[1,0]{1,0}) custom-call(%a, %b), custom_call_target="sax_linear"
  %copy.2 = s32[] copy(%c)
  ROOT %tuple.3 = (s32[], f32[4]{0}) tuple(%copy.2, %d)
}

ENTRY %main {
  %while.4 = (s32[], f32[4]{0}) while(%tuple.5), condition=%cond, body=%body
  %ffi_call.6 = f32[4,8]{1,0} custom-call(%e), custom_call_target="sax_choice"
  ROOT %cond.7 = f32[4]{0} conditional(%f, %g, %h), branch_computations={%x, %y}
}
"""


def test_instructions_are_told_apart_and_what_holds_others_is_left_out() -> None:
    kinds = step_trace.instructions(PROGRAM)
    assert kinds["ffi_call.1"] == "products"
    assert kinds["ffi_call.6"] == "choice"
    assert kinds["copy.2"] == step_trace.OTHER
    assert not kinds.keys() & {"while.4", "cond.7"}


def test_an_instruction_counts_with_its_median() -> None:
    events = [Event("ffi_call.1", s) for s in (1.0, 1.0, 9.0, 1.0)] + [Event("unknown", 5.0)]
    found = step_trace.by_kind(events, step_trace.instructions(PROGRAM), steps=2)
    assert found == {"products": 2.0, "attention": 0.0, "choice": 0.0, step_trace.OTHER: 0.0}


def test_a_folder_without_a_profile_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no profile"):
        next(step_trace.read(str(tmp_path)))


def test_parts_add_up_to_the_bare_step_and_what_the_host_adds() -> None:
    steps = {"bare": (0.010, 0.020), "engine": (0.011, 0.021), "generate": (0.5, 0.0205)}
    taken = {side: np.full((3, 2), seconds) for side, seconds in steps.items()}
    taken["stream"] = np.full((3, 2), (0.013, 0.023))
    taken["ahead"] = np.full((3, 2), (0.2, 0.3))  # no part of the others
    found = step_profile.summary({"products": 0.007, "choice": 0.001}, taken)
    assert found["parts"] == pytest.approx(
        {
            "products": 7,
            "choice": 1,
            step_profile.DISPATCH: 2,
            "engine": 1,
            "generate": 0,  # less than the engine: noise
            "stream": 2.5,
        }
    )
    assert found["sides"]["engine"] == pytest.approx({"ms": 11, "cpu_ms": 21, "steps": 3})


def test_a_tiny_model_is_profiled_on_all_sides(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    flags = ["--model=tiny", "--rows=1", "--prompt=8", "--steps=6", "--rounds=1"]
    assert step_profile.main(["step_profile", *flags, f"--json={file}"]) == 0
    report = json.loads(file.read_text())
    (row,) = report["rows"]
    assert row["rows"] == 1
    assert {side: found["steps"] for side, found in row["sides"].items()} == {
        "bare": 5,
        "engine": 4,
        "ahead": 4,
        "generate": 4,
        "stream": 4,
    }
    for kernel in step_trace.KERNELS.values():
        assert row["parts"][kernel] > 0
    assert "1 rows" in capsys.readouterr().out


def test_answers_too_short_for_all_rows_to_decode_together_are_told() -> None:
    flags = ["--model=tiny", "--rows=32", "--prompt=200", "--steps=4", "--rounds=1"]
    with pytest.raises(RuntimeError, match="ask for more --steps"):
        step_profile.main(["step_profile", *flags])


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(SystemExit):
        step_profile.main(["step_profile", "--steps=2"])
