"""status, stats, wait: how a cell and its models are."""

from collections.abc import Sequence
from dataclasses import asdict

from saxml.client.admin_client import AdminClient
from saxml.client.cell_status import CellStatus, ServerKind, cell_status, server_kinds
from saxml.client.cells import list_cells
from saxml.client.readiness import wait_until_ready
from saxml.common.errors import FailedPreconditionError, SaxError
from saxml.common.names import CellId, ModelId, parse_cell, parse_model
from saxml.saxutil.command import (
    Command,
    CommandError,
    Context,
    failing,
    model_argument,
    need,
    status_text,
)
from saxml.saxutil.output import JSON, Table, show
from saxml.saxutil.progress import ProgressDisplay


class StatusCommand(Command):
    """A cell at a glance."""

    name = "status"
    synopsis = "Show a cell at a glance: leader, servers, models."
    usage = "[<cell ID>]"
    details = """Show who leads a cell, its model servers by state, and for each model how many
replicas are asked for and ready, and why others are not. Without a cell: all of them."""

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints two tables a cell; JSON is an object, without an argument a list of them."""
        need(len(args) <= 1, "Provide a cell ID, or nothing for all cells.")
        if args:
            status = _status(context, _cell(args[0]))
            show(context.format, _json(status), *_tables(status))
            return
        with failing("list all cells"):
            cells = [CellId(name) for name in list_cells(context.root())]
        values: list[dict[str, object]] = []
        failures = []
        for cell in cells:
            try:
                status = _status(context, cell)
            except CommandError as error:
                failures.append(f"{cell.full}: {error}")
                values.append({"cell": cell.full, "error": str(error)})
                continue
            values.append(_json(status))
            if context.format != JSON:
                show(context.format, None, *_tables(status))
        if context.format == JSON:
            show(JSON, values)
        if failures:
            raise CommandError("; ".join(failures))


class StatsCommand(Command):
    """Model servers by kind."""

    name = "stats"
    synopsis = "Count the model servers of a cell or model."
    usage = "<cell ID> | <model ID>"
    details = "Count model servers by chip and topology, and those that offer each model path."

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints two tables."""
        need(len(args) == 1, "Provide a cell or model ID.")
        name = args[0]
        target = _cell(name) if name.count("/") == 2 else model_argument(name)
        cell = target.cell_id if isinstance(target, ModelId) else target
        model_id = target.full if isinstance(target, ModelId) else ""
        with failing("get stats"), AdminClient(context.root(), cell) as admin:
            stats = admin.stats(model_id, context.timeout_s)
        kinds = server_kinds(stats)
        paths = sorted(stats.num_servers_by_servable_model_path.items())
        show(
            context.format,
            {"servers": [asdict(kind) for kind in kinds], "model_paths": dict(paths)},
            _kinds_table(kinds),
            (["Model Path", "# of Servers"], [[path, str(count)] for path, count in paths]),
        )


class WaitCommand(Command):
    """Wait until a model is served."""

    name = "wait"
    synopsis = "Wait until a model is ready."
    usage = "[-replicas=<num>] <model ID>"
    details = """Wait until replicas of a model serve the published checkpoint, up to -sax_timeout;
progress goes to stderr. Fails at once, with the reason, when a load has failed and no other server
is left."""

    def declare(self) -> None:
        """-replicas."""
        self.flags.integer("replicas", 0, "Replicas to wait for; 0 is all that are asked for.")

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints nothing on stdout."""
        need(len(args) == 1, "Provide a model ID.")
        replicas: int = self.flags["replicas"]
        need(replicas >= 0, "-replicas must not be negative")
        model_id = model_argument(args[0])
        with failing("wait for model"), AdminClient(context.root(), model_id.cell_id) as admin:
            if not replicas:
                model = admin.list_model(model_id.full, context.timeout_s).model
                if not model.requested_num_replicas:
                    raise FailedPreconditionError(
                        f"model {model_id.full} is published with no replica; "
                        f"saxutil update -replicas=1 {model_id.full}"
                    )
            with ProgressDisplay() as display:
                wait_until_ready(
                    admin, model_id.full, replicas or None, context.timeout_s, display.show
                )


def _cell(name: str) -> CellId:
    try:
        return parse_cell(name) if name.count("/") == 2 else parse_model(name).cell_id
    except SaxError as error:
        raise CommandError(f"Invalid cell ID {name}: {status_text(error)}") from error


def _status(context: Context, cell: CellId) -> CellStatus:
    with failing("get status"), AdminClient(context.root(), cell) as admin:
        return cell_status(admin, context.timeout_s)


def _json(status: CellStatus) -> dict[str, object]:
    return {
        "cell": status.cell,
        "leader": status.leader,
        "servers": {
            "total": status.num_servers,
            "by_state": status.server_states,
            "by_kind": [asdict(kind) for kind in status.server_kinds],
        },
        "models": [asdict(model) for model in status.models],
    }


def _tables(status: CellStatus) -> list[Table]:
    states = status.server_states
    if states is None:
        servers = str(status.num_servers)
    else:
        servers = ", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "none"
    models = [
        [
            model.model_id.rpartition("/")[2],
            str(model.wanted),
            "?" if model.ready is None else str(model.ready),
            model.why,
        ]
        for model in status.models
    ]
    return [
        (["Cell", "Leader", "Servers"], [[status.cell, status.leader, servers]]),
        (["Model ID", "Wanted", "Ready", "Why not"], models),
    ]


def _kinds_table(kinds: Sequence[ServerKind]) -> Table:
    rows = [[kind.chip, kind.topology, str(kind.count)] for kind in kinds]
    return ["Chip", "Topology", "# of Servers"], rows
