"""Models of one server: loading, loaded, failed. One lock for the table, one for the work of
loading."""

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping

from absl import logging

from saxml.common import errors
from saxml.proto import common_pb2, modelet_pb2
from saxml.server.servable import Servable

# How long the requests of a model that is unloaded may still take.
UNLOAD_GRACE_S = 30.0

# Builds a servable: (key, model path, checkpoint path, overrides).
Build = Callable[[str, str, str, Mapping[str, str]], Servable]


@dataclasses.dataclass(slots=True)
class _Entry:
    model_path: str
    checkpoint_path: str
    overrides: dict[str, str]
    acls: dict[str, str]
    status: common_pb2.ModelStatus
    failure: str = ""
    servable: Servable | None = None

    @property
    def failed(self) -> str | None:
        """Why it does not serve and will not: its load failed, or its engine broke."""
        if self.servable is not None and self.servable.failure is not None:
            return str(self.servable.failure)
        return self.failure if self.status == common_pb2.FAILED else None


class ModelTable:
    """What this server serves, by model key. Loads run one at a time; lookups never wait for
    them."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()
        self._work = threading.Lock()
        self.draining = False

    def load(
        self,
        key: str,
        model_path: str,
        checkpoint_path: str,
        overrides: Mapping[str, str],
        acls: Mapping[str, str],
    ) -> None:
        """Loads a model and returns when it serves; a key that is loaded is left as it is, one that
        failed is tried again."""
        entry = _Entry(model_path, checkpoint_path, dict(overrides), dict(acls), common_pb2.LOADING)
        with self._lock:
            if self.draining:
                raise errors.UnavailableError("this model server is draining")
            known = self._entries.get(key)
            if known is not None and known.failed is None:
                return
            self._entries[key] = entry
        if known is not None and known.servable is not None:
            known.servable.unload()
        self._fill(key, entry)

    def update(self, key: str, checkpoint_path: str, acls: Mapping[str, str]) -> None:
        """Takes new ACLs; loads again only if the checkpoint is another one (empty: keep it)."""
        with self._lock:
            entry = self._require(key)
            entry.acls = dict(acls)
            if not checkpoint_path or checkpoint_path == entry.checkpoint_path:
                return
            fresh = dataclasses.replace(
                entry, checkpoint_path=checkpoint_path, status=common_pb2.LOADING, servable=None
            )
            self._entries[key] = fresh
        if entry.servable is not None:
            entry.servable.wait_until_idle(UNLOAD_GRACE_S)
            entry.servable.unload()
        self._fill(key, fresh)

    def unload(self, key: str) -> None:
        """Stops serving a model, at once for new requests; those in flight have UNLOAD_GRACE_S to
        end."""
        with self._lock:
            entry = self._require(key)
            if entry.status == common_pb2.LOADING:
                raise errors.UnavailableError(f"model {key} is still loading; unload it later")
            entry.status = common_pb2.UNLOADING
        if entry.servable is not None:
            entry.servable.wait_until_idle(UNLOAD_GRACE_S)
            entry.servable.unload()
        with self._lock:
            if self._entries.get(key) is entry:
                del self._entries[key]
        logging.info("unloaded %s", key)

    def start_draining(self) -> None:
        """From now on no request and no load is taken; those in flight go on."""
        with self._lock:
            self.draining = True

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Whether all requests have ended, at the latest after timeout_s."""
        with self._lock:
            servables = [e.servable for e in self._entries.values() if e.servable is not None]
        end = time.monotonic() + timeout_s
        return all(s.wait_until_idle(max(0.0, end - time.monotonic())) for s in servables)

    def get(self, key: str) -> Servable:
        """The servable of a loaded model.

        Raises NotFoundError when it is loading, unknown or failed: clients try another server, or
        wait. UnavailableError when this server drains.
        """
        with self._lock:
            if self.draining:
                raise errors.UnavailableError("this model server is draining")
            entry = self._entries.get(key)
            if entry is not None and entry.status == common_pb2.LOADED:
                assert entry.servable is not None
                return entry.servable
            if entry is not None and entry.status == common_pb2.FAILED:
                raise errors.NotFoundError(f"model {key} could not be loaded here: {entry.failure}")
            loaded = [k for k, e in self._entries.items() if e.status == common_pb2.LOADED]
        raise errors.NotFoundError(
            f"model {key!r} is still loading or already unloaded."
            f" Available models: {', '.join(sorted(loaded)) or 'none'}"
        )

    def loaded(self) -> list[tuple[str, Servable]]:
        """Each model that serves, or did until its engine broke, by key."""
        with self._lock:
            return [
                (key, entry.servable)
                for key, entry in sorted(self._entries.items())
                if entry.servable is not None and entry.status == common_pb2.LOADED
            ]

    def status(
        self, *, failure_reasons: bool, method_stats: bool
    ) -> list[modelet_pb2.GetStatusResponse.ModelWithStatus]:
        """Status of each model; one whose engine broke counts as failed, one whose step stands
        still as loading, with the reason: clients are sent elsewhere until it goes on."""
        with self._lock:
            entries, draining = sorted(self._entries.items()), self.draining
        listed = []
        for key, entry in entries:
            status, reason = entry.status, entry.failed
            if reason is not None:
                status = common_pb2.FAILED
            elif draining and status == common_pb2.LOADED:
                status = common_pb2.UNLOADING
            elif status == common_pb2.LOADED and entry.servable and entry.servable.stall:
                status, reason = common_pb2.LOADING, str(entry.servable.stall)
            one = modelet_pb2.GetStatusResponse.ModelWithStatus(model_key=key, model_status=status)
            if failure_reasons and reason is not None:
                one.failure_reason = reason
            if method_stats and entry.servable is not None:
                one.method_stats.extend(s.to_proto() for s in entry.servable.stats.values())
            listed.append(one)
        return listed

    def close(self) -> None:
        """Stops every engine."""
        with self._lock:
            entries, self._entries = list(self._entries.values()), {}
        for entry in entries:
            if entry.servable is not None:
                entry.servable.unload()

    def _require(self, key: str) -> _Entry:
        if key not in self._entries:
            raise errors.NotFoundError(f"model {key!r} is not loaded on this server")
        return self._entries[key]

    def _fill(self, key: str, entry: _Entry) -> None:
        logging.info(
            "loading %s: %s from %s, overrides %s",
            key,
            entry.model_path,
            entry.checkpoint_path,
            entry.overrides,
        )
        try:
            with self._work:
                entry.servable = self._build(
                    key, entry.model_path, entry.checkpoint_path, entry.overrides
                )
        except Exception as e:
            known = isinstance(e, errors.SaxError)
            logging.log(
                logging.ERROR, "loading %s failed: %s", key, e, exc_info=None if known else e
            )
            with self._lock:
                entry.status, entry.failure = common_pb2.FAILED, str(e)
            if known:
                raise
            raise errors.InternalError(f"Loading error: {e}") from e
        with self._lock:
            entry.status = common_pb2.LOADED
