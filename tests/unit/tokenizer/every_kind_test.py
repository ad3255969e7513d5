"""SentencePiece and rank files: ids and texts are the libraries' own, and texts come out token by
token in whole characters."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saxml.tokenizer.base import Tokenizer
from saxml.tokenizer.stream import Detokenizer
from tests.unit.tokenizer.vocabularies import TEXTS, cases, gpt2

CASES = cases()
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = Detokenizer(tokenizer, skip_special=True)
    return [*(stream.feed([i]) for i in ids), stream.finish()]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("text", TEXTS)
def test_corpus_is_encoded_and_decoded_as_by_the_library(name: str, text: str) -> None:
    case = CASES[name]
    ids = case.tokenizer.encode(text)
    assert ids == case.encode(text)
    assert ids == case.tokenizer.encode(text, special=False)
    assert case.tokenizer.decode(ids) == case.decode(ids)
    if case.lossless:
        assert case.tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("text", TEXTS)
def test_at_every_split_the_texts_are_whole_characters_of_the_whole(name: str, text: str) -> None:
    tokenizer = CASES[name].tokenizer
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids)
    found = streamed(tokenizer, ids)
    assert "".join(found) == whole
    assert not any(REPLACEMENT in piece for piece in found)
    for cut in range(len(ids) + 1):
        stream = Detokenizer(tokenizer)
        first = stream.feed(ids[:cut])
        assert whole.startswith(first)
        assert first + stream.feed(ids[cut:]) + stream.finish() == whole


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=60)
@given(text=st.text())
def test_any_text_is_encoded_as_by_the_library(name: str, text: str) -> None:
    case = CASES[name]
    ids = case.tokenizer.encode(text, special=False)
    assert ids == case.encode(text)
    found = "".join(streamed(case.tokenizer, ids))
    assert found == case.decode(ids)
    if case.lossless and "▁" not in text:
        assert found == text


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_ids_are_decoded_as_by_the_library(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    low = st.integers(0, 300)  # bytes, blanks, control and unknown pieces
    any_id = st.integers(0, case.tokenizer.vocab_size - 1)
    ids = data.draw(st.lists(low | any_id, max_size=12))
    ids = [i for i in ids if case.tokenizer.token_bytes(i)]
    if not name.startswith("spm"):
        ids = [i for i in ids if not case.tokenizer.is_special(i)]  # the library writes their names
    theirs = case.decode(ids)
    found = "".join(streamed(case.tokenizer, ids))
    # SentencePiece replaces each bad byte, we and tiktoken each maximal subpart.
    if REPLACEMENT not in theirs or not name.startswith("spm"):
        assert found == theirs
    assert found == case.tokenizer.decode(ids, skip_special=True)


@pytest.mark.parametrize("name", CASES)
def test_ids_without_a_token_give_nothing(name: str) -> None:
    tokenizer = CASES[name].tokenizer
    ids = tokenizer.encode("the cat")
    assert tokenizer.decode([-1, *ids, tokenizer.vocab_size, 1 << 30]) == tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("name", "names"), [("spm bytes", ["<s>", "</s>"]), ("r50k", ["<|endoftext|>"])]
)
def test_names_of_special_tokens(name: str, names: list[str]) -> None:
    tokenizer = CASES[name].tokenizer
    for special in names:
        text = f"the{special}cat {special}"
        ids = tokenizer.encode(text)
        assert sum(map(tokenizer.is_special, ids)) == 2
        assert special not in tokenizer.decode(ids, skip_special=True)
        assert special in tokenizer.decode(ids)
        plain = tokenizer.encode(text, special=False)
        assert not any(map(tokenizer.is_special, plain))
        assert tokenizer.decode(plain, skip_special=True) == text


def test_text_after_a_special_token_is_a_text_of_its_own_to_sentencepiece() -> None:
    case = CASES["spm bytes"]
    start = case.tokenizer.bos_id
    assert start is not None
    assert case.tokenizer.encode("the<s>cat") == [*case.encode("the"), start, *case.encode("cat")]


def test_ids_that_begin_and_end_a_text() -> None:
    spm = CASES["spm"].tokenizer
    assert (spm.bos_id, spm.eos_id) == (1, 2)
    llama3 = CASES["llama3"].tokenizer
    assert (llama3.bos_id, llama3.eos_id) == (128_000, 128_001)
    assert llama3.vocab_size == 128_256
    # As in Meta's and Hugging Face's files.
    for name, token in (
        ("<|start_header_id|>", 128_006),
        ("<|end_header_id|>", 128_007),
        ("<|eom_id|>", 128_008),
        ("<|eot_id|>", 128_009),
        ("<|reserved_special_token_247|>", 128_255),
    ):
        assert llama3.encode(name) == [token]
        assert llama3.token_bytes(token) == name.encode()


@given(st.text())
def test_rank_file_of_gpt2_is_gpt2(text: str) -> None:
    r50k = CASES["r50k"].tokenizer
    assert r50k.encode(text) == gpt2().encode(text)
    assert (r50k.vocab_size, r50k.eos_id) == (gpt2().vocab_size, gpt2().eos_id)
