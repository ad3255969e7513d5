"""Between the text of a request and token ids, by a configuration's rules."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from saxml import native
from saxml.checkpoint.record import ModelRecord
from saxml.common import errors
from saxml.engine.decoders import Ints
from saxml.server.pax.lm.params.template import CommonServingTemplate
from saxml.tokenizer import chat
from saxml.tokenizer.base import Tokenizer
from saxml.tokenizer.stream import Detokenizer

_NO_TOKENS = np.empty(0, np.int32)


class AnswerStream(Protocol):
    """One answer's text as its tokens come; never ends inside a character."""

    def feed(self, ids: Ints) -> str:
        """What these ids add."""

    def finish(self) -> str:
        """What is left: U+FFFD for a character that stayed incomplete, or nothing."""


class TextCodec:
    """Encodes prompts and decodes answers; comma-separated ids where the configuration says
    TOKENIZED_*."""

    def __init__(
        self,
        params: CommonServingTemplate,
        vocab_size: int,
        tokenizer: Tokenizer | None,
        record: ModelRecord | None,
    ) -> None:
        """Raises FailedPreconditionError when text is wanted and there is no tokenizer."""
        if tokenizer is None and not (params.TOKENIZED_INPUT and params.TOKENIZED_OUTPUT):
            raise errors.FailedPreconditionError(
                f"{type(params).__name__} takes or gives text and has no vocabulary: convert the"
                " checkpoint with its tokenizer, or set VOCABULARY_PATH, or use a Tokenized class"
            )
        if params.STOP_STRINGS and (reason := self._why_no_stops(params)):
            raise errors.InvalidArgumentError(f"STOP_STRINGS is set and {reason}")
        self._params = params
        self._vocab_size = vocab_size
        self._tokenizer = tokenizer
        self._record = record
        if params.APPLY_CHAT_TEMPLATE and (record is None or record.chat_format is None):
            raise errors.FailedPreconditionError(
                "APPLY_CHAT_TEMPLATE is set and the checkpoint has no chat format that is known"
            )
        prepend = params.PREPEND_SOS
        if prepend is None:
            prepend = record is not None and record.prepend_sos
        self._sos = [params.SOS_ID] if prepend and not params.EOS_PADDING_AND_NO_SOS else []

    def prompt(self, text: str) -> Ints:
        """i32[n], n <= INPUT_SEQ_LEN. Raises InvalidArgumentError for what cannot be a prompt."""
        if self._params.APPLY_CHAT_TEMPLATE:
            assert self._record is not None
            assert self._tokenizer is not None
            # The text is a message: special tokens that it spells stay text.
            encoded = chat.encode(self._record, self._tokenizer, text)
            ids = self._fit([], self._inside(np.array(encoded, np.int32)))
        else:
            ids = self._fit(self._sos, self._encode(text))
        if len(ids) == 0:
            raise errors.InvalidArgumentError("the prompt is empty")
        return ids

    def embedded(self, text: str) -> Ints:
        """The same for a text that is no message: without the chat template."""
        ids = self._encode(text) if text else _NO_TOKENS
        if len(ids) == 0:
            raise errors.InvalidArgumentError("the text is empty: there is nothing to embed")
        return self._fit(self._sos, ids)

    def scored(self, prefix: str, suffix: str) -> tuple[Ints, Ints]:
        """Inputs and the targets that the last len(targets) of them predict.

        Raises InvalidArgumentError where nothing predicts the suffix, or there is none; for a
        prefix or suffix that is too long and may not be cut.
        """
        before = self._fit(self._sos, self._encode(prefix)) if prefix else _NO_TOKENS
        after = self._fit_suffix(self._encode(suffix) if suffix else _NO_TOKENS, len(before))
        if self._params.SCORING_INCLUDE_EOS_SCORE:
            after = np.append(after, np.int32(self._params.EOS_ID))
        if len(before) == 0 and self._sos:
            before = np.array(self._sos, np.int32)
        if len(before) == 0:
            raise errors.InvalidArgumentError(
                "the prefix is empty and this model has no start token: nothing predicts the suffix"
            )
        if len(after) == 0:
            raise errors.InvalidArgumentError("a suffix is empty: there is nothing to score")
        return np.concatenate([before, after[:-1]]), after

    def decode(self, ids: Ints) -> str:
        """An answer as text, without the final stop token; or as comma-separated ids, with it."""
        stream = self.stream()
        return stream.feed(ids) + stream.finish()

    def stream(self, eos: Sequence[int] = ()) -> AnswerStream:
        """What `decode` gives, bit by bit.

        eos: the sequence that ends this answer instead of a stop token, if not empty. One token is
        left out of the text as a stop token is, the text of several belongs to the answer.
        """
        if self._params.TOKENIZED_OUTPUT:
            return _IdStream()
        assert self._tokenizer is not None
        if eos:
            return _TextStream(self._tokenizer, eos if len(eos) == 1 else ())
        return _TextStream(self._tokenizer, self._params.stop_ids)

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for in a text; nothing where answers are ids."""
        if self._params.TOKENIZED_OUTPUT:
            return b""
        assert self._tokenizer is not None
        return self._tokenizer.token_bytes(token)

    def answer_prefix(self, text: str) -> str:
        """What the answers to a prompt begin with (INCLUDE_PREFIX_IN_RESULT)."""
        if not self._params.INCLUDE_PREFIX_IN_RESULT:
            return ""
        return text + "," if self._params.TOKENIZED_OUTPUT else text

    def stops(self, asked: Sequence[str]) -> list[str]:
        """The configuration's stop strings and a request's own.

        Raises InvalidArgumentError if the request has some and the method cannot heed them.
        """
        if asked and (reason := self._why_no_stops(self._params)):
            raise errors.InvalidArgumentError(f"extra input stop is given and {reason}")
        return [*(self._params.STOP_STRINGS or ()), *asked]

    @staticmethod
    def _why_no_stops(params: CommonServingTemplate) -> str | None:
        if params.TOKENIZED_OUTPUT:
            return (
                f"{type(params).__name__} answers with token ids, not with text (TOKENIZED_OUTPUT);"
                " use STOP_TOKEN_IDS"
            )
        if params.USE_BEAM_SEARCH:
            return (
                "beams end with stop tokens alone (USE_BEAM_SEARCH); use STOP_TOKEN_IDS or sampling"
            )
        return None

    def _encode(self, text: str) -> Ints:
        if self._params.TOKENIZED_INPUT:
            try:
                ids = native.parse_token_ids(text)
            except ValueError as e:
                raise errors.InvalidArgumentError(
                    f"this model takes comma-separated token ids: {e}"
                ) from None
        else:
            assert self._tokenizer is not None
            ids = np.array(self._tokenizer.encode(text), np.int32)
        return self._inside(ids)

    def _inside(self, ids: Ints) -> Ints:
        outside = ids[(ids < 0) | (ids >= self._vocab_size)]
        if len(outside):
            raise errors.InvalidArgumentError(
                f"token id {outside[0]} is outside the vocabulary of {self._vocab_size}"
            )
        return ids

    def _fit(self, sos: Sequence[int], ids: Ints) -> Ints:
        """The start token, if there is one, and as many of ids as a prompt may have."""
        longest = self._params.INPUT_SEQ_LEN
        if len(sos) + len(ids) > longest and self._params.FAIL_ON_INPUT_TRUNCATION:
            raise errors.InvalidArgumentError(
                f"prompt has {len(sos) + len(ids):,} tokens; this model takes at most {longest:,}"
                " (INPUT_SEQ_LEN)"
            )
        room = longest - len(sos)
        first = 0 if self._params.SLICE_LEFT else max(0, len(ids) - room)
        return np.concatenate([np.array(sos, np.int32), ids[first : first + room]])

    def _fit_suffix(self, ids: Ints, before: int) -> Ints:
        """As many of a suffix' ids as are scored after so many of the prefix."""
        p = self._params
        longest = p.SUFFIX_SEQ_LEN or p.max_scored_len - before
        if len(ids) > longest and p.FAIL_ON_INPUT_TRUNCATION:
            limits = "SUFFIX_SEQ_LEN" if p.SUFFIX_SEQ_LEN else "INPUT_SEQ_LEN, MAX_DECODE_STEPS"
            raise errors.InvalidArgumentError(
                f"a suffix has {len(ids):,} tokens; this model takes at most {longest:,} ({limits})"
            )
        return ids[:longest]


class _IdStream:
    def __init__(self) -> None:
        self._separator = ""

    def feed(self, ids: Ints) -> str:
        if not len(ids):
            return ""
        separator, self._separator = self._separator, ","
        return separator + native.format_token_ids(ids)

    def finish(self) -> str:
        return ""


class _TextStream:
    """Leaves out a stop token at the end, and special tokens everywhere."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int]) -> None:
        self._detokenizer = Detokenizer(tokenizer, skip_special=True)
        self._stop_ids = stop_ids
        self._last: list[int] = []  # a stop token that may be the final one

    def feed(self, ids: Ints) -> str:
        tokens = [*self._last, *ids.tolist()]
        self._last = [tokens.pop()] if tokens and tokens[-1] in self._stop_ids else []
        return self._detokenizer.feed(tokens)

    def finish(self) -> str:
        return self._detokenizer.finish()
