"""Log-probabilities of tokens, as answers report them."""

from saxml.engine.decoders import Hypothesis, Ints, LogProbs
from saxml.proto import lm_pb2
from saxml.server.text_codec import TextCodec


class TokenScores:
    """Of the tokens of a request's samples, each once; used by one thread."""

    def __init__(self, codec: TextCodec, count: int) -> None:
        self._codec = codec
        self._told = [0] * count

    def take(self, sample: int, hypothesis: Hypothesis) -> list[lm_pb2.ScoredToken]:
        """Those of a sample that came since the last call."""
        told, self._told[sample] = self._told[sample], len(hypothesis.tokens)
        assert hypothesis.logprobs is not None
        chosen, best, best_ids = hypothesis.logprobs
        new = LogProbs(chosen[told:], best[told:], best_ids[told:])
        return _scored(self._codec, hypothesis.tokens[told:], new)


def of_prompt(
    codec: TextCodec, prompt: Ints, scored: Hypothesis | None
) -> list[lm_pb2.ScoredToken]:
    """Of all tokens of a prompt; scored: its tokens but the first, None where it has no others."""
    first = lm_pb2.ScoredToken(id=prompt[0], token=codec.token_bytes(int(prompt[0])))
    if scored is None:
        return [first]
    assert scored.logprobs is not None
    return [first, *_scored(codec, scored.tokens, scored.logprobs)]


def _scored(codec: TextCodec, tokens: Ints, logprobs: LogProbs) -> list[lm_pb2.ScoredToken]:
    return [
        lm_pb2.ScoredToken(
            id=token,
            token=codec.token_bytes(token),
            logp=logp,
            best=[
                lm_pb2.TokenLogProb(id=other, token=codec.token_bytes(other), logp=other_logp)
                for other, other_logp in zip(ids, values, strict=True)
            ],
        )
        for token, logp, ids, values in zip(
            tokens.tolist(),
            logprobs.chosen.tolist(),
            logprobs.best_ids.tolist(),
            logprobs.best.tolist(),
            strict=True,
        )
    ]
