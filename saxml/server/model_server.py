"""The model server: joins a cell, loads what the admin server assigns to it, decodes.

model_server --sax_cell=/sax/test --port=10001 --platform_chip=cpu --platform_topology=1
"""

import json
import os
import pathlib
import secrets
import signal
import threading
from collections.abc import Mapping, Sequence
from concurrent import futures

import grpc
import jax
from absl import app, flags, logging
from grpc_reflection.v1alpha import reflection

from saxml.common import chips, errors, log, names, net
from saxml.common.clock import SystemClock
from saxml.proto import admin_pb2, lm_pb2, lm_pb2_grpc, modelet_pb2, modelet_pb2_grpc
from saxml.server import configs, registry
from saxml.server.join import Joiner
from saxml.server.lifecycle import ModelTable
from saxml.server.lm_service import LmService
from saxml.server.loading import LoadOptions
from saxml.server.modelet_service import ModeletService
from saxml.server.servable_model import LmServable
from saxml.storage.cell import CellStore, sax_root

_SAX_CELL = flags.DEFINE_string("sax_cell", "", "Cell to join, /sax/<cell>; empty: none.")
_SAX_ROOT = flags.DEFINE_string(
    "sax_root", None, "Folder or gs:// path of the cells' root; default: $SAX_ROOT."
)
_PORT = flags.DEFINE_integer("port", None, "gRPC port.", lower_bound=0, upper_bound=65535)
_CHIP = flags.DEFINE_string(
    "platform_chip", "cpu", "Chip type told to the admin server, such as tpuv5e or cpu."
)
_TOPOLOGY = flags.DEFINE_string(
    "platform_topology", "1", "Chip topology told to the admin server, such as 2x2."
)
_TAGS = flags.DEFINE_list("tags", [], "Tags of this server, told to the admin server.")
_FILTER = flags.DEFINE_string(
    "model_filter_regex", None, "Serve only model paths that match this as a whole."
)
_STRICT_MESH = flags.DEFINE_bool(
    "strict_mesh",
    False,
    "Refuse a model whose ICI_MESH_SHAPE needs more devices than there are; else the mesh shrinks.",
)
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic_rng", False, "Sample with the same seeds after each start."
)
_JAX_CACHE = flags.DEFINE_string(
    "jax_cache_dir",
    None,
    "Where compiled programs are kept; empty: nowhere. Default: $XDG_CACHE_HOME/saxml/jax.",
)
_PROFILER_PORT = flags.DEFINE_integer("jax_profiler_port", None, "Port of JAX's profiler server.")
_MODELS = flags.DEFINE_list(
    "models", [], "Model paths to load at start, beside what the admin server assigns."
)
_MODEL_KEYS = flags.DEFINE_list("model_keys", [], "Their keys, /sax/<cell>/<model>.")
_CHECKPOINTS = flags.DEFINE_list("checkpoints", [], "Their checkpoints.")
_OVERRIDES = flags.DEFINE_string(
    "model_config_overrides", None, "Their overrides: a JSON list of objects."
)

# Handlers block while the engine decodes, so there are more threads than requests that models
# admit.
_MAX_THREADS = 1024
_STOP_GRACE_S = 5.0


def _use_compile_cache() -> None:
    path = _JAX_CACHE.value
    if path is None:
        base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        path = str(pathlib.Path(base) / "saxml" / "jax")
    if not path:
        return
    if not path.startswith("gs://"):
        try:
            pathlib.Path(path).mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise errors.FailedPreconditionError(
                f"--jax_cache_dir {path} cannot be made ({e.strerror}); name another, or ''"
            ) from None
    jax.config.update("jax_compilation_cache_dir", path)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _static_models() -> list[tuple[str, str, str, Mapping[str, str]]]:
    keys, paths, checkpoints = _MODEL_KEYS.value, _MODELS.value, _CHECKPOINTS.value
    if not len(keys) == len(paths) == len(checkpoints):
        raise errors.InvalidArgumentError(
            f"--models, --model_keys and --checkpoints have {len(paths)}, {len(keys)} and"
            f" {len(checkpoints)} entries; they must have the same number"
        )
    overrides: list[dict[str, object]] = [{}] * len(keys)
    if _OVERRIDES.value is not None:
        try:
            overrides = json.loads(_OVERRIDES.value)
        except ValueError as e:
            raise errors.InvalidArgumentError(
                f"--model_config_overrides is not JSON: {e}"
            ) from None
        if not isinstance(overrides, list) or len(overrides) != len(keys):
            raise errors.InvalidArgumentError(
                f"--model_config_overrides must be a list of {len(keys)} objects"
            )
    for key in keys:
        names.parse_model(key)
    texts = [{k: json.dumps(v) for k, v in one.items()} for one in overrides]
    return list(zip(keys, paths, checkpoints, texts, strict=True))


