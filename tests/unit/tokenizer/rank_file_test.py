"""Rank files: bad ones are named, long runs are cut as by Meta's tokenizer, OpenAI's constants."""

import base64

import pytest
import tiktoken
import tiktoken_ext.openai_public as openai_public
from hypothesis import given, settings
from hypothesis import strategies as st

from saxml.common import errors
from saxml.tokenizer import rank_file
from saxml.tokenizer.rank_file import RankTokenizer, looks_like_ranks, parse_ranks
from tests.unit.tokenizer.vocabularies import cases, ranks

BYTES = b"".join(base64.b64encode(bytes([b])) + b" %d\n" % b for b in range(256))
LLAMA3 = cases()["llama3"].tokenizer


@pytest.mark.parametrize("run", [" ", "\n", "a", "!", "ก"])
def test_long_runs(run: str) -> None:
    text = "x" + run * 120_000 + "y"
    ids = LLAMA3.encode(text)
    assert LLAMA3.decode(ids) == text


def test_texts_are_cut_where_metas_tokenizer_cuts_them() -> None:
    def metas(text: str, longest: int) -> list[str]:
        pieces, start, length, blank = [], 0, 0, text[0].isspace()
        for i, c in enumerate(text):
            if c.isspace() != blank:
                length, blank = 1, not blank
            else:
                length += 1
                if length > longest:
                    pieces.append(text[start:i])
                    start, length = i, 1
        return [*pieces, text[start:]]

    for text in (" " * 25_000, " " * 25_001, "a" * 60_000 + " b" * 3 + "\n" * 75_001 + "c"):
        assert list(rank_file._cut(text)) == metas(text, 25_000)
    assert [len(part) for part in rank_file._cut("a b" * 200_000)] == [400_000, 200_000]
    assert list(rank_file._cut("")) == []


@settings(deadline=None)
@given(st.text(" a", max_size=20))
def test_cut_texts_are_the_text(text: str) -> None:
    assert "".join(rank_file._cut(text * 5_000)) == text * 5_000


def test_schemes_of_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *args, **kwargs: {})
    for count, theirs in (
        (50_256, openai_public.r50k_base()),
        (100_256, openai_public.cl100k_base()),
    ):
        assert rank_file.SCHEMES[count].special == theirs["special_tokens"]
        ours = cases()[{50_256: "r50k", 100_256: "cl100k"}[count]].tokenizer
        pairs = parse_ranks(ranks(count))
        library = tiktoken.Encoding(
            "theirs",
            pat_str=theirs["pat_str"],
            mergeable_ranks=pairs,
            special_tokens=theirs["special_tokens"],
        )
        for text in ("It's 12345 o'CLOCK,\r\n\r\n  we'LL see \t\n x  ", "\n \n", "ſ'S  "):
            assert ours.encode(text) == library.encode_ordinary(text)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (BYTES + b"YQ==\n", r"line 257 is b'YQ==', wanted base64, a blank and a rank"),
        (BYTES + b"YQ== -1\n", "line 257"),
        (BYTES + b"YQ==  7\n", "line 257"),
        (BYTES + b"YWI= 1e3\n", "line 257"),
        (BYTES + b"Y 256\n", "line 257"),
        (BYTES + b" 256\n", "line 257"),
        (BYTES + b"YQ== 256\n", "line 257: token b'a' is there twice"),
        (BYTES + b"YWI= 255\n", "two tokens have the same rank"),
        (BYTES.replace(b"Cg== 10\n", b""), "the token of byte 0x0a is missing"),
        (b"", "the token of byte 0x00 is missing"),
    ],
)
def test_damaged_files(data: bytes, said: str) -> None:
    with pytest.raises(
        errors.InvalidArgumentError, match=f"f is not a file of token ranks.*{said}"
    ):
        RankTokenizer(data, "f")


def test_unknown_scheme_is_refused() -> None:
    with pytest.raises(errors.UnimplementedError, match="f has 256 token ranks; SAX knows"):
        RankTokenizer(BYTES, "f")


def test_what_looks_like_ranks() -> None:
    assert looks_like_ranks(b"IQ== 0\nIg== 1\n")
    assert looks_like_ranks(b"IQ== 0\r\n")
    for other in (b"", b"{}", b"IQ==", b"IQ== x\n", b"a b c\n", b"\n\x0e\n\x05<unk>"):
        assert not looks_like_ranks(other)
