"""Published configurations: what they say, and overrides."""

import pytest

from saxml.common import errors
from saxml.server import configs, registry
from saxml.server.pax.lm.params.template import CommonServingTemplate

GPTJ = "saxml.server.pax.lm.params.gptj."
configs.import_all()


def test_gptj_of_the_guide_has_the_constants_of_sax() -> None:
    wanted = {
        "ICI_MESH_SHAPE": [1, 1, 4],
        "BATCH_SIZE": 32,
        "MAX_LIVE_BATCHES": 6,
        "BATCH_WAIT_SECS": 4.0,
        "BUCKET_KEYS": [512, 1024, 1919],
        "INPUT_SEQ_LEN": 1919,
        "MIN_DECODE_STEPS": 30,
        "MAX_DECODE_STEPS": [32, 64, 128],
        "USE_BEAM_SEARCH": True,
        "BEAM_SIZE": 4,
        "TOKENS_PER_BEAM": 4,
        "LENGTH_NORM_ALPHA": 0.5,
        "NUM_SAMPLES": 1,
        "SOS_ID": 50256,
        "EOS_ID": 50256,
        "EOS_PADDING_AND_NO_SOS": True,
        "TOKENIZED_INPUT": True,
        "TOKENIZED_OUTPUT": True,
        "FPROP_DTYPE": "bfloat16",
    }
    constants = registry.resolve(GPTJ + "GPTJ4TokenizedBF16BS32").constants()
    assert {k: constants[k] for k in wanted} == wanted
    params = registry.resolve(GPTJ + "GPTJ4TokenizedBF16BS32")()
    config = params.model_config(None)
    assert (config.num_layers, config.model_dim, config.hidden_dim) == (28, 4096, 16384)
    assert (config.num_heads, config.head_dim, config.rotary_dim) == (16, 256, 64)
    assert (config.vocab_size, config.rotary_style) == (50401, "pairs")
    assert (params.max_decode_steps, params.stop_ids) == (128, (50256,))


def test_all_names_of_the_guide_are_registered() -> None:
    paths = registry.model_paths()
    names = ("gptj.GPTJ", "gptj.GPTJ4BF16BS32", "gptj.GPTJ4TokenizedBF16BS32", "auto.AutoLM")
    for name in names:
        assert "saxml.server.pax.lm.params." + name in paths


def test_filter_matches_whole_paths() -> None:
    assert registry.model_paths(r".*\.AutoLM") == ["saxml.server.pax.lm.params.auto.AutoLM"]
    assert registry.model_paths("AutoLM") == []
    with pytest.raises(errors.InvalidArgumentError, match="model_filter_regex"):
        registry.model_paths("(")


def test_unknown_model_path_is_refused_and_what_comes_near_is_named() -> None:
    with pytest.raises(errors.InvalidArgumentError, match=r"did you mean .*gptj\.GPTJ$"):
        registry.resolve("saxml.params.gptj")
    with pytest.raises(errors.InvalidArgumentError, match=r"'os\.system' is not registered"):
        registry.resolve("os.system")


def test_overrides_are_json_of_the_constants_type() -> None:
    params = CommonServingTemplate(
        {
            "BATCH_SIZE": "8",
            "TEMPERATURE": "1",
            "MAX_DECODE_STEPS": "[16, 32]",
            "USE_BEAM_SEARCH": "true",
            "STOP_TOKEN_IDS": "[1, 2]",
            "BATCH_WAIT_SECS": "null",
            "ram": "12",
            "ram4": "3",
            "constraints": "fast",
        }
    )
    assert (params.BATCH_SIZE, params.TEMPERATURE, params.USE_BEAM_SEARCH) == (8, 1, True)
    assert (params.max_decode_steps, params.stop_ids) == (32, (1, 2))
    assert CommonServingTemplate.BATCH_SIZE == 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("BATCH_SIZES", "8", "no such constant"),
        ("stop_ids", "8", "no such constant"),
        ("__init__", "8", "no such constant"),
        ("BATCH_SIZE", "eight", "is not JSON"),
        ("BATCH_SIZE", '"8"', "must be a number"),
        ("BATCH_SIZE", "true", "must be a number"),
        ("BATCH_SIZE", "[]", "must be a number"),
        ("USE_BEAM_SEARCH", "1", "must be true or false"),
        ("FPROP_DTYPE", "3", "must be a string"),
        ("EXTRA_INPUTS", "[]", "must be a value"),
    ],
)
def test_bad_override_is_refused_by_name(key: str, value: str, message: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=message) as raised:
        CommonServingTemplate({key: value})
    assert key in str(raised.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("BATCH_SIZE", "0"),
        ("BATCH_SIZE", "[4, -1]"),
        ("INPUT_SEQ_LEN", "0"),
        ("MAX_DECODE_STEPS", "0"),
        ("NUM_SAMPLES", "-1"),
        ("BEAM_SIZE", "0"),
        ("PAGE_SIZE", "0"),
        ("MAX_LIVE_BATCHES", "0"),
        ("KV_CACHE_GIB", "-1"),
        ("FPROP_DTYPE", '"float12"'),
        ("TEMPERATURE", "-1"),
        ("STREAM_INTERVAL_STEPS", "0"),
        ("STOP_STRINGS", '"END"'),
        ("STOP_STRINGS", "[1]"),
        ("STOP_STRINGS", '["a", ""]'),
    ],
)
def test_value_out_of_range_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=key):
        CommonServingTemplate({key: value})
