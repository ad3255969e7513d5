"""Tensors of a Hugging Face folder that has only pytorch_model.bin; needs torch to be installed.

Nothing is unpickled but tensors (weights_only), and the data stays in the file (mmap).
"""

import os
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from saxml.common import errors
from tools.convert.mapping import Array, Shape
from tools.convert.safetensors_reader import read_index

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
_DTYPES = ("float32", "bfloat16", "float16")


class TorchFolder:
    """The tensors of a folder. Raises FailedPreconditionError when torch is not installed."""

    def __init__(self, folder: str) -> None:
        try:
            import torch
        except ImportError as error:
            raise errors.FailedPreconditionError(
                f"{folder} has {SINGLE} but no safetensors, and PyTorch is not installed; install "
                "torch, or fetch the model's *.safetensors files"
            ) from error
        self.where = folder
        self._torch: Any = torch
        index = os.path.join(folder, INDEX)
        files = sorted(set(read_index(index).values())) if os.path.exists(index) else [SINGLE]
        self._tensors: dict[str, Any] = {}
        for name in files:
            path = os.path.join(folder, name)
            try:
                self._tensors |= torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            except Exception as error:
                raise errors.InvalidArgumentError(
                    f"{path} cannot be read as tensors: {error}"
                ) from error

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of each tensor."""
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def dtype(self, name: str) -> str:
        """Name of the tensor's type."""
        dtype = str(self._tensors[name].dtype).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise errors.UnimplementedError(
                f"{self.where}: tensor {name} is {dtype}; {', '.join(_DTYPES)} are converted"
            )
        return dtype

    def get(self, name: str) -> Array:
        """A view of the memory map."""
        tensor = self._tensors[name].detach()
        if self.dtype(name) == "bfloat16":
            raw: Array = tensor.view(self._torch.int16).numpy()
            return raw.view(ml_dtypes.bfloat16)
        return np.asarray(tensor.numpy())

    def release(self, name: str) -> None:
        """Drops the tensor; pages of the file are the system's to take back."""
        del name
