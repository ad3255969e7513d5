"""Which models the CPU kernels compute."""

import dataclasses

import pytest

from saxml import kernels
from saxml.common import errors
from saxml.models.config import ModelConfig
from saxml.ops.backend import PLAIN, Backend
from saxml.server import cpu
from tests.unit.engine import tiny

BEST = kernels.levels()[-1]


@pytest.fixture(autouse=True)
def best_level() -> object:
    yield
    kernels.set_level(BEST)


@pytest.mark.parametrize("config", [tiny.GPTJ, tiny.LLAMA], ids=lambda c: c.family)
def test_weights_are_kept_as_the_configuration_says(config: ModelConfig) -> None:
    for dtype in ("float32", "bfloat16"):
        assert cpu.choose(BEST, dtype, config, 16, 1) == Backend(dtype)
    assert kernels.level() == BEST
    assert cpu.choose("off", "bfloat16", config, 16, 1) == PLAIN


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_int8_is_for_the_kernels_and_its_absence_is_said(
    dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert cpu.choose(BEST, dtype, tiny.LLAMA, 16, 1, int8=True) == Backend("int8")
    assert "not int8" not in caplog.text
    assert cpu.choose("off", dtype, tiny.LLAMA, 16, 1, int8=True) == PLAIN
    assert "matrices are not int8 but floats: CPU kernels only, and they are off" in caplog.text
    assert cpu.choose(BEST, dtype, tiny.LLAMA, 8, 1, int8=True) == PLAIN
    assert "CPU kernels only, and PAGE_SIZE 8 is no multiple of 16" in caplog.text


def test_the_slow_level_is_for_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "levels", lambda: ["portable"])
    assert cpu.choose("auto", "bfloat16", tiny.GPTJ, 16, 1) == PLAIN
    assert cpu.choose("portable", "bfloat16", tiny.GPTJ, 16, 1) == Backend("bfloat16")


@pytest.mark.skipif(BEST == "portable", reason="this CPU has no better level")
def test_a_quick_level_is_taken_by_itself() -> None:
    assert cpu.choose("auto", "bfloat16", tiny.GPTJ, 16, 1) == Backend("bfloat16")
    assert kernels.level() == BEST


def test_a_level_can_be_forced() -> None:
    assert cpu.choose("portable", "float32", tiny.GPTJ, 16, 1) == Backend("float32")
    assert kernels.level() == "portable"
    with pytest.raises(errors.InvalidArgumentError, match=r"--cpu_kernels=sse: .* is none of"):
        cpu.choose("sse", "float32", tiny.GPTJ, 16, 1)


@pytest.mark.parametrize(
    ("config", "page_size", "devices", "reason"),
    [
        (tiny.GPTJ, 16, 2, "the mesh has 2 devices"),
        (tiny.GPTJ, 8, 1, "PAGE_SIZE 8 is no multiple of 16"),
        (dataclasses.replace(tiny.LLAMA, head_dim=9, rotary_dim=8), 16, 1, "head_dim 9 is odd"),
        (dataclasses.replace(tiny.GPTJ, num_heads=1, num_kv_heads=1), 16, 1, "q and k and v have"),
        (dataclasses.replace(tiny.LLAMA, hidden_dim=40), 16, 1, "gate and up have 80 columns"),
    ],
)
def test_others_are_left_to_plain_jax(
    config: ModelConfig,
    page_size: int,
    devices: int,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert cpu.choose(BEST, "float32", config, page_size, devices) == PLAIN
    assert reason in caplog.text
