"""GGUF files: numbers by ggml's definitions, the record, and files that do not hold together."""

import pathlib
import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saxml.checkpoint import pax
from saxml.checkpoint.record import read_record
from saxml.common import errors
from saxml.models import registry
from saxml.tokenizer.load import load_tokenizer
from tests.unit.convert.synthetic import gguf
from tools.convert.dequantise import dequantise, stored_bytes
from tools.convert.gguf import convert_gguf
from tools.convert.gguf_reader import GgufFile

Path = pathlib.Path
F32, F16, Q4_0, Q4_1, Q8_0, BF16 = 0, 1, 2, 3, 8, 30
D, F, V, H, K, E = 32, 64, 32, 4, 2, 8
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"0123456789", "12", "a", "Ġ"]
TOKENS += [f"t{i}" for i in range(V - len(TOKENS))]
METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": D,
    "llama.feed_forward_length": F,
    "llama.attention.head_count": H,
    "llama.attention.head_count_kv": K,
    "llama.rope.freq_base": 100000.0,
    "llama.attention.layer_norm_rms_epsilon": 0.5,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (V - 3),
    "tokenizer.ggml.merges": ["1 2"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.add_bos_token": False,
}
SHAPES = {
    "token_embd.weight": (Q8_0, (V, D)),
    "output_norm.weight": (F32, (D,)),
    "blk.0.attn_norm.weight": (F32, (D,)),
    "blk.0.attn_q.weight": (Q4_1, (H * E, D)),
    "blk.0.attn_k.weight": (Q4_0, (K * E, D)),
    "blk.0.attn_v.weight": (F16, (K * E, D)),
    "blk.0.attn_output.weight": (BF16, (D, H * E)),
    "blk.0.ffn_norm.weight": (F32, (D,)),
    "blk.0.ffn_gate.weight": (Q4_1, (F, D)),
    "blk.0.ffn_up.weight": (Q4_1, (F, D)),
    "blk.0.ffn_down.weight": (Q4_1, (D, F)),
}


def tensors(seed: int = 0) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    random = np.random.default_rng(seed)
    made = {}
    for name, (kind, shape) in SHAPES.items():
        if kind == F32:
            data = random.standard_normal(shape).astype(np.float32).tobytes()
        elif kind in (F16, BF16):
            dtype = np.float16 if kind == F16 else ml_dtypes.bfloat16
            data = random.standard_normal(shape).astype(dtype).tobytes()
        else:
            data = random.integers(0, 60, stored_bytes(kind, shape), np.uint8).tobytes()
        made[name] = (kind, shape, data)
    return made


def write(path: Path, metadata: dict[str, Any] = METADATA, **changed: Any) -> str:
    path.write_bytes(gguf(metadata, {**tensors(), **changed}))
    return str(path)


def half(data: bytes) -> float:
    return float(struct.unpack("<e", data)[0])


@pytest.mark.parametrize(("kind", "size"), [(Q4_0, 18), (Q4_1, 20), (Q8_0, 34)])
def test_blocks_are_expanded_by_definition(kind: int, size: int) -> None:
    random = np.random.default_rng(kind)
    data = random.integers(0, 256, (6, size), np.uint8)
    data[:, 1] &= 0x3B  # finite scales
    data[:, 3] &= 0x3B
    got = dequantise(data.reshape(-1), kind, (3, 64)).reshape(6, 32)
    assert got.dtype == np.float32
    for block, values in zip(data, got, strict=True):
        raw = block.tobytes()
        for i in range(32):
            byte = raw[size - 16 + i % 16]
            nibble = byte & 15 if i < 16 else byte >> 4
            if kind == Q8_0:
                wanted = half(raw[:2]) * struct.unpack_from("<b", raw, 2 + i)[0]
            elif kind == Q4_1:
                wanted = half(raw[:2]) * nibble + half(raw[2:4])
            else:
                wanted = half(raw[:2]) * (nibble - 8)
            assert values[i] == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_converted_weights_and_record(tmp_path: Path) -> None:
    path = convert_gguf(write(tmp_path / "m.gguf"), str(tmp_path / "pax"))
    _, record = read_record(path)
    assert record.config.rotary_style == "pairs"
    assert record.config.rotary_base == 100000.0
    assert record.config.tied_embeddings
    assert (record.sos_id, record.eos_id, record.stop_token_ids) == (1, 2, (2, 0))
    got = pax.restore(path, registry.parameters(record.config))
    source = tensors()

    def values(name: str) -> np.ndarray[Any, Any]:
        kind, shape, data = source[name]
        return dequantise(np.frombuffer(data, np.uint8), kind, shape)

    embedding = values("token_embd.weight").astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(got["head.w"], embedding.T)
    np.testing.assert_array_equal(got["norm.scale"][0], values("blk.0.attn_norm.weight"))
    assert got["norm.scale"].dtype == np.float32
    assert got["value"].dtype == np.float16
    q = values("blk.0.attn_q.weight").astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(got["query"][0, :, 3, 5], q[3 * E + 5])
    out = values("blk.0.attn_output.weight")
    np.testing.assert_array_equal(got["out"][0, :, 1, 2], out[:, E + 2])


