"""Published configurations: what they say, and overrides."""

import json
import pathlib

import pytest

from saxml.common import errors
from saxml.proto import common_pb2
from saxml.server import configs, registry
from saxml.server.generate_inputs import GenerateInputs
from saxml.server.pax.lm.params import checks
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
        ("BATCH_SIZE", "null", "must be a number"),
        ("USE_BEAM_SEARCH", "null", "must be true or false"),
    ],
)
def test_bad_override_is_refused_by_name(key: str, value: str, message: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=message) as raised:
        CommonServingTemplate({key: value})
    assert key in str(raised.value)


# Constants of SAX's templates whose other values we refuse.
FIXED = {
    "TOP_K_RECALL_TARGET": "0.95",
    "USE_TOP_K_FOR_LOGPROBS": "true",
    "GLOBAL_NORMALIZE": "true",
    "FPROP_FOR_PREFIX": "false",
    "USE_MATMUL_BEAM_SHUFFLE": "true",
    "EMB_LOOKUP_STYLE": '"matmul"',
    "NUM_EXTRA_IDS": "8",
    "PRECOMPUTE_KV_CACHE_PREFIX": '"You are"',
    "VOCABULARY_CLASS": '"GPT2BPEVocabulary"',
}
# Another value than the default of each other one. What they do is tested where it is done.
FREE = {
    "ICI_MESH_SHAPE": "[1, 1, 8]",
    "BATCH_SIZE": "[2, 4]",
    "BATCH_WAIT_SECS": "0.2",
    "MAX_LIVE_BATCHES": "2",
    "INPUT_SEQ_LEN": "128",
    "SUFFIX_SEQ_LEN": "16",
    "MIN_DECODE_STEPS": "3",
    "MAX_DECODE_STEPS": "[16, 64]",
    "MAX_SEQ_LEN": "300",
    "NUM_SAMPLES": "1",
    "TOP_K": "0",
    "TEMPERATURE": "0.5",
    "USE_BEAM_SEARCH": "true",
    "BEAM_SIZE": "3",
    "TOKENS_PER_BEAM": "5",
    "LENGTH_NORM_ALPHA": "0.5",
    "BEAM_SEARCH_EARLY_EXIT": "true",
    "SOS_ID": "2",
    "EOS_ID": "3",
    "STOP_TOKEN_IDS": "[3, 4]",
    "SPM_MODEL": '"/m.model"',
    "VOCABULARY_PATH": '"/v"',
    "TOKENIZED_INPUT": "true",
    "TOKENIZED_OUTPUT": "true",
    "PREPEND_SOS": "false",
    "EOS_PADDING_AND_NO_SOS": "true",
    "SLICE_LEFT": "false",
    "FAIL_ON_INPUT_TRUNCATION": "false",
    "INCLUDE_PREFIX_IN_RESULT": "true",
    "SCORE_ONLY": "true",
    "GENERATE_ONLY": "true",
    "ENABLE_GENERATE": "false",
    "ENABLE_GENERATE_STREAM": "true",
    "STREAM_INTERVAL_STEPS": "4",
    "BUCKET_KEYS": "[128, 256]",
    "EXTRA_INPUTS": '{"temperature": 0.5, "top_k": 4}',
    "EXTRA_INPUTS_DTYPES": '{"temperature": "float32"}',
    "SCORE_EXTRA_INPUTS": '{"priority": 1}',
    "SORT_SAMPLES": "false",
    "NUM_CACHE_SLOTS": None,  # with NUM_SAMPLES=1 only
    "SCORING_INCLUDE_EOS_SCORE": "true",
    "SCORING_USE_GEOMEAN_PROB_SCORE": "true",
    "GENERATION_USE_GEOMEAN_PROB_SCORE": "true",
    "TEXT_TO_EMBEDDING_MODEL_METHOD_NAME": None,  # together with the next
    "TEXT_TO_EMBEDDING_OUTPUT_EMBEDDING_NAME": None,
    "TEXT_TO_EMBEDDING_SERVING_BATCH_SIZE": "2",
    "TEXT_TO_EMBEDDING_MAX_LIVE_BATCHES": "3",
    "GRADIENT_WRT_INPUT_TENSOR_NAMES": '["embeddings"]',
    "GRADIENT_WRT_MDL_VAR_TENSOR_NAMES": '["params/lm/final_ln/scale"]',
}
EMBEDDING = {
    "TEXT_TO_EMBEDDING_MODEL_METHOD_NAME": '"__call__"',
    "TEXT_TO_EMBEDDING_OUTPUT_EMBEDDING_NAME": '"last_hidden_state"',
}


