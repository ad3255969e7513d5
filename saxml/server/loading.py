"""From a configuration and a checkpoint to an engine that runs."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import psutil
from absl import logging

from saxml.checkpoint import layout
from saxml.checkpoint.pax import StoredWeights, open_checkpoint, restore
from saxml.checkpoint.record import RECORD, ModelRecord
from saxml.common import errors, huge_pages
from saxml.engine import gradient
from saxml.engine.beam import BeamOptions
from saxml.engine.engine import Engine
from saxml.engine.options import EngineOptions, token_buckets
from saxml.models import registry as families
from saxml.models import sharding
from saxml.models.config import ModelConfig
from saxml.models.params import Param, random_params
from saxml.ops.backend import PLAIN, Backend
from saxml.server import cpu
from saxml.server import weights as weights_lib
from saxml.server.pax.lm.params.template import CommonServingTemplate
from saxml.server.text_codec import TextCodec
from saxml.tokenizer.base import Tokenizer
from saxml.tokenizer.load import load_tokenizer, load_vocabulary

# Share of the free memory that pages may take where KV_CACHE_GIB does not say.
_KV_SHARE = 0.4
_SUFFIXES_A_REQUEST = 64
NO_CHECKPOINT = "None"


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to decode."""

    params: CommonServingTemplate
    codec: TextCodec
    engine: Engine
    beam: BeamOptions | None
    differentiator: gradient.Differentiator | None
    seed: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What the server as a whole decides: whether a mesh may shrink, and the seed of random weights
    and of samples that have none."""

    strict_mesh: bool = False
    cpu_kernels: str = cpu.AUTO
    seed: int = 0


def load(params: CommonServingTemplate, checkpoint: str, options: LoadOptions) -> Loaded:
    """Restores the weights, compiles every step and starts the engine. Raises SaxError that says
    what is wrong."""
    record = _record(params, checkpoint)
    config = params.model_config(record)
    beam = beam_options(params)
    mesh = sharding.make_mesh(
        sharding.fit_mesh_shape(
            params.ICI_MESH_SHAPE, len(jax.devices()), strict=options.strict_mesh
        ),
        jax.devices(),
    )
    # What may be missing is looked for before what takes long.
    tokenizer = _tokenizer(params, checkpoint, record)
    codec = TextCodec(params, config.vocab_size, tokenizer, record)
    differentiated = gradient_options(params)
    if differentiated is not None:
        gradient.check(config, differentiated)
    # What is differentiated must be plain JAX.
    wanted = cpu.OFF if differentiated is not None else options.cpu_kernels
    int8 = params.WEIGHT_DTYPE == layout.INT8 or _is_int8(checkpoint)
    backend = cpu.choose(wanted, params.FPROP_DTYPE, config, params.PAGE_SIZE, mesh.size, int8=int8)
    dtype = compute_dtype(params, backend)
    if params.KV_CACHE_GIB is not None:  # else what is free then decides
        engine_options(params, config, dtype, beam, backend)
    weights = _weights(config, checkpoint, mesh, dtype, backend, options.seed)
    engine = Engine(
        config,
        weights,
        engine_options(params, config, dtype, beam, backend),
        mesh,
        dtype,
        progress=logging.info,
    )
    if backend != PLAIN:
        logging.info("%.1f MB of memory are on huge pages", huge_pages.in_use() / 1e6)
    differentiator = None
    if differentiated is not None:
        differentiator = gradient.Differentiator(
            config, weights, differentiated, mesh, progress=logging.info
        )
    return Loaded(params, codec, engine, beam, differentiator, options.seed)


def _record(params: CommonServingTemplate, checkpoint: str) -> ModelRecord | None:
    if checkpoint == NO_CHECKPOINT:
        if not params.RANDOM_WEIGHTS:
            raise errors.InvalidArgumentError(
                f"{type(params).__name__} needs a checkpoint; None (random weights) is for"
                " configurations with RANDOM_WEIGHTS"
            )
        return None
    folder = open_checkpoint(checkpoint).folder
    data = folder.read(RECORD)
    # Checkpoints of other converters have no record; classes that state their sizes need none.
    return None if data is None else ModelRecord.from_bytes(data, f"{folder.path}/{RECORD}")


def _is_int8(checkpoint: str) -> bool:
    """Whether matrices of a checkpoint are int8."""
    if checkpoint == NO_CHECKPOINT:
        return False
    return any(dtype == layout.INT8 for _, dtype in open_checkpoint(checkpoint).arrays.values())


def _tokenizer(
    params: CommonServingTemplate, checkpoint: str, record: ModelRecord | None
) -> Tokenizer | None:
    if params.TOKENIZED_INPUT and params.TOKENIZED_OUTPUT:
        return None
    if path := params.VOCABULARY_PATH or params.SPM_MODEL:
        return load_vocabulary(path)
    if record is not None and record.tokenizer is not None:
        return load_tokenizer(checkpoint)
    return None


def _weights(
    config: ModelConfig,
    checkpoint: str,
    mesh: jax.sharding.Mesh,
    dtype: Any,
    backend: Backend,
    seed: int,
) -> dict[str, Any]:
    declared = families.parameters(config)
    key = jax.random.key(seed)
    progress = _restore_progress(checkpoint)
    if backend != PLAIN:
        source: weights_lib.Source = (
            weights_lib.RandomWeights(declared, key, dtype)
            if checkpoint == NO_CHECKPOINT
            else StoredWeights(checkpoint, declared)
        )
        return weights_lib.packed(source, config, backend, dtype, progress)

    def sharding_of(name: str, param: Param) -> jax.sharding.Sharding:
        return sharding.sharding(mesh, param.stacked_axes, param.stacked_shape)

    if checkpoint == NO_CHECKPOINT:
        shardings = {name: sharding_of(name, param) for name, param in declared.items()}
        restored = random_params(declared, key, dtype, shardings)
    else:
        restored = restore(
            checkpoint, declared, dtype=dtype, sharding_of=sharding_of, progress=progress
        )
    return families.prepare(config, restored)


def _restore_progress(checkpoint: str) -> Callable[[int, int], None]:
    reported = -1

    def report(done: int, total: int) -> None:
        nonlocal reported
        percent = 100 * done // max(total, 1)
        if percent // 20 > reported:
            reported = percent // 20
            logging.info("restored %d%% of %.1f MB from %s", percent, total / 1e6, checkpoint)

    return report


def compute_dtype(params: CommonServingTemplate, backend: Backend) -> Any:
    """FPROP_DTYPE, but float32 on CPUs without our kernels: XLA's bfloat16 matmul converts all
    weights in each step."""
    wanted = jnp.dtype(params.FPROP_DTYPE)
    if jax.default_backend() == "cpu" and backend == PLAIN and wanted == jnp.bfloat16:
        return jnp.dtype(jnp.float32)
    return wanted


def beam_options(params: CommonServingTemplate) -> BeamOptions | None:
    """The beam search of a configuration that has one."""
    if not params.USE_BEAM_SEARCH:
        return None
    return BeamOptions(
        beam_size=params.BEAM_SIZE,
        tokens_per_beam=params.TOKENS_PER_BEAM or params.BEAM_SIZE,
        alpha=params.LENGTH_NORM_ALPHA,
        min_steps=params.MIN_DECODE_STEPS,
        max_steps=params.max_decode_steps,
        stop_ids=params.stop_ids,
        early_exit=params.BEAM_SEARCH_EARLY_EXIT,
        fixed_steps=params.BEAM_SEARCH_FIXED_STEPS,
    )


def gradient_options(params: CommonServingTemplate) -> gradient.GradientOptions | None:
    """What is differentiated in a configuration that offers lm.gradient."""
    if not params.offers_gradients:
        return None
    return gradient.GradientOptions(
        inputs=tuple(params.GRADIENT_WRT_INPUT_TENSOR_NAMES or ()),
        weights=tuple(params.GRADIENT_WRT_MDL_VAR_TENSOR_NAMES or ()),
        longest=params.max_scored_len,
        geometric_mean=params.SCORING_USE_GEOMEAN_PROB_SCORE,
    )


def engine_options(
    params: CommonServingTemplate,
    config: ModelConfig,
    dtype: Any,
    beam: BeamOptions | None,
    backend: Backend = PLAIN,
) -> EngineOptions:
    """Sizes of the engine: BATCH_SIZE requests together, each with all its beams or samples."""
    width = beam.beam_size if beam else params.max_num_samples
    max_len = params.longest_sequence
    if max_len > config.max_positions:
        rest = "MAX_DECODE_STEPS", params.max_decode_steps
        if max_len > params.max_seq_len:
            rest = "SUFFIX_SEQ_LEN", params.SUFFIX_SEQ_LEN
        raise errors.InvalidArgumentError(
            f"INPUT_SEQ_LEN {params.INPUT_SEQ_LEN} and {rest[0]} {rest[1]}"
            f" make {max_len} tokens; the model has {config.max_positions} positions"
        )
    together = params.NUM_CACHE_SLOTS or params.batch_size
    rows = max(width, together * (beam.beam_size if beam else params.NUM_SAMPLES))
    of_pages = dtype if backend == PLAIN else jnp.dtype(backend.page_element)
    num_pages = _num_pages(params, config, of_pages, rows, width, max_len)
    greedy_only = not beam and params.NUM_SAMPLES == params.TOP_K == 1
    return EngineOptions(
        page_size=params.PAGE_SIZE,
        num_pages=num_pages,
        max_model_len=max_len,
        max_rows=rows,
        buckets=token_buckets(rows, params.INPUT_SEQ_LEN),
        # Each of the admitted requests may be a score of many suffixes.
        queue_capacity=params.max_live_requests * _SUFFIXES_A_REQUEST,
        max_queued_tokens=max_queued_tokens(params, num_pages),
        top_k=1 if beam or greedy_only else params.TOP_K,
        num_candidates=beam.num_candidates if beam else 0,
        stop_ids=params.stop_ids,
        max_logprobs=min(params.MAX_LOGPROBS, config.vocab_size),
        prefix_cache=params.PREFIX_CACHE,
        # A CPU would read a step with the cores that compute the next one.
        run_ahead=jax.default_backend() != "cpu",
        prefill_stretch=math.inf if params.PREFILL_STRETCH is None else params.PREFILL_STRETCH,
        backend=backend,
    )


def max_queued_tokens(params: CommonServingTemplate, num_pages: int) -> int:
    """Prompt tokens that may wait: MAX_QUEUED_TOKENS, or what fills all pages as often as there are
    batches, and one request that scores many suffixes."""
    if params.MAX_QUEUED_TOKENS is not None:
        return int(params.MAX_QUEUED_TOKENS)
    pages = int(params.MAX_LIVE_BATCHES) * num_pages * int(params.PAGE_SIZE)
    return max(pages, _SUFFIXES_A_REQUEST * params.longest_sequence)


def _num_pages(
    params: CommonServingTemplate,
    config: ModelConfig,
    dtype: Any,
    rows: int,
    width: int,
    max_len: int,
) -> int:
    """As many pages as all rows at full length need, or as memory allows; at least one request must
    fit."""
    S = params.PAGE_SIZE
    page_bytes = 2 * config.num_layers * S * config.num_kv_heads * config.head_dim * dtype.itemsize
    if params.KV_CACHE_GIB is not None:
        budget = int(params.KV_CACHE_GIB * 2**30)
    else:
        budget = int(_KV_SHARE * _free_bytes())
    pages: int = min(rows * -(-max_len // S), budget // page_bytes)
    prompt_pages = params.INPUT_SEQ_LEN // S
    needed = prompt_pages + width * (-(-max_len // S) - prompt_pages)
    if pages < needed:
        raise errors.ResourceExhaustedError(
            f"one request of {max_len} tokens needs {needed} pages of keys and values"
            f" ({needed * page_bytes / 2**30:.2f} GiB); {pages} fit. Raise KV_CACHE_GIB, or lower"
            " INPUT_SEQ_LEN or MAX_DECODE_STEPS"
        )
    return pages


def _free_bytes() -> int:
    if jax.default_backend() == "cpu":
        return int(psutil.virtual_memory().available)
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats.get("bytes_limit", 8 << 30)) - int(stats.get("bytes_in_use", 0))
