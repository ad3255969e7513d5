"""A cell at a glance: who leads it, which servers it has, how far its models are."""

from dataclasses import dataclass

from saxml.client.admin_client import AdminClient, ModelState
from saxml.client.explain import why_no_replica
from saxml.client.retry import DEFAULT_TIMEOUT_S, Deadline
from saxml.common import chips
from saxml.common.clock import SystemClock
from saxml.proto import admin_pb2


@dataclass(frozen=True, slots=True)
class ServerKind:
    """How many model servers have this chip and topology, by the names of the flags."""

    chip: str
    topology: str
    count: int


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A published model: replicas asked for, told to load, loaded (None: not known)."""

    model_id: str
    wanted: int
    assigned: int
    ready: int | None
    # Why there are fewer than asked for, or "".
    why: str


@dataclass(frozen=True, slots=True)
class CellStatus:
    """One look at a cell."""

    cell: str
    leader: str
    # None if the admin server does not say.
    server_states: dict[str, int] | None
    server_kinds: tuple[ServerKind, ...]
    models: tuple[ModelStatus, ...]

    @property
    def num_servers(self) -> int:
        """All model servers."""
        return sum(kind.count for kind in self.server_kinds)


def server_kinds(stats: admin_pb2.StatsResponse) -> tuple[ServerKind, ...]:
    """Servers by chip and topology, sorted."""
    return tuple(
        sorted(
            (
                ServerKind(
                    chips.chip_name(stat.chip_type),
                    chips.topology_name(stat.chip_topology),
                    stat.num_replicas,
                )
                for stat in stats.model_server_type_stats
            ),
            key=lambda kind: (kind.chip, kind.topology),
        )
    )


def cell_status(admin: AdminClient, timeout_s: float = DEFAULT_TIMEOUT_S) -> CellStatus:
    """Asks the admin server twice, however many models there are; raises SaxError."""
    deadline = Deadline(SystemClock(), timeout_s)
    states = admin.model_states(deadline.remaining())
    stats, server_states = admin.servers(deadline.remaining())
    return CellStatus(
        admin.cell.full,
        admin.address(),
        server_states,
        server_kinds(stats),
        tuple(_model(state, stats) for state in states),
    )


def _model(state: ModelState, stats: admin_pb2.StatsResponse) -> ModelStatus:
    model = state.published.model
    wanted, assigned = model.requested_num_replicas, len(state.published.modelet_addresses)
    why = state.why
    if not why and assigned < wanted:
        why = why_no_replica(state.published, stats) or ""
    elif not why and state.ready is not None and state.ready < wanted:
        why = f"{assigned - state.ready} loading"
    elif not why and state.ready and state.current is not None and state.current < state.ready:
        why = f"{state.ready - state.current} to be updated to {model.checkpoint_path}"
    return ModelStatus(model.model_id, wanted, assigned, state.ready, why)
