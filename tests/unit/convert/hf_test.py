"""GPT-J and Llama folders of Hugging Face: what is odd is named, and nothing half-done stays."""

import json
import pathlib
import shutil
import sys
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file

from saxml.checkpoint import pax
from saxml.checkpoint.record import TokenizerRecord, read_record
from saxml.common import errors
from saxml.models import registry
from saxml.tokenizer.load import load_tokenizer
from tests.unit.convert.synthetic import GOLDEN, copy_model, load_tensors
from tests.unit.tokenizer.vocabularies import ranks, train
from tools.convert.gptj import convert_gptj
from tools.convert.llama import convert_llama

Path = pathlib.Path


def restore(path: str) -> dict[str, Any]:
    _, record = read_record(path)
    return pax.restore(path, registry.parameters(record.config))


def test_gptj_weights_are_laid_out_as_pax_has_them(tmp_path: Path) -> None:
    weights = load_tensors("tiny_gptj")
    got = restore(convert_gptj(str(GOLDEN / "tiny_gptj"), str(tmp_path)))
    np.testing.assert_array_equal(got["head.w"], weights["lm_head.weight"].T)
    q, k = (weights[f"transformer.h.1.attn.{n}_proj.weight"] for n in "qk")
    assert got["qkv"].shape == (3, 3, 32, 4, 8)
    # [layer, q/k/v, D, H, E]
    np.testing.assert_array_equal(got["qkv"][1, 0, :, 2, 5], q[2 * 8 + 5])
    np.testing.assert_array_equal(got["qkv"][1, 1, :, 3, 0], k[3 * 8])
    out = weights["transformer.h.2.attn.out_proj.weight"]
    np.testing.assert_array_equal(got["out"][2, :, 1, 4], out[:, 8 + 4])


def test_sharded_and_single_files_give_the_same(tmp_path: Path) -> None:
    single = copy_model("tiny_llama", tmp_path / "single")
    one = restore(convert_llama(str(single), str(tmp_path / "a")))
    two = restore(convert_llama(str(GOLDEN / "tiny_llama"), str(tmp_path / "b")))
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    base = copy_model("tiny_gptj", tmp_path / "base")
    weights = {k: v.astype(ml_dtypes.bfloat16) for k, v in load_tensors("tiny_gptj").items()}
    save_file(weights, base / "model.safetensors")
    got = restore(convert_gptj(str(base), str(tmp_path / "pax")))
    assert {a.dtype for a in got.values()} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_array_equal(got["head.w"], weights["lm_head.weight"].T)


