"""The plain data that the assigner decides upon: servers, models, and the moves it comes to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from saxml.admin import memory
from saxml.admin.memory import Need


@dataclass(frozen=True, slots=True)
class Held:
    """A model on a server that was told to load it and not to unload it."""

    # It serves, and its server answers.
    ready: bool = True
    # It was loaded from a former checkpoint.
    stale: bool = False
    # It was there before us, from a checkpoint that we do not know.
    unsure: bool = False
    # An UpdateLoaded is under way, or waits for its next try.
    updating: bool = False


@dataclass(frozen=True, slots=True)
class Server:
    """A joined model server."""

    address: str
    # Model paths that it offers to load.
    paths: frozenset[str]
    held: Mapping[str, Held] = field(default_factory=dict)
    # Models that it was told to unload: their memory is free for what is loaded after them.
    leaving: frozenset[str] = frozenset()
    # Models that it could not unload: their memory is not.
    stuck: frozenset[str] = frozenset()
    # Why it takes no further models, or "".
    closed: str = ""
    chip: int = 0
    topology: int = 0
    tags: frozenset[str] = frozenset()

    @property
    def host(self) -> str:
        """Servers with the same one stop together."""
        return self.address.rpartition(":")[0]


@dataclass(frozen=True, slots=True)
class Model:
    """A published model."""

    id: str
    path: str
    replicas: int
    need: Need = field(default_factory=Need)
    # Tags that a server must have.
    tags: frozenset[str] = frozenset()
    # Why it may not be placed anywhere now, or "".
    on_hold: str = ""
    # Address -> why it may not be placed there now.
    barred: Mapping[str, str] = field(default_factory=dict)
    # Address -> how often in a row it could not be loaded there; other servers are tried first.
    failures: Mapping[str, int] = field(default_factory=dict)
    # The last try to load it has failed.
    failing: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """A model to load onto, to update on, or to unload from, the server at `address`."""

    address: str
    model: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, unloads first, and why some replicas have no place."""

    unloads: tuple[Move, ...] = ()
    loads: tuple[Move, ...] = ()
    # Loads of a new checkpoint that clients shall not see before they are ready.
    surges: tuple[Move, ...] = ()
    # Replicas to be given the checkpoint where they are.
    updates: tuple[Move, ...] = ()
    unplaced: Mapping[str, str] = field(default_factory=dict)
    # Models to be looked at again whatever changes: they lack replicas, or are being updated.
    unsettled: frozenset[str] = field(default=frozenset(), compare=False)


def too_small(server: Server, model: Model) -> str:
    """Why such a server can never take the model, even if it holds nothing else, or ""."""
    if not model.need.known:
        return ""
    chips = memory.chips_in(server.topology)
    need, has = model.need.per_chip(chips), memory.capacity(server.chip)
    if need is None:
        count = f"{chips} chip{'s' * (chips > 1)}"
        return f"needs at least {model.need.least_chips} chips; {server.address} has {count}"
    if need > has:
        needed = memory.gigabytes(need)
        return f"needs {needed} a chip; {server.address} has {memory.gigabytes(has)}"
    return ""
