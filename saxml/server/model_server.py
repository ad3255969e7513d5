"""The model server: joins a cell, loads what the admin server assigns to it, decodes.

model_server --sax_cell=/sax/test --port=10001 --platform_chip=cpu --platform_topology=1
"""

import json
import os
import secrets
import signal
import threading
from collections.abc import Mapping, Sequence

import jax
from absl import app, flags, logging

from saxml.common import chips, errors, log, names
from saxml.common.clock import SystemClock
from saxml.proto import admin_pb2
from saxml.server import compile_cache, configs, registry
from saxml.server.lifecycle import ModelTable
from saxml.server.loading import LoadOptions
from saxml.server.servable_model import LmServable
from saxml.server.serving import ModelServer
from saxml.storage.cell import CellStore, sax_root

_SAX_CELL = flags.DEFINE_string("sax_cell", "", "Cell to join, /sax/<cell>; empty: none.")
_SAX_ROOT = flags.DEFINE_string(
    "sax_root", None, "Folder or gs:// path of the cells' root; default: $SAX_ROOT."
)
_PORT = flags.DEFINE_integer("port", None, "gRPC port.", lower_bound=0, upper_bound=65535)
_HTTP_PORT = flags.DEFINE_integer(
    "http_port",
    0,
    "Port of /healthz, /readyz and /metrics; 0 for none.",
    lower_bound=0,
    upper_bound=65535,
)
_HTTP_HOST = flags.DEFINE_string(
    "http_host", "localhost", "Address that --http_port is bound on; empty: all."
)
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
_CPU_KERNELS = flags.DEFINE_enum(
    "cpu_kernels",
    "auto",
    ["auto", "off", "portable", "avx2", "avx512", "avx512_bf16"],
    "Kernels for models on a CPU: the best that it has, none (plain JAX), or those of a level.",
)
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic_rng", False, "Draw the same seeds, of samples and random weights, each start."
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
_DRAIN = flags.DEFINE_float(
    "drain_timeout",
    30.0,
    "Seconds that requests in flight are given to end after SIGTERM or SIGINT.",
    lower_bound=0.0,
)
_OVERRIDES = flags.DEFINE_string(
    "model_config_overrides", None, "Their overrides: a JSON list of objects."
)

_FIXED_SEED = 1234
# Exit codes of a process that a signal ended, as shells count them.
_KILLED = 128


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
    folder = compile_cache.default_folder() if _JAX_CACHE.value is None else _JAX_CACHE.value
    if folder:
        compile_cache.use(folder)
    if _PROFILER_PORT.value is not None:
        jax.profiler.start_server(_PROFILER_PORT.value)

    options = LoadOptions(
        strict_mesh=_STRICT_MESH.value,
        cpu_kernels=_CPU_KERNELS.value,
        seed=_FIXED_SEED if _DETERMINISTIC.value else secrets.randbits(31),
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
    end = _End()
    server = ModelServer(
        models,
        port=_PORT.value,
        cell=cell,
        description=description,
        clock=clock,
        http_host=_HTTP_HOST.value,
        http_port=_HTTP_PORT.value,
        on_failure=end.fail,
    )
    end.catch_signals()
    server.start()
    logging.info(
        "Model server at %s: %d devices (%s), %d model paths",
        server.address,
        len(jax.devices()),
        jax.default_backend(),
        len(description.servable_model_paths),
    )
    for key, path, checkpoint, overrides in static:
        models.load(key, path, checkpoint, overrides, {})
    end.wait()
    logging.info("Draining for up to %g s; a second signal ends this at once", _DRAIN.value)
    idle = server.drain(_DRAIN.value)
    logging.info("Stopping%s", "" if idle else " with requests in flight")
    server.stop()
    if end.failure:
        log.fatal(f"The model server cannot go on and ends, to be started anew: {end.failure}")


class _End:
    """What ends the process: a signal, or a model that broke."""

    def __init__(self) -> None:
        self.failure = ""
        self._event = threading.Event()
        self._signalled = False

    def catch_signals(self) -> None:
        """The first SIGTERM or SIGINT ends the wait, the second ends the process."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def fail(self, reason: str) -> None:
        """Ends the wait, with an exit status that is not 0."""
        self.failure = reason
        self._event.set()

    def wait(self) -> None:
        """Returns when the process is to end."""
        self._event.wait()

    def _handle(self, number: int, frame: object) -> None:
        if self._signalled:
            os._exit(_KILLED + number)
        self._signalled = True
        self._event.set()


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
