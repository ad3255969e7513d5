"""Our sides of the comparison with peers as real processes: both answer, and give the same."""

import pathlib
from collections.abc import Iterator

import pytest

from tools.bench import peers
from tools.bench.cases import Case, Measured
from tools.bench.peers import Field
from tools.bench.peers_table import Entrant

CASES = [
    Case.parse(name, decode_tokens=16, beam_tokens=6) for name in ("decode3", "prefill64", "beam2")
]


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    folder = tmp_path_factory.mktemp("bench")
    args = peers.parser().parse_args(
        ["--peers=", "--model=tiny", "--weights=float32", f"--cache={folder}"]
    )
    made = Field(peers.starts(args, CASES, {}), pathlib.Path(folder), keep=True)
    yield made
    made.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_server_and_bare_engine_give_the_same_tokens(field: Field, case: Case) -> None:
    found: dict[str, Measured] = {}
    for engine in peers.OURS:
        entrant = Entrant(engine, "tiny", "float32")
        field.wake(entrant, case)
        found[engine] = field.turn(entrant, case, 7)
        assert found[engine].rate(case) > 0
    assert found["sax-bare"].tokens == found["sax-server"].tokens
    assert field.turn(entrant, case, 8).tokens != found["sax-server"].tokens
