"""Asking one of a model's servers to write the model out."""

from collections.abc import Sequence

from saxml.client.model_client import ModelClient
from saxml.client.retry import DEFAULT_TIMEOUT_S
from saxml.client.rpc import EXPORT, SAVE
from saxml.common.errors import InvalidArgumentError
from saxml.proto import modelet_pb2

SEED_MODES = {
    "stateless": modelet_pb2.ExportRequest.RngSeedMode.STATELESS,
    "stateful": modelet_pb2.ExportRequest.RngSeedMode.STATEFUL,
    "fixed": modelet_pb2.ExportRequest.RngSeedMode.FIXED,
}


def save(client: ModelClient, checkpoint_path: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
    """Writes a model's parameters as a checkpoint, to a path its server can reach."""
    request = modelet_pb2.SaveRequest(model_key=client.model.full, checkpoint_path=checkpoint_path)
    client.call(SAVE, request, timeout_s)


def export(
    client: ModelClient,
    methods: Sequence[str],
    path: str,
    *,
    rng_seed_mode: str = "stateful",
    signatures: Sequence[str] = (),
    enable_gpu_multi_device_execution: bool = False,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> None:
    """Writes methods of a model as a TF SavedModel, to a path its server can reach."""
    if rng_seed_mode not in SEED_MODES:
        raise InvalidArgumentError(
            f"rng_seed_mode {rng_seed_mode!r} is not one of {', '.join(sorted(SEED_MODES))}"
        )
    if signatures and len(signatures) != len(methods):
        raise InvalidArgumentError(
            f"{len(signatures)} signatures for {len(methods)} methods; give one for each"
        )
    request = modelet_pb2.ExportRequest(
        model_key=client.model.full,
        method_names=methods,
        export_path=path,
        serialized_model_format=modelet_pb2.ExportRequest.SerializedModelFormat.TF_SAVEDMODEL_V0,
        rng_seed_mode=SEED_MODES[rng_seed_mode],
        signatures=signatures,
        enable_gpu_multi_device_execution=enable_gpu_multi_device_execution,
    )
    client.call(EXPORT, request, timeout_s)
