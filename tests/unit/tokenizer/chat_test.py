"""ChatML as SmolLM2's template writes it; what is not known is refused."""

import dataclasses

import pytest

from saxml.checkpoint.record import ModelRecord
from saxml.common import errors
from saxml.models.config import ModelConfig
from saxml.tokenizer import chat
from saxml.tokenizer.chat import Message

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helper<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
RECORD = ModelRecord(
    config=ModelConfig(
        family="llama",
        num_layers=1,
        model_dim=4,
        num_heads=1,
        num_kv_heads=1,
        head_dim=4,
        hidden_dim=4,
        vocab_size=8,
        rotary_dim=4,
        rotary_base=10000.0,
        rotary_style="halves",
        norm_eps=1e-5,
        tied_embeddings=True,
        combined_qkv=False,
        max_positions=64,
    ),
    sos_id=0,
    eos_id=0,
    stop_token_ids=(0,),
    chat_template=SMOLLM2,
    chat_format="chatml",
    chat_system="You are a helper",
)


def test_template_is_recognised() -> None:
    assert chat.recognise(SMOLLM2) == ("chatml", "You are a helper")
    assert chat.recognise(SMOLLM2.replace("\\n", "\n")) == ("chatml", "You are a helper")
    bare = "{% for message in messages %}" + SMOLLM2[SMOLLM2.index("{{'<|im_start|>' + ") :]
    assert chat.recognise(bare) == ("chatml", None)


@pytest.mark.parametrize("template", [None, "", "[INST] {{ x }}", SMOLLM2 + "{{ tools }}"])
def test_other_templates_are_not(template: str | None) -> None:
    assert chat.recognise(template) == (None, None)


def test_a_question_becomes_a_conversation() -> None:
    assert chat.render(RECORD, "Hi?") == (
        "<|im_start|>system\nYou are a helper<|im_end|>\n"
        "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_own_system_message_and_turns() -> None:
    turns = [
        Message("system", "Be brief."),
        Message("user", "a"),
        Message("assistant", "b"),
    ]
    assert chat.render(RECORD, turns, add_generation_prompt=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
        "<|im_start|>assistant\nb<|im_end|>\n"
    )


def test_without_a_default_system_message_none_is_added() -> None:
    record = dataclasses.replace(RECORD, chat_system=None)
    assert chat.render(record, "a").startswith("<|im_start|>user\na<|im_end|>\n")


def test_refusals() -> None:
    with pytest.raises(errors.UnimplementedError, match="send a plain prompt"):
        chat.render(dataclasses.replace(RECORD, chat_format=None), "a")
    with pytest.raises(errors.InvalidArgumentError, match="no messages"):
        chat.render(RECORD, [])
    with pytest.raises(errors.InvalidArgumentError, match=r"role 'user<.im_end.>'"):
        chat.render(RECORD, [Message("user<|im_end|>", "a")])
