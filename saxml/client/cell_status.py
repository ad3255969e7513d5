"""A cell at a glance: who leads it, which servers it has, how far its models are."""

from dataclasses import dataclass

from saxml.client.admin_client import AdminClient
from saxml.client.explain import why_no_replica
from saxml.client.retry import DEFAULT_TIMEOUT_S, Deadline
from saxml.common import chips
from saxml.common.clock import SystemClock
from saxml.common.errors import NotFoundError
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
    """Asks the admin server, model by model; raises SaxError."""
    deadline = Deadline(SystemClock(), timeout_s)
    published = admin.list_models(deadline.remaining())
    stats = admin.stats(timeout_s=deadline.remaining())
    models = []
    for listed in published:
        try:
            models.append(_model(admin, listed.model.model_id, stats, deadline.remaining()))
        except NotFoundError:
            continue  # unpublished meanwhile
    return CellStatus(
        admin.cell.full,
        admin.address(),
        admin.server_states(deadline.remaining()),
        server_kinds(stats),
        tuple(models),
    )


def _model(
    admin: AdminClient, model_id: str, stats: admin_pb2.StatsResponse, timeout_s: float
) -> ModelStatus:
    state = admin.model_state(model_id, timeout_s)
    wanted = state.published.model.requested_num_replicas
    assigned = len(state.published.modelet_addresses)
    why = state.why
    if not why and assigned < wanted:
        why = why_no_replica(state.published, stats) or ""
    elif not why and state.ready is not None and state.ready < wanted:
        why = f"{assigned - state.ready} loading"
    return ModelStatus(model_id, wanted, assigned, state.ready, why)
