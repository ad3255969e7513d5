"""Byte-pair encodings given by ranks, a line each: base64 of the token, blank, rank. Llama 3's
tokenizer.model and OpenAI's .tiktoken files."""

import base64
import dataclasses
import re
from collections.abc import Callable, Iterator

import tiktoken

from saxml.common import errors
from saxml.tokenizer.base import Joiner
from saxml.tokenizer.damage import damaged
from saxml.tokenizer.stream import StreamDecoding

_DIGIT = r"[A-Za-z0-9+/]"
_BASE64 = rf"(?:{_DIGIT}{{4}})*(?:{_DIGIT}{{4}}|{_DIGIT}{{3}}=|{_DIGIT}{{2}}==)"
_LINE = re.compile(rf"({_BASE64}) ([0-9]{{1,9}})\Z".encode())
# Longer texts, and longer runs of blanks or of other characters, are cut before they are encoded,
# at the places where Llama 3's own tokenizer.py cuts them: the library's stack is not endless.
_MAX_TEXT = 400_000
_MAX_RUN = 25_000
_RUNS = re.compile(r"\s+|\S+")

_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_GPT2 = rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_END_OF_TEXT = "<|endoftext|>"


@dataclasses.dataclass(frozen=True, slots=True)
class _Scheme:
    """What a file of ranks does not say: how texts are cut before pairs are joined, and the special
    tokens."""

    pattern: str
    special: dict[str, int]
    bos: str | None  # as Hugging Face's configurations have it
    eos: str


def _llama3() -> _Scheme:
    """256 special tokens behind the others, named as in Llama 3.1; Llama 3's are among them."""
    first = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"]
    first += ["<|reserved_special_token_1|>", "<|finetune_right_pad_id|>"]
    first += ["<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>"]
    first += ["<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]
    names = [*first, *(f"<|reserved_special_token_{3 + n}|>" for n in range(256 - len(first)))]
    special = {name: 128_000 + n for n, name in enumerate(names)}
    return _Scheme(_LLAMA3, special, "<|begin_of_text|>", "<|end_of_text|>")


def _cl100k() -> _Scheme:
    names = (_END_OF_TEXT, "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
    special = {name: 100_257 + n for n, name in enumerate(names)} | {"<|endofprompt|>": 100_276}
    return _Scheme(_LLAMA3, special, None, _END_OF_TEXT)


# By the number of ranks, which is all that tells these files apart. The last two are r50k_base and
# cl100k_base of tiktoken_ext/openai_public.py.
SCHEMES = {
    128_000: _llama3(),
    50_256: _Scheme(_GPT2, {_END_OF_TEXT: 50_256}, _END_OF_TEXT, _END_OF_TEXT),
    100_256: _cl100k(),
}


class RankTokenizer(StreamDecoding):
    """A Tokenizer on top of the `tiktoken` library."""

    def __init__(
        self,
        data: bytes,
        where: str,
        *,
        bos_id: int | None = None,
        eos_id: int | None = None,
    ) -> None:
        """`where` names the file in errors. Raises InvalidArgumentError for what is no such file,
        UnimplementedError for one of which we do not know how texts are cut."""
        with damaged(f"{where} is not a file of token ranks"):
            ranks = parse_ranks(data)
            scheme = _scheme(len(ranks), where)
            self._library = tiktoken.Encoding(
                where,
                pat_str=scheme.pattern,
                mergeable_ranks=ranks,
                special_tokens=scheme.special,
            )
        self._bytes = {rank: token for token, rank in ranks.items()}
        self._bytes.update((token, name.encode()) for name, token in scheme.special.items())
        self._special = frozenset(scheme.special.values())
        self.vocab_size = max(self._bytes) + 1
        bos = None if scheme.bos is None else scheme.special[scheme.bos]
        self.bos_id = bos if bos_id is None else bos_id
        self.eos_id = scheme.special[scheme.eos] if eos_id is None else eos_id

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """See Tokenizer."""
        encode: Callable[[str], list[int]] = (
            self._with_special if special else self._library.encode_ordinary
        )
        ids: list[int] = []
        for part in _cut(text):
            ids += encode(part)
        return ids

    def token_bytes(self, token: int) -> bytes:
        """See Tokenizer."""
        return self._bytes.get(token, b"")

    def is_special(self, token: int) -> bool:
        """See Tokenizer."""
        return token in self._special

    def joiner(self) -> Joiner:
        """See Tokenizer."""
        return self.token_bytes

    def _with_special(self, text: str) -> list[int]:
        return self._library.encode(text, allowed_special="all", disallowed_special=())


def _scheme(count: int, where: str) -> _Scheme:
    if count not in SCHEMES:
        raise errors.UnimplementedError(
            f"{where} has {count:,} token ranks; SAX knows how Llama 3 (128,000), GPT-2 (50,256)"
            " and cl100k (100,256) cut texts; a tokenizer.json of the model says it itself"
        )
    return SCHEMES[count]


def looks_like_ranks(data: bytes) -> bool:
    """Whether the first line is one of such a file."""
    return _LINE.match(data[:4096].split(b"\n", 1)[0].rstrip(b"\r")) is not None


def parse_ranks(data: bytes) -> dict[bytes, int]:
    """Ranks by token. Raises ValueError naming the line that is none, or the byte, or the rank that
    is missing."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line:
            continue
        found = _LINE.match(line)
        if not found:
            raise ValueError(f"line {number} is {line[:40]!r}, wanted base64, a blank and a rank")
        token = base64.b64decode(found.group(1), validate=True)
        if token in ranks:
            raise ValueError(f"line {number}: token {token[:40]!r} is there twice")
        ranks[token] = int(found.group(2))
    if missing := [b for b in range(256) if bytes([b]) not in ranks]:
        raise ValueError(f"the token of byte {missing[0]:#04x} is missing")
    if len(set(ranks.values())) != len(ranks):
        raise ValueError("two tokens have the same rank")
    return ranks


def _cut(text: str) -> Iterator[str]:
    for start in range(0, len(text), _MAX_TEXT):
        part = text[start : start + _MAX_TEXT]
        begin = 0
        for run in _RUNS.finditer(part):
            for end in range(run.start() + _MAX_RUN, run.end(), _MAX_RUN):
                yield part[begin:end]
                begin = end
        yield part[begin:]
