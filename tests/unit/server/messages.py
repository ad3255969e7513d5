"""What a language model answers, as tests compare it."""

from collections.abc import Iterable, Iterator

from saxml.proto import lm_pb2


def pairs(response: lm_pb2.GenerateResponse) -> list[tuple[str, float]]:
    """(text, score) of each answer."""
    return [(text.text, text.score) for text in response.texts]


def changes(
    stream: Iterable[lm_pb2.GenerateStreamResponse],
) -> Iterator[list[tuple[str, int, float]]]:
    """(new text, characters of the text so far that stay, what is added to the score) of each
    answer, message by message."""
    for message in stream:
        yield [(item.text, item.prefix_len, sum(item.scores)) for item in message.items]
