"""Compiled programs are kept on disk, so that a server which starts again compiles next to nothing.

JAX looks a program up by its text, the device and its own version; the CPU kernels are called by
name, so programs that call them are kept like others.
"""

import os
import pathlib

import jax

from saxml.common import errors

# A step of a model takes some 100 kB. Those that were not used for longest go first.
MAX_BYTES = 1 << 30
# What compiles faster is not kept.
_LEAST_S = 0.1
_NO_BOUND = -1


def default_folder() -> str:
    """Of the user who runs this."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return str(pathlib.Path(base) / "saxml" / "jax")


def use(folder: str) -> None:
    """Keeps what this process compiles from now on in a folder, or under a gs:// path; several
    processes may share it. A folder is kept below MAX_BYTES, unless JAX's own flag says otherwise.

    Raises FailedPreconditionError for a folder that cannot be made.
    """
    if not folder.startswith("gs://"):
        try:
            pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise errors.FailedPreconditionError(
                f"--jax_cache_dir {folder} cannot be made ({e.strerror}); name another, or ''"
            ) from None
        if jax.config.values["jax_compilation_cache_max_size"] == _NO_BOUND:
            jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_S)
