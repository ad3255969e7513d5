"""Statistics of the comparison with peers."""

import pytest

from tools.bench.cases import SHAPES, Case
from tools.bench.peers_table import Entrant, Sample, Spread, ratios, report, tables

CASES = {name: Case.parse(name, decode_tokens=4, beam_tokens=4) for name in ("decode1", "beam4")}
OURS = Entrant("sax-bare", "small", "bfloat16")
PEER = Entrant("hf", "small", "bfloat16")
HUGE = Entrant("hf", "small", "bfloat16", "huge")


def sample(
    entrant: Entrant, number: int, rate: float, *, case: str = "decode1", others: float = 0.0
) -> Sample:
    return Sample(entrant, case, number, rate, 40.0, others)


def test_spread() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert Spread.of([1.0, 4.0]).median == 2.5
    assert str(Spread(123.4, 1.234, 56.78, 3)) == "123 (1.23-56.8)"
    with pytest.raises(ValueError, match="no values"):
        Spread.of([])


def test_ratios_are_of_turns_of_the_same_round() -> None:
    samples = [sample(OURS, n, rate) for n, rate in enumerate((10.0, 40.0, 30.0, 99.0))]
    samples += [sample(PEER, n, rate) for n, rate in enumerate((5.0, 10.0, 10.0))]
    found = ratios(samples, 0.1)
    assert {key[1:]: value for key, value in found.items()} == {
        (OURS, PEER): (Spread(3.0, 2.0, 4.0, 3), True)
    }


def test_the_better_malloc_of_a_peer_counts() -> None:
    samples = [sample(OURS, 0, 30.0), sample(PEER, 0, 10.0), sample(HUGE, 0, 15.0)]
    assert [key[2] for key in ratios(samples, 0.1)] == [HUGE]


def test_other_shapes_are_not_compared() -> None:
    llama = Entrant("llama_cpp", "small_llama", "int8")
    own = Entrant("sax-server", "small_llama", "int8")
    samples = [sample(e, 0, rate) for e, rate in ((OURS, 30.0), (llama, 10.0), (own, 20.0))]
    assert [key[1:] for key in ratios(samples, 0.1)] == [(own, llama)]


def test_disturbed_turns_are_left_out_unless_there_are_no_others() -> None:
    samples = [
        sample(OURS, 0, 30.0),
        sample(OURS, 1, 1.0, others=0.5),
        sample(PEER, 0, 10.0),
        sample(PEER, 1, 10.0, others=0.3),
        sample(PEER, 0, 7.0, case="beam4", others=0.3),
        sample(OURS, 0, 14.0, case="beam4"),
    ]
    assert {key[0]: value for key, value in ratios(samples, 0.1).items()} == {
        "decode1": (Spread(3.0, 3.0, 3.0, 1), True),
        "beam4": (Spread(2.0, 2.0, 2.0, 1), False),
    }
    lines = tables(samples, CASES, SHAPES, 0.1).splitlines()
    assert [line.startswith("beam4") for line in lines if "other programs" in line] == [True] * 2


def test_part_of_the_bandwidth() -> None:
    size = 2 * SHAPES["small"].step_weights
    text = tables([sample(OURS, 0, 20e9 / size)], CASES, SHAPES, 0.1)
    assert " 50%" in text


def test_report_has_every_turn_and_the_work() -> None:
    samples = [sample(OURS, 0, 30.0), sample(PEER, 0, 10.0, others=0.9)]
    found = report(samples, CASES, SHAPES, 0.1)
    assert [turn["entrant"]["engine"] for turn in found["samples"]] == ["sax-bare", "hf"]
    assert len(found["work"]) == 2
    assert found["work"][0]["bytes_per_token"] > 2 * SHAPES["small"].step_weights
