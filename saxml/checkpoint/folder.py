"""Small files and arrays below one folder, local or gs://, through TensorStore's key-value stores.

folder = Folder("gs://bucket/models/lm")
folder.write("metadata/metadata", b"...")
tensorstore.open({"driver": "zarr", "kvstore": folder.spec("state/step")})
"""

import os
import pathlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorstore as ts

from saxml.common import errors

_GCS = re.compile(r"(?:gs://|/gcs/)([^/]+)(?:/(.*))?$")
# About half a minute in all.
_RETRIES = {"max_retries": 6, "initial_delay": "500ms", "max_delay": "8s"}
_BY_STATUS: dict[str, type[errors.SaxError]] = {
    "NOT_FOUND": errors.NotFoundError,
    "PERMISSION_DENIED": errors.PermissionDeniedError,
    "UNAUTHENTICATED": errors.PermissionDeniedError,
    "ABORTED": errors.UnavailableError,  # out of retries
    "UNAVAILABLE": errors.UnavailableError,
    "DEADLINE_EXCEEDED": errors.UnavailableError,
    "RESOURCE_EXHAUSTED": errors.ResourceExhaustedError,
}


class Folder:
    """One folder; `name` arguments are "/"-separated paths below it.

    A path on a bucket is "gs://bucket/prefix" or "/gcs/bucket/prefix". STORAGE_EMULATOR_HOST names
    another endpoint, as for Google's own clients. Failures are SaxErrors that name the file.
    """

    def __init__(self, path: str) -> None:
        if not path:
            raise errors.InvalidArgumentError("the path of a checkpoint is empty")
        gcs = _GCS.match(path)
        self._spec: dict[str, Any]
        if gcs:
            _use_emulator()
            prefix = (gcs.group(2) or "").strip("/")
            self.path = f"gs://{gcs.group(1)}" + (f"/{prefix}" if prefix else "")
            self._spec = {"driver": "gcs", "bucket": gcs.group(1), "gcs_request_retries": _RETRIES}
            self._prefix = prefix + "/" if prefix else ""
        elif "://" in path:
            raise errors.InvalidArgumentError(
                f"{path}: only local folders and gs:// are read and written"
            )
        else:
            self.path = os.path.abspath(path)
            self._spec = {"driver": "file"}
            self._prefix = self.path.rstrip("/") + "/"
        with translated(self.path):
            self._store = ts.KvStore.open(self.spec("")).result()

    def __repr__(self) -> str:
        return f"Folder({self.path!r})"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return bool(self._spec["driver"] == "file")

    def child(self, name: str) -> "Folder":
        """A folder below this one."""
        return Folder(f"{self.path}/{name}")

    def spec(self, name: str) -> dict[str, Any]:
        """TensorStore's key-value store of `name`, or of the folder itself when name is ""."""
        return {**self._spec, "path": self._prefix + (name + "/" if name else "")}

    def read(self, name: str) -> bytes | None:
        """The file's bytes; None when it is not there."""
        with translated(f"{self.path}/{name}"):
            result = self._store.read(name).result()
        return bytes(result.value) if result.state == "value" else None

    def write(self, name: str, data: bytes) -> None:
        """Writes or replaces one file."""
        with translated(f"{self.path}/{name}"):
            self._store.write(name, data).result()

    def list(self, prefix: str = "") -> list[str]:
        """Names of all files, however deep, that start with `prefix`."""
        whole = ts.KvStore.KeyRange(prefix, _after(prefix)) if prefix else ts.KvStore.KeyRange()
        with translated(f"{self.path}/{prefix}"):
            return sorted(key.decode() for key in self._store.list(whole).result())

    def delete(self, name: str) -> None:
        """Removes one file, which may be absent."""
        with translated(f"{self.path}/{name}"):
            self._store.write(name, None).result()

    def delete_array(self, name: str) -> None:
        """Removes all files below `name`, and on a local disk its then empty folders."""
        with translated(f"{self.path}/{name}"):
            prefix = name + "/"
            self._store.delete_range(ts.KvStore.KeyRange(prefix, _after(prefix))).result()
        if self.is_local:
            remove_empty_folders(pathlib.Path(self.path, name))


def remove_empty_folders(root: pathlib.Path) -> None:
    """Removes `root` and the folders below it as far as they hold no file."""
    for folder, _, _ in os.walk(root, topdown=False):
        if not os.listdir(folder):
            os.rmdir(folder)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns TensorStore's exceptions into SaxErrors that name `what`."""
    try:
        yield
    except errors.SaxError:
        raise
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        # TensorStore adds its whole specification and the server's answer, in brackets.
        text = re.sub(r" \[[a-z_]+='.*", "", str(error), flags=re.DOTALL)
        for status, kind in _BY_STATUS.items():
            if status in text:
                raise kind(f"{what}: {text}") from error
        raise errors.FailedPreconditionError(f"{what}: {text}") from error


def _after(prefix: str) -> str:
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _use_emulator() -> None:
    host = os.environ.get("STORAGE_EMULATOR_HOST")
    if host:
        os.environ["TENSORSTORE_GCS_HTTP_URL"] = host if "://" in host else "http://" + host
        # An emulator asks for no credentials; an empty token stops the search for real ones.
        os.environ.setdefault("GOOGLE_AUTH_TOKEN_FOR_TESTING", "")
