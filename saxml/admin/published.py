"""A published model as the admin server keeps it while it runs."""

import math

from saxml.admin.backoff import Failures
from saxml.admin.bell import Bell
from saxml.admin.memory import Need
from saxml.admin.watchable import WatchedSet
from saxml.common import names
from saxml.proto import admin_pb2


class Published:
    """What was published, who watches it, and what went wrong with it."""

    def __init__(
        self, proto: admin_pb2.Model, *, first_seqno: int = 0, held_until: float = -math.inf
    ) -> None:
        self.id = names.parse_model(proto.model_id)
        # The addresses that clients are told.
        self.watched = WatchedSet(first_seqno)
        # Rung when `watched`, the number of loaded replicas or `closed` changes.
        self.bell = Bell()
        self.closed = False
        self.failures = Failures()
        # After a restart: when to stop waiting for servers that have it already.
        self.held_until = held_until
        self.replace(proto)

    def replace(self, proto: admin_pb2.Model) -> None:
        """Takes over what Update has changed."""
        # What state.proto holds; replaced as a whole.
        self.proto = proto
        self.need = Need.of_overrides(proto.overrides)
        tags = proto.overrides.get("constraints", "").strip('"').split(",")
        self.tags = frozenset(tag.strip() for tag in tags if tag.strip())
        # To be compared with what a server was told.
        self.acls = proto.acls.SerializeToString(deterministic=True)
        self.failures.clear()
        # Why replicas have no place, or ""; what was said of the former definition is void.
        self.unplaced = ""

    def close(self) -> None:
        """Marks it as unpublished and tells everybody who waits."""
        self.closed = True
        self.bell.ring()
