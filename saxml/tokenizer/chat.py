"""Chat conversations as one prompt text, for the templates that we know by name.

A model's own template is a program in a template language; it is kept with the model but never
run. What it does is recognised when the model is converted, and rendered here.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from saxml.checkpoint.record import ModelRecord
from saxml.common import errors

_ROLE = re.compile(r"[a-z]+$")


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One turn: role "system", "user" or "assistant" (or another word the model knows)."""

    role: str
    content: str


def chatml(messages: Sequence[Message], system: str | None, add_generation_prompt: bool) -> str:
    """ChatML: <|im_start|>role, newline, content, <|im_end|>, newline. `system` comes first when
    the conversation does not begin with a system message."""
    turns = list(messages)
    if system is not None and turns and turns[0].role != "system":
        turns.insert(0, Message("system", system))
    text = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in turns)
    return text + ("<|im_start|>assistant\n" if add_generation_prompt else "")


FORMATS: dict[str, Callable[[Sequence[Message], str | None, bool], str]] = {"chatml": chatml}


def render(
    record: ModelRecord,
    conversation: str | Sequence[Message],
    *,
    add_generation_prompt: bool = True,
) -> str:
    """The prompt of a conversation; a string is one message of the user. Tokenise it as it is: the
    special tokens are in the text.

    Raises UnimplementedError when the model has no format that we render, InvalidArgumentError for
    no messages or an odd role.
    """
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
    plainly ChatML."""
    if template is None:
        return None, None
    plain = template.replace("\\n", "\n")
    turn = re.search(
        r"'<\|im_start\|>'\s*\+\s*message\[?\.?'?role'?\]?\s*\+\s*'\n'\s*\+\s*"
        r"message\[?\.?'?content'?\]?\s*\+\s*'<\|im_end\|>'\s*\+\s*'\n'",
        plain,
    )
    if not turn or "tools" in plain or "<|im_start|>assistant\n" not in plain:
        return None, None
    system = re.search(r"<\|im_start\|>system\n(.*?)<\|im_end\|>", plain, re.DOTALL)
    return "chatml", system.group(1) if system else None
