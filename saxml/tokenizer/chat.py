"""Chat conversations as one prompt text, for the templates that we know by name.

A model's own template is a program in a template language; it is kept with the model but never
run. What it does is recognised when the model is converted, and rendered here.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Protocol

from saxml.checkpoint.record import ModelRecord
from saxml.common import errors
from saxml.tokenizer.base import Tokenizer

_ROLE = re.compile(r"[a-z]+\Z")
_CHATML_TURN = re.compile(
    r"'<\|im_start\|>'\s*\+\s*message\[?\.?'?role'?\]?\s*\+\s*'\n'\s*\+\s*"
    r"message\[?\.?'?content'?\]?\s*\+\s*'<\|im_end\|>'\s*\+\s*'\n'"
)
_LLAMA3_TURN = re.compile(
    r"'<\|start_header_id\|>'\s*\+\s*message\[?\.?'?role'?\]?\s*\+\s*"
    r"'<\|end_header_id\|>\n\n'\s*\+\s*message\[?\.?'?content'?\]?\s*\|\s*trim\s*\+\s*"
    r"'<\|eot_id\|>'"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One turn: role "system", "user" or "assistant" (or another word the model knows)."""

    role: str
    content: str


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A piece of a prompt: the template's own name of a special token, or text that stays text
    whatever it spells."""

    text: str
    special: bool = False


class Format(Protocol):
    """How a template writes a conversation. `system` comes first when the conversation does not
    begin with a system message."""

    def __call__(
        self, messages: Sequence[Message], system: str | None, add_generation_prompt: bool
    ) -> list[Part]:
        """The prompt, in parts."""


def chatml(
    messages: Sequence[Message], system: str | None, add_generation_prompt: bool
) -> list[Part]:
    """ChatML: <|im_start|>role, newline, content, <|im_end|>, newline."""
    start, end = Part("<|im_start|>", special=True), Part("<|im_end|>", special=True)
    parts = []
    for m in _with_system(messages, system):
        parts += [start, Part(f"{m.role}\n{m.content}"), end, Part("\n")]
    return [*parts, start, Part("assistant\n")] if add_generation_prompt else parts


def llama3(
    messages: Sequence[Message], system: str | None, add_generation_prompt: bool
) -> list[Part]:
    """Llama 3: <|begin_of_text|>, then for each message its role between header tokens, an empty
    line, the content without blanks around it, <|eot_id|>."""
    start = Part("<|start_header_id|>", special=True)
    end = Part("<|end_header_id|>", special=True)
    over = Part("<|eot_id|>", special=True)
    parts = [Part("<|begin_of_text|>", special=True)]
    for m in _with_system(messages, system):
        parts += [start, Part(m.role), end, Part(f"\n\n{m.content.strip()}"), over]
    if add_generation_prompt:
        parts += [start, Part("assistant"), end, Part("\n\n")]
    return parts


def _with_system(messages: Sequence[Message], system: str | None) -> list[Message]:
    if system is None or not messages or messages[0].role == "system":
        return list(messages)
    return [Message("system", system), *messages]


FORMATS: dict[str, Format] = {"chatml": chatml, "llama3": llama3}


def encode(
    record: ModelRecord,
    tokenizer: Tokenizer,
    conversation: str | Sequence[Message],
    *,
    add_generation_prompt: bool = True,
) -> list[int]:
    """The prompt of a conversation as token ids, the template's start token included where it has
    one: put no other in front. A string is one message of the user.

    Special tokens are those of the template alone: a message that spells <|im_end|> says just that,
    and cannot end its turn. Raises as render does.
    """
    ids: list[int] = []
    text = ""
    for part in _parts(record, conversation, add_generation_prompt):
        # Text goes on until the next special token: how it is cut depends on what is beside it.
        if part.special:
            ids += tokenizer.encode(text, special=False) if text else []
            ids += tokenizer.encode(part.text)
            text = ""
        else:
            text += part.text
    return ids + (tokenizer.encode(text, special=False) if text else [])


def render(
    record: ModelRecord,
    conversation: str | Sequence[Message],
    *,
    add_generation_prompt: bool = True,
) -> str:
    """The prompt of a conversation as text. Where messages are not trusted, `encode` is what to
    tokenise with.

    Raises UnimplementedError when the model has no format that we render, InvalidArgumentError for
    no messages or an odd role.
    """
    return "".join(part.text for part in _parts(record, conversation, add_generation_prompt))


def _parts(
    record: ModelRecord, conversation: str | Sequence[Message], add_generation_prompt: bool
) -> list[Part]:
    if record.chat_format not in FORMATS:
        raise errors.UnimplementedError(
            "this model's chat template is not one that SAX renders "
            f"({', '.join(FORMATS)}); send a plain prompt"
        )
    if isinstance(conversation, str):
        conversation = [Message("user", conversation)]
    if not conversation:
        raise errors.InvalidArgumentError("the conversation has no messages")
    for message in conversation:
        if not _ROLE.match(message.role):
            raise errors.InvalidArgumentError(
                f"role {message.role!r} is not a word like system, user or assistant"
            )
    return FORMATS[record.chat_format](conversation, record.chat_system, add_generation_prompt)


def recognise(template: str | None) -> tuple[str | None, str | None]:
    """(format, default system message) of a model's own template; (None, None) for one that is not
    plainly ChatML or Llama 3's."""
    if template is None or "tools" in template:
        return None, None
    plain = template.replace("\\n", "\n")
    if _CHATML_TURN.search(plain) and "<|im_start|>assistant\n" in plain:
        system = re.search(r"<\|im_start\|>system\n(.*?)<\|im_end\|>", plain, re.DOTALL)
        return "chatml", system.group(1) if system else None
    if (
        _LLAMA3_TURN.search(plain)
        and re.search(r"\b(bos_token|'<\|begin_of_text\|>')\s*\+\s*content\b", plain)
        and "<|start_header_id|>assistant<|end_header_id|>\n\n" in plain
    ):
        return "llama3", None
    return None, None