def _serve() -> None:
    if _PORT.value is None:
        raise errors.InvalidArgumentError("--port is missing")
    cell = None
    if _SAX_CELL.value:
        cell = CellStore(sax_root(_SAX_ROOT.value), names.parse_cell(_SAX_CELL.value))
        cell.check_exists()
    description = admin_pb2.ModelServer(
        chip_type=chips.parse_chip(_CHIP.value),
        chip_topology=chips.parse_topology(_TOPOLOGY.value),
        tags=_TAGS.value,
    )
    configs.import_all()
    description.servable_model_paths.extend(registry.model_paths(_FILTER.value))
    static = _static_models()
    _use_compile_cache()
    if _PROFILER_PORT.value is not None:
        jax.profiler.start_server(_PROFILER_PORT.value)

    options = LoadOptions(
        strict_mesh=_STRICT_MESH.value, seed=1234 if _DETERMINISTIC.value else secrets.randbits(31)
    )
    clock = SystemClock()

    def build(key: str, path: str, checkpoint: str, overrides: Mapping[str, str]) -> LmServable:
        if path not in description.servable_model_paths:
            registry.resolve(path)
            raise errors.InvalidArgumentError(
                f"model path {path!r} is not served here (--model_filter_regex {_FILTER.value!r})"
            )
        params = registry.resolve(path)(overrides)
        return LmServable.load(key, params, checkpoint, options, clock)

    models = ModelTable(build)
    server = grpc.server(
        futures.ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="rpc"),
        interceptors=[errors.StatusInterceptor()],
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 << 20)],
    )
    modelet_pb2_grpc.add_ModeletServicer_to_server(ModeletService(models), server)
    lm_pb2_grpc.add_LMServiceServicer_to_server(LmService(models), server)
    services = [
        d.services_by_name[n].full_name
        for d, n in ((modelet_pb2.DESCRIPTOR, "Modelet"), (lm_pb2.DESCRIPTOR, "LMService"))
    ]
    reflection.enable_server_reflection([*services, reflection.SERVICE_NAME], server)
    port = _listen(server, _PORT.value)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.start()
    address = net.join_host_port(net.local_address(), port)
    logging.info(
        "Model server at %s: %d devices (%s), %d model paths",
        address,
        len(jax.devices()),
        jax.default_backend(),
        len(description.servable_model_paths),
    )
    joiner = None
    if cell is not None:
        joiner = Joiner(
            cell, admin_pb2.JoinRequest(address=address, model_server=description), clock
        )
        joiner.start()
    for key, path, checkpoint, overrides in static:
        models.load(key, path, checkpoint, overrides, {})
    stop.wait()
    logging.info("Stopping")
    if joiner is not None:
        joiner.stop()
    server.stop(_STOP_GRACE_S).wait()
    models.close()


def _listen(server: grpc.Server, port: int) -> int:
    try:
        bound = server.add_insecure_port(f"[::]:{port}")
    except RuntimeError:
        bound = 0
    if not bound:
        raise errors.FailedPreconditionError(
            f"port {port} is in use; stop what listens there or choose another --port"
        )
    return bound


def main(argv: Sequence[str]) -> None:
    """Runs until SIGTERM or SIGINT."""
    if len(argv) > 1:
        log.fatal(f"Unexpected argument {argv[1]!r}: everything is a flag, see --help", 1)
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    log.setup()
    try:
        _serve()
    except errors.SaxError as e:
        log.fatal(f"Failed to start the model server: {e}")


if __name__ == "__main__":
    jax.config.config_with_absl()
    app.run(main)
