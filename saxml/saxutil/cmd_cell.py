"""create, delete, getacl, setacl."""

import sys
from collections.abc import Sequence

from saxml.client.admin_client import AdminClient
from saxml.client.cells import (
    EVERYBODY,
    cell_config,
    check_cell,
    check_not_led,
    create_cell,
    delete_cell,
    set_cell_acl,
)
from saxml.common.errors import SaxError
from saxml.common.names import CellId, ModelId, parse_cell, parse_model
from saxml.saxutil.command import Command, CommandError, Context, failing, need, status_text
from saxml.saxutil.output import TABLE, show


class CreateCommand(Command):
    """Create a cell."""

    name = "create"
    synopsis = "Create a SAX cell."
    usage = "<cell name> <file system path> [admin ACL string]"
    details = "Create a SAX cell and initialize its state."

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints nothing."""
        need(
            len(args) in (2, 3),
            "Provide a SAX cell name (e.g. /sax/bar), a file system path for persistence "
            "(e.g. gs://bucket/path), and an optional admin ACL string.",
        )
        with failing(f"create SAX cell {args[0]}"):
            acl = args[2] if len(args) == 3 else EVERYBODY
            create_cell(context.root(), parse_cell(args[0]), args[1], acl)


class DeleteCommand(Command):
    """Delete a cell."""

    name = "delete"
    synopsis = "Delete a SAX cell."
    usage = "[-y] [-force] <cell name>"
    details = """Delete a SAX cell with everything below its name in the root; asks first.
It is refused while an admin server leads the cell: stop all of them first."""

    def declare(self) -> None:
        """-y, -force."""
        self.flags.boolean("y", False, "Do not ask.")
        self.flags.boolean("force", False, "Delete the cell although an admin server leads it.")

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Asks on standard input."""
        need(len(args) == 1, "Provide a SAX cell name (e.g. /sax/bar).")
        with failing(f"delete SAX cell {args[0]}"):
            cell = parse_cell(args[0])
            check_cell(context.root(), cell)
            if not self.flags["force"]:
                check_not_led(context.root(), cell, lambda text: print(text, file=sys.stderr))
            if not self.flags["y"]:
                print(f"Delete {cell.full} below {context.root()}? [y/N] ", end="", flush=True)
                if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                    print("Not deleted.")
                    return
            # Nobody led it when it was looked for.
            delete_cell(context.root(), cell, force=True)


class GetAclCommand(Command):
    """Show ACLs."""

    name = "getacl"
    synopsis = "Get ACLs for a cell or model."
    usage = "<cell ID> | <model ID> [all | <method>]"
    details = """Get the ACL of a cell, model, or model's method. For example:
saxutil getacl /sax/test
saxutil getacl /sax/test/lm
saxutil getacl /sax/test/lm all
saxutil getacl /sax/test/lm lm.generate"""

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints the ACL, or that there is none."""
        need(len(args) in (1, 2), "Provide a cell or model ID, and optionally a method.")
        target = _cell_or_model(args[0])
        if isinstance(target, CellId):
            with failing("load config"):
                acl = cell_config(context.root(), target).admin_acl
            if context.format == TABLE:
                print(acl or "No admin ACLs set for cell.")
            else:
                value = {"cell": target.full, "admin_acl": acl}
                show(context.format, value, (["Cell", "ACL"], [[target.full, acl]]))
            return
        with failing("list model"), AdminClient(context.root(), target.cell_id) as admin:
            admin_acl, acls = admin.get_acls(target.full, context.timeout_s)
        if context.format != TABLE:
            _show_acls(context.format, target, admin_acl, acls or {}, args[1:])
        elif len(args) == 1:
            print(admin_acl or "No admin ACLs set for model.")
        elif acls is None:
            print("No ACLs set for model.")
        elif args[1] == "all":
            for method, acl in sorted(acls.items()):
                print(f"{method}: {acl}")
        else:
            print(acls.get(args[1]) or "No ACLs set for method.")


class SetAclCommand(Command):
    """Change ACLs."""

    name = "setacl"
    synopsis = "Set ACLs for a cell or model."
    usage = "<cell ID> <ACL name> | <model ID> [<method>] <ACL name>"
    details = """Set the ACL of a cell, model, or model's method; an empty one removes it.
For example:
saxutil setacl /sax/test acl/all
saxutil setacl /sax/test/lm lm.generate ''"""

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints nothing."""
        need(
            len(args) in (2, 3),
            "Provide a cell or model ID, optionally a model method, and an ACL.",
        )
        target = _cell_or_model(args[0])
        if isinstance(target, CellId):
            need(len(args) == 2, "The ACL of a cell has no method.")
            with failing("save config"):
                set_cell_acl(context.root(), target, args[1])
            return
        method = args[1] if len(args) == 3 else None
        with failing("update model"), AdminClient(context.root(), target.cell_id) as admin:
            admin.set_acl(target.full, args[-1], method, context.timeout_s)


def _show_acls(
    form: str, model: ModelId, admin_acl: str, acls: dict[str, str], method: Sequence[str]
) -> None:
    """All of them, or that of one method."""
    if method and method[0] != "all":
        acls = {method[0]: acls.get(method[0], "")}
    value = {"model_id": model.full, "admin_acl": admin_acl, "acls": dict(sorted(acls.items()))}
    rows = [[name, acl] for name, acl in sorted(acls.items())]
    if not method:
        rows = [["", admin_acl]]
    show(form, value, (["Method", "ACL"], rows))


def _cell_or_model(name: str) -> CellId | ModelId:
    try:
        return parse_cell(name) if name.count("/") == 2 else parse_model(name)
    except SaxError as error:
        raise CommandError(f"Invalid cell or model ID {name}: {status_text(error)}") from error
