"""A vocabulary is what the file is, whatever it is called; what is none is refused by name."""

import contextlib
import json
import os
import pathlib
import pickle
import random

import pytest

from saxml.checkpoint.folder import Folder
from saxml.common import errors
from saxml.tokenizer import load
from saxml.tokenizer.base import Tokenizer
from saxml.tokenizer.bpe import LibraryTokenizer
from saxml.tokenizer.damage import damaged
from saxml.tokenizer.load import load_vocabulary
from saxml.tokenizer.rank_file import RankTokenizer
from saxml.tokenizer.sentence_piece import SentencePieceTokenizer
from tests.integration import gcs
from tests.unit.tokenizer.vocabularies import GPT2_DATA, ranks, train


def tokenizer_json() -> bytes:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    return json.dumps({"version": "1.0", "added_tokens": [], "model": model}).encode()


KINDS: dict[str, tuple[bytes, type]] = {
    "hf": (tokenizer_json(), LibraryTokenizer),
    "spm": (train(), SentencePieceTokenizer),
    "ranks": (ranks(50_256), RankTokenizer),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json", "spm.model", "vocab"])
def test_a_file_is_what_it_holds(kind: str, name: str, tmp_path: pathlib.Path) -> None:
    data, wanted = KINDS[kind]
    (tmp_path / name).write_bytes(data)
    assert type(load_vocabulary(str(tmp_path / name))) is wanted
    if name.startswith("tokenizer."):
        assert type(load_vocabulary(str(tmp_path))) is wanted
        assert type(load_vocabulary(f"{tmp_path}/", bos_id=7, eos_id=8)) is wanted


def test_own_start_and_end(tmp_path: pathlib.Path) -> None:
    for data, _ in KINDS.values():
        (tmp_path / "f").write_bytes(data)
        loaded: Tokenizer = load_vocabulary(str(tmp_path / "f"), bos_id=7, eos_id=8)
        assert (loaded.bos_id, loaded.eos_id) == (7, 8)


def test_relative_paths(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path("f").write_bytes(train())
    assert type(load_vocabulary("f")) is SentencePieceTokenizer
    os.mkdir("d")
    pathlib.Path("d/tokenizer.model").write_bytes(train())
    assert type(load_vocabulary("d")) is SentencePieceTokenizer


def test_vocabulary_of_gpt2_finds_its_merges(tmp_path: pathlib.Path) -> None:
    found = load_vocabulary(str(GPT2_DATA / "encoder.json"))
    assert found.vocab_size == 50257
    (tmp_path / "words.json").write_bytes((GPT2_DATA / "encoder.json").read_bytes())
    with pytest.raises(errors.InvalidArgumentError, match="vocabulary without its merges"):
        load_vocabulary(str(tmp_path / "words.json"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (pickle.dumps({"a": 0}), "a Python pickle, which is never loaded"),
        (b"PK\x03\x04...", "a zip archive"),
        (b"\x1f\x8b\x08", "compressed"),
        (b"<!DOCTYPE html>", "a page"),
        (b"#version: 0.2\na b\n", "the merges"),
        (b"", "is no tokenizer; wanted a tokenizer.json, a SentencePiece"),
        (b"hello world", "is no tokenizer"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is no tokenizer"),
        (b'{"a":' * 100_000, "is not JSON"),
        (b'{"a": "b"}', "neither a tokenizer.json"),
        (b'{"model": {"type": "WordPiece"}}', "is not a tokenizer.json"),
        (b"\n\x05abc", "is not a SentencePiece model"),
        (b"\n", "is not a SentencePiece model"),
        (b"YQ== 0\nYg==\n", "is not a file of token ranks: line 2"),
    ],
)
def test_what_is_no_tokenizer_is_named(data: bytes, said: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    for where in (path, tmp_path):
        with pytest.raises(errors.InvalidArgumentError, match=f"^{path} .*{said}"):
            load_vocabulary(str(where))


class Panic(BaseException):
    """As libraries written in Rust raise it."""


@pytest.mark.parametrize("raised", [ValueError("no"), Panic("no"), RecursionError("no")])
def test_whatever_a_library_raises_names_the_file(raised: BaseException) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=r"^f is bad: no$"), damaged("f is bad"):
        raise raised


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), errors.UnimplementedError("so")])
def test_what_is_no_damage_stays(raised: BaseException) -> None:
    with pytest.raises(type(raised)), damaged("f is bad"):
        raise raised


def test_too_large_a_file_is_not_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folder, "read", lambda *args: pytest.fail("it was read"))
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(load.MAX_BYTES + 1)  # takes no room on the disk
    with pytest.raises(errors.InvalidArgumentError, match=r"has 268,435,457 bytes; .* at most"):
        load_vocabulary(str(tmp_path))


def test_on_a_bucket() -> None:
    with gcs.bucket("words"):
        Folder("gs://words/some").write("where", train())
        Folder("gs://words/other").write("tokenizer.model", train())
        for path in ("gs://words/some/where", "/gcs/words/some/where", "gs://words/other"):
            assert type(load_vocabulary(path)) is SentencePieceTokenizer
        for path in ("gs://words", "gs://words/none"):
            with pytest.raises(errors.NotFoundError, match=f"no tokenizer in {path}"):
                load_vocabulary(path)


@pytest.mark.parametrize("path", ["gs://", "gs://bucket\n", "/none/at all", "none", "s3://b/x"])
def test_where_nothing_is(path: str) -> None:
    with pytest.raises(errors.SaxError):
        load_vocabulary(path)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_or_work(kind: str, tmp_path: pathlib.Path) -> None:
    random_ = random.Random(7)
    data, _ = KINDS[kind]
    path = tmp_path / "f"
    for _ in range(40 if kind == "ranks" else 300):
        damaged = bytearray(data)
        for _ in range(random_.choice([1, 1, 3, 20])):
            place = random_.randrange(len(damaged))
            if random_.random() < 0.6:
                damaged[place] = random_.randrange(256)
            else:
                del damaged[place : place + random_.randrange(1, 9)]
        path.write_bytes(damaged)
        with contextlib.suppress(errors.SaxError):
            tokenizer = load_vocabulary(str(path))
            tokenizer.decode(tokenizer.encode("the cat <s> สวัส 🙂 ab"))
            tokenizer.decode([random_.randrange(tokenizer.vocab_size) for _ in range(9)])
