"""ls."""

import random
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from saxml.client.admin_client import AdminClient, ModelState
from saxml.client.cells import list_cells
from saxml.client.explain import why_no_replica
from saxml.common.errors import SaxError
from saxml.common.names import CellId, ModelId, parse_cell, parse_model
from saxml.proto import admin_pb2
from saxml.saxutil.command import Command, CommandError, Context, failing, need, status_text
from saxml.saxutil.output import TABLE, Table, show
from saxml.saxutil.table import render_csv

_Id = TypeVar("_Id")


class ListCommand(Command):
    """Cells, models of a cell, or one model."""

    name = "ls"
    synopsis = "List published models."
    usage = "/sax[/cell[/model]]"
    details = "List all cells, the models in a cell, or information about a model."

    def declare(self) -> None:
        """-csv, -details, -acls."""
        self.flags.boolean("csv", False, "Print comma separated values instead of tables.")
        self.flags.boolean(
            "details", True, "Show details; given explicitly, also the methods of a cell's models."
        )
        self.flags.boolean("acls", True, "Show method ACLs of the model.")

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints one table; two for a model."""
        need(len(args) == 1, "Provide /sax, /sax/<cell>, or /sax/<cell>/<model>")
        need(
            not self.flags["csv"] or context.format == TABLE,
            "-csv and -format exclude each other; -format=csv has quotes where values have commas",
        )
        name = args[0]
        if name == "/sax":
            with failing("list all cells"):
                cells = list_cells(context.root())
            rows = [[str(i), cell] for i, cell in enumerate(cells)]
            self._print(
                context, [{"cell": f"/sax/{cell}"} for cell in cells], (["#", "Cell"], rows)
            )
        elif name.count("/") == 2:
            self._cell(context, _parsed(name, parse_cell))
        else:
            self._model(context, _parsed(name, parse_model))

    def _cell(self, context: Context, cell: CellId) -> None:
        with failing("list models"), AdminClient(context.root(), cell) as admin:
            models = admin.list_models(context.timeout_s)
        methods = self.flags.given("details") and bool(self.flags["details"])
        rows = []
        for i, published in enumerate(models):
            row = [str(i), published.model.model_id.removeprefix(f"{cell.full}/")]
            rows.append([*row, _methods(published)] if methods else row)
        header = ["#", "Model ID", *(["Methods"] if methods else [])]
        self._print(context, [_json(published) for published in models], (header, rows))

    def _model(self, context: Context, model_id: ModelId) -> None:
        if not self.flags["details"] and not self.flags["acls"]:
            raise CommandError(
                "You need to specify one of --details or --acls for this command to print anything!"
            )
        with failing("list model"), AdminClient(context.root(), model_id.cell_id) as admin:
            state = admin.model_state(model_id.full, context.timeout_s)
            why = _missing_replicas(admin, state) or ""
        published = state.published
        self._print(context, {**_json(published), "why": why}, *self._tables(model_id, published))
        if why:
            sys.stdout.flush()
            print(why, file=sys.stderr)

    def _tables(self, model_id: ModelId, published: admin_pb2.PublishedModel) -> list[Table]:
        model, addresses = published.model, [*published.modelet_addresses]
        tables: list[Table] = []
        if self.flags["details"]:
            header = [
                "Model",
                "Model Path",
                "Checkpoint Path",
                "# of Replicas",
                "(Selected) ReplicaAddress",
                "Methods",
            ]
            row = [
                model_id.model,
                model.model_path,
                model.checkpoint_path,
                str(len(addresses)),
                random.choice(addresses) if addresses else "",
                _methods(published),
            ]
            tables.append((header, [row]))
        if self.flags["acls"]:
            items = sorted(model.acls.items.items())
            tables.append((["Method", "ACL"], [[method, acl] for method, acl in items]))
        return tables

    def _print(self, context: Context, value: object, *tables: Table) -> None:
        if self.flags["csv"]:
            sys.stdout.write("".join(render_csv(header, rows) for header, rows in tables))
        else:
            show(context.format, value, *tables)


def _json(published: admin_pb2.PublishedModel) -> dict[str, object]:
    model = published.model
    return {
        "model_id": model.model_id,
        "model_path": model.model_path,
        "checkpoint_path": model.checkpoint_path,
        "wanted": model.requested_num_replicas,
        "addresses": [*published.modelet_addresses],
        "methods": [*model.method_names],
        "overrides": dict(sorted(model.overrides.items())),
        "admin_acl": model.admin_acl,
        "acls": dict(sorted(model.acls.items.items())),
    }


def _parsed(name: str, parse: Callable[[str], _Id]) -> _Id:
    try:
        return parse(name)
    except SaxError as error:
        raise CommandError(f"Invalid model ID {name}: {status_text(error)}") from error


def _methods(published: admin_pb2.PublishedModel) -> str:
    return ", ".join(published.model.method_names)


def _missing_replicas(admin: AdminClient, state: ModelState) -> str | None:
    published = state.published
    if len(published.modelet_addresses) >= max(1, published.model.requested_num_replicas):
        return None
    if state.why:
        return f"model {published.model.model_id}: {state.why}"
    try:
        return why_no_replica(published, admin.stats(timeout_s=5))
    except SaxError:
        return None
