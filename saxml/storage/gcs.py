"""A bucket of Google Cloud Storage, or of an emulator named by STORAGE_EMULATOR_HOST.

Only conditional *uploads* are relied on. Calls are retried here rather than by the client library,
because the outcome of an upload whose reply was lost must be read back, not guessed.
"""

import functools
import http
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import google.api_core.exceptions as api
import google.auth.exceptions
import requests.exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from saxml.common.errors import (
    FailedPreconditionError,
    PermissionDeniedError,
    SaxError,
    UnavailableError,
)
from saxml.storage.base import ConflictError, Stored, check_name, poll

# An object under <dir>/ with this name says that the directory exists.
DIR_MARKER = "METADATA"
ATTEMPT_TIMEOUT_S = 10.0
TOTAL_TIMEOUT_S = 30.0
# How often a watched object is looked at in the long run: 43,200 times a day, about 2 US cents.
_LOOK_S = 2.0

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")
_TRANSIENT = (
    api.TooManyRequests,
    api.InternalServerError,
    api.BadGateway,
    api.ServiceUnavailable,
    api.GatewayTimeout,
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    requests.exceptions.ChunkedEncodingError,
    google.auth.exceptions.TransportError,
)


class GcsStore:
    """A Store below gs://bucket/prefix."""

    # 172,800 reads a day, about 7 US cents.
    poll_s = 0.5

    def __init__(
        self, bucket: str, prefix: str = "", *, total_timeout_s: float = TOTAL_TIMEOUT_S
    ) -> None:
        self.root = f"/gcs/{bucket}" + (f"/{prefix}" if prefix else "")
        self._name = bucket
        self._prefix = prefix + "/" if prefix else ""
        self._total_timeout_s = total_timeout_s
        self._attempt_timeout_s = min(ATTEMPT_TIMEOUT_S, total_timeout_s)
        self._bucket_seen = False

    def read(self, name: str) -> Stored | None:
        """The object, or None where there is none."""
        check_name(name)

        def attempt() -> Stored | None:
            blob = self._bucket.blob(self._prefix + name)
            try:
                # The generation comes in the headers of the same reply, so it belongs to the bytes.
                data = blob.download_as_bytes(timeout=self._attempt_timeout_s, retry=None)
            except api.NotFound:
                self._check_bucket()
                return None
            return Stored(data, int(blob.generation))

        return self._retried("read", name, attempt)

    def write(self, name: str, data: bytes, *, if_generation: int | None = None) -> int:
        """Replaces the object; see Store.write."""
        check_name(name)
        attempts = 0

        def attempt() -> int:
            nonlocal attempts
            attempts += 1
            blob = self._bucket.blob(self._prefix + name)
            try:
                blob.upload_from_string(
                    data,
                    content_type="application/octet-stream",
                    if_generation_match=if_generation,
                    timeout=self._attempt_timeout_s,
                    retry=None,
                )
            except api.PreconditionFailed as error:
                if attempts > 1 and (now := self.read(name)) and now.data == data:
                    return now.generation  # an earlier attempt had arrived, its reply had not
                raise ConflictError(
                    f"{self.root}/{name} is not at generation {if_generation}: "
                    "another process has written it"
                ) from error
            return int(blob.generation)

        return self._retried("write", name, attempt)

    def watch(
        self,
        name: str,
        generation: int,
        timeout_s: float,
        *,
        stop: threading.Event | None = None,
    ) -> int:
        """Asks for the object's metadata until they change; see Store.watch."""
        check_name(name)

        def attempt() -> int:
            blob = self._bucket.blob(self._prefix + name)
            try:
                blob.reload(timeout=self._attempt_timeout_s, retry=None)
            except api.NotFound:
                self._check_bucket()
                return 0
            return int(blob.generation)

        def look() -> int:
            return self._retried("watch", name, attempt)

        return poll(look, generation, timeout_s, stop, first_s=self.poll_s, longest_s=_LOOK_S)

    def list(self, prefix: str) -> list[str]:
        """Names directly below a directory, without the marker; see Store.list."""
        below = self._prefix + (prefix.strip("/") + "/" if prefix.strip("/") else "")

        def attempt() -> list[str]:
            found = self._client.list_blobs(
                self._name, prefix=below, delimiter="/", timeout=self._attempt_timeout_s, retry=None
            )
            names = {blob.name.removeprefix(below) for blob in found}
            names.update(p.removeprefix(below) for p in found.prefixes)
            return sorted(names - {"", DIR_MARKER})

        return self._retried("list", prefix, attempt)

    def exists_dir(self, name: str) -> bool:
        """Whether <name>/METADATA is there; the root always is."""
        return not name.strip("/") or self.read(f"{name.strip('/')}/{DIR_MARKER}") is not None

    def make_dir(self, name: str) -> None:
        """Writes <name>/METADATA unless it is there."""
        if not self.exists_dir(name):
            try:
                self.write(f"{name.strip('/')}/{DIR_MARKER}", b"", if_generation=0)
            except ConflictError:
                return  # made by another process meanwhile

    def remove_dir(self, name: str) -> None:
        """Removes all objects below a directory, the marker last: until then it exists."""
        check_name(name)
        below = f"{self._prefix}{name.strip('/')}/"

        def attempt() -> None:
            found = self._client.list_blobs(
                self._name, prefix=below, timeout=self._attempt_timeout_s, retry=None
            )
            marker = below + DIR_MARKER
            for blob in sorted(found, key=lambda b: (b.name == marker, b.name)):
                try:
                    blob.delete(timeout=self._attempt_timeout_s, retry=None)
                except api.NotFound:
                    continue  # by an earlier attempt, or another process

        self._retried("remove", name, attempt)

    @functools.cached_property
    def _client(self) -> storage.Client:
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            anonymous = AnonymousCredentials()  # type: ignore[no-untyped-call]
            return storage.Client(project="sax", credentials=anonymous)
        try:
            return storage.Client(project=None)
        except google.auth.exceptions.DefaultCredentialsError as error:
            raise FailedPreconditionError(_no_credentials(self._name)) from error

    @functools.cached_property
    def _bucket(self) -> storage.Bucket:
        return self._client.bucket(self._name)

    def _check_bucket(self) -> None:
        """Tells a missing object from a missing bucket; asks only until it has seen the bucket."""
        if self._bucket_seen:
            return
        try:
            next(iter(self._client.list_blobs(self._name, max_results=1, retry=None)), None)
        except api.NotFound as error:
            raise FailedPreconditionError(
                f"there is no bucket gs://{self._name}; create it with "
                f"`gcloud storage buckets create gs://{self._name}`"
            ) from error
        self._bucket_seen = True

    def _retried(self, what: str, name: str, attempt: Callable[[], _T]) -> _T:
        deadline = time.monotonic() + self._total_timeout_s
        pause = 0.1
        while True:
            try:
                return attempt()
            except SaxError:
                raise
            except google.auth.exceptions.DefaultCredentialsError as error:
                raise FailedPreconditionError(_no_credentials(self._name)) from error
            except google.auth.exceptions.RefreshError as error:
                raise FailedPreconditionError(
                    f"the Google Cloud credentials are no longer good ({error}); run "
                    "`gcloud auth application-default login` again"
                ) from error
            except (api.Forbidden, api.Unauthorized) as error:
                raise PermissionDeniedError(
                    f"cannot {what} gs://{self._name}/{self._prefix}{name}: {error.message}"
                ) from error
            except _TRANSIENT as error:
                wait = pause * random.uniform(0.5, 1.5)
                if time.monotonic() + wait > deadline:
                    raise UnavailableError(
                        f"cannot {what} gs://{self._name}/{self._prefix}{name}: {_brief(error)}"
                    ) from error
                _logger.warning(
                    "Retrying to %s gs://%s/%s%s: %s",
                    what,
                    self._name,
                    self._prefix,
                    name,
                    _brief(error),
                )
                time.sleep(wait)
                pause = min(pause * 2, 5.0)
            except api.GoogleAPICallError as error:
                missing = error.code == http.HTTPStatus.NOT_FOUND
                raise FailedPreconditionError(
                    f"cannot {what} gs://{self._name}/{self._prefix}{name}: "
                    + ("there is no such bucket" if missing else _brief(error))
                ) from error


def _brief(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= 300 else text[:300] + "..."


def _no_credentials(bucket: str) -> str:
    return (
        f"no Google Cloud credentials to open gs://{bucket}: run `gcloud auth application-default "
        "login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file, or STORAGE_EMULATOR_HOST for "
        "an emulator"
    )
