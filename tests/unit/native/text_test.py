"""Characters out of bytes and stop strings out of texts, cut anywhere."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saxml import native

# Bytes that are often almost UTF-8.
BYTES = st.lists(
    st.one_of(
        st.text(max_size=2).map(str.encode),
        st.sampled_from([b"\xe0", b"\xf0\x9f", b"\xed\xa0", b"\xf4\x90", b"\x80", b"\xff"]),
        st.binary(max_size=2),
    )
).map(b"".join)


@given(BYTES, st.lists(st.integers(0, 40)))
def test_bytes_become_what_python_makes_of_them_wherever_they_are_cut(
    data: bytes, cuts: list[int]
) -> None:
    decoder = native.Utf8Decoder()
    places = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    pieces = [decoder.feed(data[a:b]) for a, b in itertools.pairwise(places)]
    # Python too replaces maximal subparts.
    assert "".join(pieces) + decoder.finish() == data.decode(errors="replace")


def test_a_character_comes_out_with_its_last_byte() -> None:
    decoder = native.Utf8Decoder()
    assert [decoder.feed(bytes([b])) for b in "é🙂".encode()] == ["", "é", "", "", "", "🙂"]
    assert decoder.finish() == ""
    decoder.feed("🙂".encode()[:3])
    assert (decoder.finish(), decoder.finish()) == ("\ufffd", "")


def test_only_bytes_are_decoded() -> None:
    with pytest.raises(TypeError):
        native.Utf8Decoder().feed("text")  # type: ignore[arg-type]


@given(
    st.lists(st.text("ab日", min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.text("ab日", max_size=4), max_size=8),
)
def test_text_ends_before_the_stop_string_that_is_complete_first(
    stops: list[str], pieces: list[str]
) -> None:
    whole = "".join(pieces)
    ends = [
        (end, -len(stop), stop)
        for stop in stops
        for end in range(len(stop), len(whole) + 1)
        if whole[:end].endswith(stop)
    ]
    matcher = native.StopMatcher(stops)
    given_out = "".join(matcher.feed(piece) for piece in pieces)
    if ends:
        end, length, stop = min(ends)
        assert (given_out, matcher.matched) == (whole[: end + length], stop)
        assert (matcher.feed("a"), matcher.finish()) == ("", "")
    else:
        held = max(n for stop in stops for n in range(len(stop)) if whole.endswith(stop[:n]))
        assert given_out == whole[: len(whole) - held]
        assert matcher.matched is None
        assert given_out + matcher.finish() == whole


def test_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="stop string 2 of 2 is empty"):
        native.StopMatcher(["a", ""])