def test_tokenizer_of_the_file(tmp_path: Path) -> None:
    path = convert_gguf(write(tmp_path / "m.gguf"), str(tmp_path / "pax"))
    tokenizer = load_tokenizer(path)
    assert tokenizer.encode("12<|im_end|>a 1") == [4, 5, 2, 14, 15, 4]
    assert tokenizer.decode([4, 5, 2], skip_special=True) == "12"
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (1, 2, V)
    several = METADATA | {"tokenizer.ggml.pre": "gpt-2"}
    path = convert_gguf(write(tmp_path / "n.gguf", several), str(tmp_path / "pax2"))
    assert load_tokenizer(path).encode("12") == [13]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "mamba"}, "architecture is 'mamba'; implemented: llama"),
        ({"llama.block_count": None}, "llama.block_count is missing"),
        ({"llama.block_count": 2}, r"has no tensor blk.1.attn_norm.weight"),
        ({"llama.embedding_length": 64}, r"has shape \[32\], wanted \[64\]|has shape \[32, 32\]"),
        ({"llama.rope.scaling.type": "linear"}, "scaling.type is 'linear'"),
        ({"tokenizer.ggml.model": "llama"}, "ggml.model is 'llama'; implemented: gpt2"),
        ({"tokenizer.ggml.pre": "qwen2"}, "ggml.pre is 'qwen2'"),
        ({"tokenizer.ggml.merges": ["1"]}, "merge 1 is '1'"),
        ({"tokenizer.ggml.merges": ["1 zzz"]}, "m.gguf: tokenizer: "),
        ({"tokenizer.ggml.token_type": [1]}, "1 types"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "token_type|doubles"),
        ({"tokenizer.ggml.eos_token_id": 99}, "eos_id 99 is not in the vocabulary"),
        ({"general.alignment": 0}, "general.alignment is 0"),
    ],
)
def test_odd_metadata(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    metadata = {k: v for k, v in (METADATA | change).items() if v is not None}
    file = write(tmp_path / "m.gguf", metadata)
    with pytest.raises(errors.SaxError, match=message):
        convert_gguf(file, str(tmp_path / "pax"))
    assert not (tmp_path / "pax" / "checkpoint_00000000").exists()


def test_odd_tensors(tmp_path: Path) -> None:
    cases: list[tuple[str, Any, str]] = [
        ("rope_freqs.weight", (F32, (4,), b"\0" * 16), "rope_freqs.weight"),
        ("x", (12, (256,), b"\0" * 144), "tensor x: type 12 is not converted"),
        ("x", (Q4_1, (2, 16), b"\0" * 20), "rows of 16 numbers are not whole blocks of Q4_1"),
        ("x", (F32, (1 << 40,), b""), "cut short or damaged"),
        ("x", (F32, (1 << 60, 1 << 60), b""), "has shape"),
    ]
    for name, tensor, message in cases:
        file = write(tmp_path / "m.gguf", **{name: tensor})
        with pytest.raises(errors.SaxError, match=message):
            convert_gguf(file, str(tmp_path / "pax"))


def test_files_that_are_not_gguf(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    whole = gguf(METADATA, tensors())
    for data, message in (
        (b"", "is empty"),
        (b"GGU", "the magic number"),
        (b"PK\3\4" + whole[4:], "does not begin with GGUF"),
        (whole[:4] + struct.pack("<I", 9) + whole[8:], "GGUF version 9"),
        (whole[:8] + b"\xff" * 8 + whole[16:], "entries of tensors do not fit"),
        (whole[:16] + b"\xff" * 8 + whole[24:], "entries of metadata do not fit"),
        (whole[:24] + b"\xff" * 8 + whole[32:], "a text is said to lie"),
    ):
        file.write_bytes(data)
        with pytest.raises(errors.SaxError, match=message):
            GgufFile(str(file))
    with pytest.raises(errors.NotFoundError, match="no file"):
        GgufFile(str(tmp_path / "none"))


WHOLE = gguf(METADATA, tensors())


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(WHOLE) - 33))
def test_every_truncation_is_noticed(tmp_path: Path, length: int) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(WHOLE[:length])
    with pytest.raises(errors.SaxError):
        GgufFile(str(file))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2600), st.binary(min_size=1, max_size=8))
def test_damage_gives_errors_and_no_crash(tmp_path: Path, place: int, noise: bytes) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(WHOLE[:place] + noise + WHOLE[place + len(noise) :])
    try:
        parsed = GgufFile(str(file))
    except errors.SaxError:
        return
    for info in parsed.tensors.values():
        assert 0 <= info.start <= info.start + info.length <= len(WHOLE)
