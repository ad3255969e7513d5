"""Models with random weights can be converted, and lie in as many files as was said."""

import pathlib

import pytest

from saxml.checkpoint import pax
from tools.bench import big_model
from tools.convert.gptj import convert_gptj

MB = 10**6


def test_tensors_are_spread_over_shards_in_their_order() -> None:
    shapes = {"a": (10,), "b": (5, 5), "c": (3,), "d": (100,), "e": (1,)}
    parts = list(big_model.shards(shapes, 80))
    assert [list(part) for part in parts] == [["a", "b", "c"], ["d"], ["e"]]


def test_a_small_one_is_converted(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "hf"
    big_model.write(folder, "small", 1, 60 * MB)
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) == 4
    assert files[0].name == "model-00001-of-00004.safetensors"
    path = convert_gptj(str(folder), str(tmp_path / "pax"))
    arrays = pax.open_checkpoint(path).arrays
    assert arrays["lm.embedding_lookup.emb_var"] == ((50400, 1024), "bfloat16")
    layers = {name for name in arrays if "x_layers_" in name}
    assert layers
    assert all(".x_layers_0." in name for name in layers)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out=."], "--out=. exists"),
        (["--out=new", "--layers=0"], "--layers=0; a model has at least 1"),
        (["--out=new", "--shard_gb=-1"], "--shard_gb=-1.0 is not positive"),
    ],
)
def test_what_makes_no_sense_is_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        big_model.main(["big_model", *flags])
    assert message in capsys.readouterr().err