def test_what_the_folder_says_is_recorded(tmp_path: Path) -> None:
    base = copy_model("tiny_llama", tmp_path / "base", eos_token_id=5)
    (base / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    (base / "tokenizer_config.json").write_text('{"add_bos_token": true, "chat_template": "x"}')
    (base / "tokenizer.json").write_text("{}")
    folder, record = read_record(convert_llama(str(base), str(tmp_path / "pax")))
    assert (record.sos_id, record.eos_id, record.stop_token_ids) == (1, 7, (7, 9))
    assert record.prepend_sos
    assert (record.chat_template, record.chat_format) == ("x", None)
    assert record.tokenizer is not None
    assert record.tokenizer.kind == "hf_json"
    assert folder.read("tokenizer/tokenizer.json") == b"{}"
    assert record.config.num_kv_heads == 2


@pytest.mark.parametrize("kind", ["sentencepiece", "tiktoken"])
def test_a_tokenizer_model_is_what_it_holds(kind: str, tmp_path: Path) -> None:
    data = {"sentencepiece": train(), "tiktoken": ranks(50_256)}[kind]
    base = copy_model("tiny_llama", tmp_path / "base")
    (base / "tokenizer.model").write_bytes(data)
    path = convert_llama(str(base), str(tmp_path / "pax"))
    folder, record = read_record(path)
    assert record.tokenizer == TokenizerRecord(kind=kind, files=("tokenizer.model",))
    assert folder.read("tokenizer/tokenizer.model") == data
    assert record.prepend_sos
    tokenizer = load_tokenizer(path)
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat"
    assert (tokenizer.bos_id, tokenizer.eos_id) == (record.sos_id, record.eos_id)


def test_a_tokenizer_model_that_is_none_is_refused(tmp_path: Path) -> None:
    base = copy_model("tiny_llama", tmp_path / "base")
    (base / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(errors.InvalidArgumentError, match=r"base/tokenizer.model is a Git LFS"):
        convert_llama(str(base), str(tmp_path / "pax"))
    (base / "tokenizer.model").write_bytes(b'{"a": 0}')
    with pytest.raises(errors.InvalidArgumentError, match=r"call it encoder.json"):
        convert_llama(str(base), str(tmp_path / "pax"))


@pytest.mark.parametrize(("said", "wanted"), [(None, True), (True, True), (False, False)])
def test_start_token_is_put_in_front_as_the_tokenizer_says(
    said: bool | None, wanted: bool, tmp_path: Path
) -> None:
    base = copy_model("tiny_llama", tmp_path / "base")
    library = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "<s>": 1}, []))
    (base / "tokenizer.json").write_text(library.to_str())
    _, record = read_record(convert_llama(str(base), str(tmp_path / "bare")))
    assert not record.prepend_sos
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    (base / "tokenizer.json").write_text(library.to_str())
    if said is not None:
        (base / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": said}))
    _, record = read_record(convert_llama(str(base), str(tmp_path / "pax")))
    assert record.prepend_sos is wanted


def test_gpt2_vocabulary_files_are_taken_along(tmp_path: Path) -> None:
    base = copy_model("tiny_gptj", tmp_path / "base")
    (base / "vocab.json").write_text('{"a": 0}')
    (base / "merges.txt").write_text("")
    folder, record = read_record(convert_gptj(str(base), str(tmp_path / "pax")))
    assert record.tokenizer is not None
    assert (record.tokenizer.kind, record.tokenizer.files) == (
        "gpt2_bpe",
        ("vocab.json", "merges.txt"),
    )
    assert folder.read("tokenizer/vocab.json") == b'{"a": 0}'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embd": None}, "config.json: the field n_embd is missing"),
        ({"n_embd": "32"}, "n_embd is '32', wanted a positive whole number"),
        ({"n_embd": 33}, "n_embd is 33, wanted a multiple of n_head 4"),
        ({"n_layer": 4}, r"has no tensor transformer.h.3"),
        ({"n_layer": 10**9}, "has 35 tensors, too few for the 1000000000 layers"),
        ({"n_layer": 2}, "tensors have no place in this model family"),
        ({"n_inner": 64}, r"fc_in.weight has shape \[128, 32\], wanted \[64, 32\]"),
        ({"vocab_size": 212}, r"wte.weight has shape \[211, 32\], wanted \[212, 32\]"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; implemented: gptj"),
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"eos_token_id": None}, "eos_token_id is missing"),
        ({"eos_token_id": 999}, "eos_id 999 is not in the vocabulary"),
    ],
)
def test_odd_gptj_configurations(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    base = copy_model("tiny_gptj", tmp_path / "base", **changes)
    with pytest.raises(errors.SaxError, match=message):
        convert_gptj(str(base), str(tmp_path / "pax"))
    assert not (tmp_path / "pax" / "checkpoint_00000000").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling: rope_type is 'llama3'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters: rope_type is 'yarn'"),
        ({"attention_bias": True}, "attention_bias is true; implemented: false"),
        ({"num_key_value_heads": 3}, "num_heads 4 is not a multiple"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0, wanted a positive number"),
    ],
)
def test_odd_llama_configurations(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    base = copy_model("tiny_llama", tmp_path / "base", **changes)
    with pytest.raises(errors.SaxError, match=message):
        convert_llama(str(base), str(tmp_path / "pax"))


def test_rotary_base_of_either_spelling(tmp_path: Path) -> None:
    nested = {"rope_theta": 5e5, "rope_type": "default"}
    spellings: list[dict[str, Any]] = [
        {"rope_theta": 5e5},
        {"rope_theta": None, "rope_parameters": nested},
    ]
    for index, changes in enumerate(spellings):
        base = copy_model("tiny_llama", tmp_path / f"base{index}", **changes)
        _, record = read_record(convert_llama(str(base), str(tmp_path / f"pax{index}")))
        assert record.config.rotary_base == 5e5


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFoundError, match="no folder EleutherAI/gpt-j-6b; --base takes"):
        convert_gptj("EleutherAI/gpt-j-6b", str(tmp_path / "pax"))
    with pytest.raises(errors.NotFoundError, match=r"has no config.json"):
        convert_gptj(str(tmp_path), str(tmp_path / "pax"))
    base = copy_model("tiny_gptj", tmp_path / "base")
    (base / "model.safetensors").unlink()
    with pytest.raises(errors.NotFoundError, match=r"neither model.safetensors nor"):
        convert_gptj(str(base), str(tmp_path / "pax"))
    (base / "config.json").write_text("[]")
    with pytest.raises(errors.InvalidArgumentError, match=r"config.json is not a JSON object"):
        convert_gptj(str(base), str(tmp_path / "pax"))


