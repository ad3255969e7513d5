"""Cases of the comparison with peers: what they are, read and compute, and how turns are rated."""

import numpy as np
import pytest

from tools.bench.cases import SHAPES, Case, Measured, llama_of


def case(name: str, new: int = 4) -> Case:
    return Case.parse(name, decode_tokens=new, beam_tokens=new)


def test_cases_by_name() -> None:
    assert case("decode8") == Case("decode8", 8, 128, 4)
    assert case("prefill1024") == Case("prefill1024", 1, 1024, 1)
    assert case("beam4") == Case("beam4", 1, 430, 4, 4)
    assert [case(name).kind for name in ("decode32", "beam2", "prefill7")] == [
        "decode",
        "beam",
        "prefill",
    ]


@pytest.mark.parametrize("name", ["decode", "decode0", "8", "beam-1", "warm3", "decode8x", ""])
def test_bad_case(name: str) -> None:
    with pytest.raises(ValueError, match="decodeN, prefillN or beamN"):
        case(name)


def test_sizes_are_those_of_the_models() -> None:
    assert SHAPES["small"].step_weights == 12 * 12 * 1024**2 + 50400 * 1024
    assert SHAPES["6b"].step_weights == pytest.approx(5.84e9, rel=0.01)
    assert SHAPES["smollm2"].step_weights == pytest.approx(134.5e6, rel=0.01)
    for name in ("small", "medium", "6b"):
        llama = llama_of(SHAPES[name])
        assert llama.family == "llama"
        assert llama.step_weights == pytest.approx(SHAPES[name].step_weights, rel=0.01)
    assert llama_of(SHAPES["smollm2"]) is SHAPES["smollm2"]


def test_prompts_are_the_same_for_everyone_and_new_with_each_seed() -> None:
    shape = SHAPES["tiny"]
    first, again, other = (case("decode3").prompts(shape, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert np.shape(first) == (3, 128)
    assert len({tuple(row) for row in first + other}) == 6
    assert max(max(row) for row in first) < shape.V - 1


def test_work_of_a_decode_is_shared_by_its_rows() -> None:
    shape = SHAPES["small"]
    one, eight = (case(name).work(shape, "bfloat16") for name in ("decode1", "decode8"))
    kv = 130 * shape.kv_per_token * 2
    assert one[0] == pytest.approx(2 * shape.step_weights + kv)
    assert eight[0] == pytest.approx(2 * shape.step_weights / 8 + kv)
    assert one[1] == eight[1] == pytest.approx(2 * shape.step_weights, rel=0.05)
    assert case("decode1").work(shape, "int8")[0] == pytest.approx(shape.step_weights + kv)


def test_work_of_a_prefill_and_a_search() -> None:
    shape = SHAPES["small"]
    read, operations = case("prefill1024").work(shape, "bfloat16")
    assert read == pytest.approx(2 * shape.step_weights / 1024 + 2 * shape.kv_per_token)
    assert operations == pytest.approx(2 * shape.layer_weights, rel=0.1)
    # A step of the search computes four rows; the prompt's keys and values are read once.
    read, operations = case("beam4").work(shape, "bfloat16")
    assert read == pytest.approx(2 * shape.step_weights + 2 * shape.kv_per_token * (430 + 8))
    assert operations == pytest.approx(4 * 2 * shape.step_weights, rel=0.1)


def test_decodes_are_rated_while_all_rows_decode() -> None:
    decode = case("decode2", 3)
    times = [[1.0, 2.0, 3.0], [1.5, 2.5, 3.5]]
    measured = Measured.parse(decode, {"times": times, "seconds": 4, "tokens": [[1] * 3] * 2})
    assert measured.rate(decode) == pytest.approx(3 / 1.5)  # 2.0, 2.5 and 3.0 in 1.5 to 3.0
    apart = Measured([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], 6.0, [[1] * 3] * 2)
    with pytest.raises(ValueError, match="ask for more tokens"):
        apart.rate(decode)


def test_first_tokens_may_come_late_and_together() -> None:
    decode = case("decode1", 16)
    times = [[5.0, 5.0, 5.0, *(float(n) for n in range(6, 19))]]
    assert Measured(times, 18.0, [[1] * 16]).rate(decode) == pytest.approx(1)


def test_prefills_and_searches_are_rated() -> None:
    assert Measured([[0.5]], 9.0, [[1]]).rate(case("prefill100")) == pytest.approx(200)
    assert Measured([], 2.0, [[1] * 4]).rate(case("beam4")) == pytest.approx(2)


@pytest.mark.parametrize(
    ("tokens", "times"),
    [([[1, 2]], [[1.0, 2.0]]), ([[1, 2], [1]], [[1.0, 2.0], [1.0]]), ([[1, 2]] * 2, [[1.0]] * 2)],
)
def test_answers_that_are_too_short_count_for_nothing(
    tokens: list[list[int]], times: list[list[float]]
) -> None:
    with pytest.raises(ValueError, match="decode2: "):
        Measured.parse(case("decode2", 2), {"times": times, "seconds": 2, "tokens": tokens})
