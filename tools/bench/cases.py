"""Models and cases of the comparison with peers: shapes, prompts, and what is read and computed."""

import dataclasses
import re
from typing import Any, Literal, Self

import numpy as np

Weights = Literal["float32", "bfloat16", "int8"]
WEIGHTS: tuple[Weights, ...] = ("bfloat16", "int8", "float32")
BYTES: dict[str, float] = {"float32": 4, "bfloat16": 2, "int8": 1}
_CASE = re.compile(r"(decode|prefill|beam)([1-9]\d*)")
_DECODE_PROMPT = 128
_BEAM_PROMPT = 430
CASES = "decode1,decode8,decode32,prefill128,prefill1024,beam4"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a model with random weights. Letters as in saxml.models.config: L layers, D model
    dim, H heads, K kv heads, F hidden, V vocab."""

    name: str
    family: Literal["gptj", "llama"]
    L: int
    D: int
    H: int
    K: int
    F: int
    V: int
    rotary_dim: int
    tied: bool = False
    max_positions: int = 2048

    @property
    def head_dim(self) -> int:
        """Of a head."""
        return self.D // self.H

    @property
    def layer_weights(self) -> int:
        """Weights of all layers that a token is multiplied with."""
        attention = 2 * self.D * self.D + 2 * self.D * self.K * self.head_dim
        matrices = 2 if self.family == "gptj" else 3
        return self.L * (attention + matrices * self.D * self.F)

    @property
    def step_weights(self) -> int:
        """Weights that a step reads: those of the layers and the output head; of the embedding only
        a few rows are."""
        return self.layer_weights + self.V * self.D

    @property
    def kv_per_token(self) -> int:
        """Numbers that a token leaves in the cache."""
        return 2 * self.L * self.K * self.head_dim


def _gptj(name: str, L: int, D: int, rotary_dim: int) -> Shape:
    return Shape(
        name=name, family="gptj", L=L, D=D, H=16, K=16, F=4 * D, V=50400, rotary_dim=rotary_dim
    )


def _llama(name: str, L: int, D: int, F: int) -> Shape:
    return Shape(name=name, family="llama", L=L, D=D, H=16, K=16, F=F, V=50400, rotary_dim=D // 16)


SHAPES = {
    shape.name: shape
    for shape in (
        _gptj("small", 12, 1024, 32),
        _gptj("medium", 16, 2048, 64),
        _gptj("6b", 28, 4096, 64),
        # Llamas with as many weights, for engines that have no GPT-J.
        _llama("small_llama", 12, 1024, 2752),
        _llama("medium_llama", 16, 2048, 5472),
        _llama("6b_llama", 28, 4096, 10944),
        # SmolLM2-135M's.
        Shape(
            name="smollm2",
            family="llama",
            L=30,
            D=576,
            H=9,
            K=3,
            F=1536,
            V=49152,
            rotary_dim=64,
            tied=True,
        ),
        # For tests of the benchmark itself.
        Shape(
            name="tiny", family="llama", L=2, D=64, H=4, K=2, F=160, V=512, rotary_dim=16, tied=True
        ),
    )
}


def llama_of(shape: Shape) -> Shape:
    """The shape itself, or the Llama of the same size. Raises ValueError if there is none."""
    if shape.family == "llama":
        return shape
    return SHAPES[f"{shape.name}_llama"]


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """rows prompts of `prompt` tokens at once, `new` tokens more each; beams: 0 for greedy."""

    name: str
    rows: int
    prompt: int
    new: int
    beams: int = 0

    @classmethod
    def parse(cls, name: str, *, decode_tokens: int, beam_tokens: int) -> Self:
        """decodeN: N rows decode; prefillN: the first token of a prompt of N; beamN: a search with
        N beams. Raises ValueError."""
        found = _CASE.fullmatch(name)
        if not found:
            raise ValueError(f"case {name!r} is not decodeN, prefillN or beamN, such as decode8")
        kind, number = found[1], int(found[2])
        if kind == "decode":
            return cls(name, number, _DECODE_PROMPT, decode_tokens)
        if kind == "prefill":
            return cls(name, 1, number, 1)
        return cls(name, 1, _BEAM_PROMPT, beam_tokens, number)

    @property
    def kind(self) -> str:
        """decode, prefill or beam."""
        return self.name.rstrip("0123456789")

    def prompts(self, shape: Shape, seed: int) -> list[list[int]]:
        """Token ids, the same for every engine, others for every seed; the last id is left out,
        for some engines need one that ends answers."""
        random = np.random.default_rng([seed, self.rows, self.prompt, self.beams])
        ids: list[list[int]] = random.integers(0, shape.V - 1, (self.rows, self.prompt)).tolist()
        return ids

    def work(self, shape: Shape, weights: Weights) -> tuple[float, float]:
        """(bytes, operations) of what is timed for one unit of `rate`, at the least: weights once a
        step (for a prefill once), keys and values in two bytes (four beside float32 weights), those
        of a prompt that beams share once; multiplications and additions count two."""
        kv = shape.kv_per_token * (4 if weights == "float32" else 2)
        attend = 4 * shape.L * shape.D  # operations of a query with one key and value
        read = shape.step_weights * BYTES[weights]
        if self.kind == "prefill":
            P = self.prompt
            operations = 2 * (shape.layer_weights * P + shape.V * shape.D) + attend * P * P / 2
            return (read + kv * P) / P, operations / P
        rows = self.beams or self.rows
        context = self.prompt + self.new / 2
        kept = self.prompt + rows * self.new / 2 if self.beams else rows * context
        operations = rows * (2 * shape.step_weights + attend * context)
        tokens = 1 if self.beams else rows
        return (read + kv * kept) / tokens, operations / tokens


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What an engine saw of one run of a case, in seconds since the prompts were there.

    times: when each row's tokens came (none of a search with beams); seconds: until all was done;
    tokens: the answers' ids.
    """

    times: list[list[float]]
    seconds: float
    tokens: list[list[int]]

    @classmethod
    def parse(cls, case: Case, answer: dict[str, Any]) -> Self:
        """From what a child said. Raises ValueError if that is not the answer to the case."""
        measured = cls(answer["times"], float(answer["seconds"]), answer["tokens"])
        lengths = [len(row) for row in measured.tokens]
        if lengths != [case.new] * case.rows:
            raise ValueError(f"{case.name}: answers of {lengths} tokens, not {case.new} each")
        if not case.beams and [len(row) for row in measured.times] != lengths:
            raise ValueError(f"{case.name}: the times do not fit the tokens")
        return measured

    def rate(self, case: Case) -> float:
        """Tokens a second: of a decode those of all rows while each has an eighth of its tokens and
        none has all, of a prefill those of the prompt until its first token is there, of a search
        its steps."""
        if case.kind == "prefill":
            return case.prompt / self.times[0][0]
        if case.kind == "beam":
            return case.new / self.seconds
        begin = max(row[case.new // 8] for row in self.times)
        end = min(row[-1] for row in self.times)
        came = sum(begin < moment <= end for row in self.times for moment in row)
        if not came or end <= begin:
            raise ValueError(f"{case.name}: no time in which all rows decode; ask for more tokens")
        return came / (end - begin)