def test_damaged_safetensors(tmp_path: Path) -> None:
    base = copy_model("tiny_gptj", tmp_path / "base")
    file = base / "model.safetensors"
    whole = file.read_bytes()
    for data, message in (
        (whole[:4], "the header's length"),
        (whole[:100], "the header is said to lie"),
        (whole[:-1], "is cut short or damaged"),
        (b"\xff" * 8 + whole[8:], "the header is said to lie"),
        (whole[:8] + b"x" + whole[9:], "the header is damaged"),
        (b"", "is empty"),
    ):
        file.write_bytes(data)
        with pytest.raises(errors.InvalidArgumentError, match=message):
            convert_gptj(str(base), str(tmp_path / "pax"))


def test_index_with_a_path_or_a_wrong_file(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(GOLDEN / "tiny_llama", base)
    index = base / "model.safetensors.index.json"
    placed = json.loads(index.read_text())["weight_map"]
    name = next(iter(placed))
    for file, message in (("../x", "is not an index"), ("model-00009.safetensors", "no file")):
        index.write_text(json.dumps({"weight_map": {**placed, name: file}}))
        with pytest.raises(errors.SaxError, match=message):
            convert_llama(str(base), str(tmp_path / "pax"))
    other = next(file for file in placed.values() if file != placed[name])
    index.write_text(json.dumps({"weight_map": {**placed, name: other}}))
    with pytest.raises(errors.InvalidArgumentError, match=f"places tensor {name} in {other}"):
        convert_llama(str(base), str(tmp_path / "pax"))


def test_an_existing_checkpoint_is_kept_unless_asked(tmp_path: Path) -> None:
    base = str(GOLDEN / "tiny_gptj")
    path = convert_gptj(base, str(tmp_path))
    with pytest.raises(errors.AlreadyExistsError, match="--overwrite"):
        convert_gptj(base, str(tmp_path))
    assert convert_gptj(base, str(tmp_path), overwrite=True) == path


def test_pytorch_files_need_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = copy_model("tiny_gptj", tmp_path / "base")
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(errors.FailedPreconditionError, match="PyTorch is not installed"):
        convert_gptj(str(base), str(tmp_path / "pax"))


def test_pytorch_files(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not among the locked packages")
    base = copy_model("tiny_gptj", tmp_path / "base")
    (base / "model.safetensors").unlink()
    weights = {k: torch.from_numpy(v).bfloat16() for k, v in load_tensors("tiny_gptj").items()}
    torch.save(weights, base / "pytorch_model.bin")
    got = restore(convert_gptj(str(base), str(tmp_path / "pax")))
    wanted = load_tensors("tiny_gptj")["lm_head.weight"].T.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(got["head.w"], wanted)
    torch.save({"x": pathlib.Path("x")}, base / "pytorch_model.bin")
    with pytest.raises(errors.InvalidArgumentError, match="cannot be read as tensors"):
        convert_gptj(str(base), str(tmp_path / "pax2"))
