"""Which models the CPU kernels compute, and at what level of CPU."""

import jax
from absl import logging

from saxml import kernels
from saxml.common import errors
from saxml.models import registry
from saxml.models.config import ModelConfig
from saxml.ops import linear
from saxml.ops.backend import KERNEL_PAGE_MULTIPLE, PLAIN, Backend, Element

AUTO = "auto"
OFF = "off"
# At this level prompts take longer than in plain JAX.
_SLOW = "portable"
_LARGEST_HEAD = 512


def choose(
    wanted: str,
    dtype: str,
    config: ModelConfig,
    page_size: int,
    devices: int,
    *,
    int8: bool = False,
) -> Backend:
    """The backend for a model: the kernels on one CPU device where its sizes suit them.

    wanted: auto (the best level, but portable), off, or a level by name; dtype:
    FPROP_DTYPE; int8: whether matrices are to be int8, which the log denies where the kernels do
    not compute the model. Raises InvalidArgumentError for a level that this CPU has not.
    """
    reason: str | None
    if (device := jax.default_backend()) != "cpu":
        reason = f"the device is a {device}"
    elif wanted == OFF:
        reason = "they are off"
    elif wanted == AUTO and kernels.levels()[-1] == _SLOW:
        reason = f"this CPU has only the level {_SLOW}, which takes longer for prompts"
        logging.info("plain JAX computes this model, and not the CPU kernels: %s", reason)
    elif reason := _why_not(config, page_size, devices):
        logging.warning("plain JAX computes this model, and not the CPU kernels: %s", reason)
    if reason:
        if int8:
            logging.warning("matrices are not int8 but floats: CPU kernels only, and %s", reason)
        return PLAIN
    try:
        kernels.set_level(kernels.levels()[-1] if wanted == AUTO else wanted)
    except ValueError as e:
        raise errors.InvalidArgumentError(f"--cpu_kernels={wanted}: {e}") from None
    element: Element = "bfloat16" if dtype == "bfloat16" else "float32"
    if int8:
        element = "int8"
    logging.info("CPU kernels at level %s, weights in %s", kernels.level(), element)
    return Backend(element)


def _why_not(config: ModelConfig, page_size: int, devices: int) -> str | None:
    if devices > 1:
        return f"the mesh has {devices} devices; they take one"
    if page_size % KERNEL_PAGE_MULTIPLE:
        return f"PAGE_SIZE {page_size} is no multiple of {KERNEL_PAGE_MULTIPLE}"
    if config.head_dim % 2 or config.head_dim > _LARGEST_HEAD:
        return f"head_dim {config.head_dim} is odd or above {_LARGEST_HEAD}"
    return linear.misfit(registry.operand_shapes(config), registry.family(config).products(config))
