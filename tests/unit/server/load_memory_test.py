"""A load needs the memory of the packed model and little more."""

import dataclasses
import pathlib
import sys

import ml_dtypes
import numpy as np
import pytest

from saxml.checkpoint.writer import CheckpointWriter
from saxml.models import registry
from tests.unit.engine import tiny
from tests.unit.server import load_peak

# 303 MB in bfloat16.
CONFIG = dataclasses.replace(
    tiny.GPTJ, num_layers=12, model_dim=1024, num_heads=16, num_kv_heads=16, head_dim=64,
    hidden_dim=4096,
)  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("stored", ["bfloat16", "float32"])
def test_no_second_copy_of_the_weights(tmp_path: pathlib.Path, stored: str) -> None:
    values = np.arange(3 * 1024 * 1024, dtype=np.float32) % 64
    values = values.astype(ml_dtypes.bfloat16).astype(stored)
    with CheckpointWriter(str(tmp_path)) as writer:
        for param in registry.parameters(CONFIG).values():
            for layer in range(max(param.layers, 1)):
                one = np.resize(values, param.shape)
                writer.array(param.pax_name.format(layer=layer), one.shape, stored).put(one)
        writer.commit()
    packed, grown = load_peak.measure(CONFIG, str(tmp_path))
    assert packed > 300e6
    assert packed < grown < 1.3 * packed