def test_every_constant_of_sax_can_be_set_or_is_refused_with_the_reason() -> None:
    known = CommonServingTemplate.constants()
    assert set(FIXED) == set(checks.FIXED)
    for key, text in FIXED.items():
        default = checks.FIXED[key][0]
        assert (known[key], type(known[key])) == (default, type(default))
        CommonServingTemplate({key: json.dumps(default)})
        with pytest.raises(errors.InvalidArgumentError) as raised:
            CommonServingTemplate({key: text})
        assert checks.FIXED[key][1] in str(raised.value)
        changed = type("Changed", (CommonServingTemplate,), {key: json.loads(text)})
        with pytest.raises(errors.InvalidArgumentError, match=f"Changed: {key} must be"):
            changed()
    for key, other in FREE.items():
        if other is not None:
            assert json.loads(other) != known[key]
            assert getattr(CommonServingTemplate({key: other}), key) == json.loads(other)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"SCORE_ONLY": "true", "GENERATE_ONLY": "true"}, "exclude each other"),
        ({"MAX_SEQ_LEN": "256"}, "MAX_SEQ_LEN 256 leaves no room"),
        ({"MAX_NUM_SAMPLES": "1"}, "MAX_NUM_SAMPLES 1 is less than NUM_SAMPLES 2"),
        ({"NUM_CACHE_SLOTS": "4"}, "NUM_CACHE_SLOTS is for one sample"),
        (
            {"USE_BEAM_SEARCH": "true", "GENERATION_USE_GEOMEAN_PROB_SCORE": "true"},
            "beams are scored by LENGTH_NORM_ALPHA",
        ),
        ({"SPM_MODEL": '"a"', "VOCABULARY_PATH": '"b"'}, "SPM_MODEL and VOCABULARY_PATH"),
        ({"APPLY_CHAT_TEMPLATE": "true", "TOKENIZED_INPUT": "true"}, "APPLY_CHAT_TEMPLATE"),
        ({"EXTRA_INPUTS_DTYPES": '{"beta": "int32"}'}, "'beta'"),
        ({"SCORE_EXTRA_INPUTS": '{"temperature": 1}'}, r"\['temperature'\]; a score follows from"),
        ({"TEXT_TO_EMBEDDING_MODEL_METHOD_NAME": '"__call__"'}, "are set together"),
    ],
)
def test_constants_that_contradict_one_another_are_refused(
    overrides: dict[str, str], message: str
) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=message):
        CommonServingTemplate(overrides)


def test_methods_beside_generation_are_offered_by_their_constants() -> None:
    plain = CommonServingTemplate()
    assert (plain.offers_embeddings, plain.offers_gradients) == (False, False)
    limits = {"TEXT_TO_EMBEDDING_SERVING_BATCH_SIZE": "2"}
    embedding = CommonServingTemplate({**EMBEDDING, **limits, "BATCH_SIZE": "8"})
    assert embedding.offers_embeddings
    assert (embedding.max_live_requests, embedding.max_live_embeddings) == (32, 8)
    for key in ("GRADIENT_WRT_INPUT_TENSOR_NAMES", "GRADIENT_WRT_MDL_VAR_TENSOR_NAMES"):
        assert CommonServingTemplate({key: '["x"]'}).offers_gradients
        assert not CommonServingTemplate({key: "[]"}).offers_gradients


def test_scored_texts_are_as_long_as_answers_or_as_suffixes_may_be() -> None:
    def lengths(**overrides: str) -> tuple[int, int]:
        params = CommonServingTemplate({"INPUT_SEQ_LEN": "64", **overrides})
        return params.max_scored_len, params.longest_sequence

    assert lengths() == (96, 96)
    assert lengths(SUFFIX_SEQ_LEN="8") == (72, 96)
    assert lengths(SUFFIX_SEQ_LEN="100") == (164, 164)
    assert lengths(MAX_SEQ_LEN="70") == (70, 70)


def test_lengths_and_limits_follow_from_the_constants() -> None:
    params = CommonServingTemplate(
        {"BATCH_SIZE": "[2, 4]", "MAX_DECODE_STEPS": "[8, 16]", "MAX_NUM_SAMPLES": "6"}
    )
    assert (params.batch_size, params.max_live_requests, params.max_num_samples) == (4, 16, 6)
    assert (params.max_decode_steps, params.max_seq_len) == (16, 272)
    assert CommonServingTemplate({"MAX_SEQ_LEN": "260"}).max_seq_len == 260
    assert CommonServingTemplate({"MAX_SEQ_LEN": "9999"}).max_seq_len == 288


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
        ("MAX_SEQ_LEN", "0"),
        ("MAX_SEQ_LEN", "300.5"),
        ("MAX_SEQ_LEN", '"long"'),
        ("MAX_NUM_SAMPLES", "[2]"),
        ("MAX_QUEUED_TOKENS", "0"),
        ("NUM_CACHE_SLOTS", "-1"),
        ("SUFFIX_SEQ_LEN", "-1"),
        ("VOCABULARY_PATH", "5"),
        ("SPM_MODEL", "5"),
        ("EXTRA_INPUTS_DTYPES", '{"temperature": "float99"}'),
        ("STOP_STRINGS", '"END"'),
        ("STOP_STRINGS", "[1]"),
        ("EMBEDDING_POOLING", '"cls"'),
        ("TEXT_TO_EMBEDDING_MODEL_METHOD_NAME", '"encode"'),
        ("TEXT_TO_EMBEDDING_OUTPUT_EMBEDDING_NAME", '"logits"'),
        ("TEXT_TO_EMBEDDING_MAX_LIVE_BATCHES", "0"),
        ("GRADIENT_WRT_INPUT_TENSOR_NAMES", '"embeddings"'),
        ("GRADIENT_WRT_MDL_VAR_TENSOR_NAMES", "[3]"),
        ("STOP_STRINGS", '["a", ""]'),
    ],
)
def test_value_out_of_range_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=key):
        CommonServingTemplate({key: value})


def test_answers_of_autolm_are_as_long_as_max_decode_steps_says() -> None:
    params = registry.resolve("saxml.server.pax.lm.params.auto.AutoLM")({"MAX_DECODE_STEPS": "900"})
    asked = GenerateInputs.parse(common_pb2.ExtraInputs(), params, 100, lambda: 0)
    assert asked.max_steps == 900


def test_guide_tells_each_constant_and_its_default() -> None:
    text = pathlib.Path("docs/guide.md").read_text()
    rows = text.partition("\n| Constant | Default |")[2].partition("\n\n")[0].splitlines()[2:]
    told: dict[str, object] = {}
    for row in rows:
        names, default = (cell.strip() for cell in row.split("|")[1:3])
        for name in names.split(", "):
            told[name] = json.loads(default) if default else getattr(CommonServingTemplate, name)
    assert told == CommonServingTemplate.constants()
