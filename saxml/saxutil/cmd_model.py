"""publish, update, update_checkpoint, unpublish, watch."""

from collections.abc import Sequence

from saxml.client.admin_client import AdminClient, new_model
from saxml.client.readiness import wait_until_ready
from saxml.saxutil.command import Command, CommandError, Context, failing, model_argument, need
from saxml.saxutil.go_flags import UsageError
from saxml.saxutil.output import TABLE
from saxml.saxutil.progress import ProgressDisplay

_INT32_MAX = 2**31 - 1


class PublishCommand(Command):
    """Publish."""

    name = "publish"
    synopsis = "Publish a model."
    usage = (
        "[-wait] <model ID> <model path> <checkpoint path> <num of replicas> [override_key=value]*"
    )
    details = """Publish a model using the given number of server replicas.

The value of an override should be JSON. This means strings must be in double quotes.
With -wait it ends when all replicas are ready, up to -sax_timeout, or when a load has failed."""

    def declare(self) -> None:
        """-wait."""
        self.flags.boolean("wait", False, "Wait until all replicas are ready.")

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints nothing on stdout; progress goes to stderr."""
        need(
            len(args) >= 4,
            "Provide model ID, model path, checkpoint path, and number of replicas, "
            "followed by any number of key=val overrides",
        )
        model_id = model_argument(args[0])
        replicas = _replicas(args[3])
        overrides = {}
        for item in args[4:]:
            key, equals, value = item.partition("=")
            need(bool(equals), f"Overrides should be of the form key=val, not {item}")
            overrides[key] = value
        model = new_model(model_id.full, args[1], args[2], replicas, overrides)
        with AdminClient(context.root(), model_id.cell_id) as admin:
            with failing("publish model"):
                admin.publish(model, context.timeout_s)
            if self.flags["wait"]:
                with failing("load model, which stays published"), ProgressDisplay() as display:
                    wait_until_ready(admin, model_id.full, None, context.timeout_s, display.show)


class UpdateCommand(Command):
    """Change the number of replicas."""

    name = "update"
    synopsis = "Update a model."
    usage = "[-replicas=<num>] <model ID>"
    details = "Update a published model."

    def declare(self) -> None:
        """-replicas."""
        self.flags.integer("replicas", -1, "Number of replicas for this model.")

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints nothing."""
        need(len(args) == 1, "Provide a model ID.")
        model_id = model_argument(args[0])
        replicas: int = self.flags["replicas"]
        with AdminClient(context.root(), model_id.cell_id) as admin:
            with failing("list model"):
                model = admin.list_model(model_id.full, context.timeout_s).model
            if not 0 <= replicas <= _INT32_MAX:
                raise CommandError("Num replicas must be non-negative: give -replicas=<num>.")
            model.requested_num_replicas = replicas
            with failing("update model"):
                admin.update(model, context.timeout_s)


class UpdateCheckpointCommand(Command):
    """Change the checkpoint."""

    name = "update_checkpoint"
    synopsis = "Update the checkpoint path of a model."
    usage = "<model ID> <checkpoint path>"

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints nothing."""
        need(len(args) == 2, "Provide a model ID and a checkpoint path.")
        model_id = model_argument(args[0])
        with AdminClient(context.root(), model_id.cell_id) as admin:
            with failing("list model"):
                model = admin.list_model(model_id.full, context.timeout_s).model
            model.checkpoint_path = args[1]
            with failing("update model"):
                admin.update(model, context.timeout_s)


class UnpublishCommand(Command):
    """Unpublish."""

    name = "unpublish"
    synopsis = "Unpublish a model."
    usage = "<model ID>"
    details = "Unpublish a published model."

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints nothing."""
        need(len(args) == 1, "Provide a single model ID")
        model_id = model_argument(args[0])
        with failing("unpublish model"), AdminClient(context.root(), model_id.cell_id) as admin:
            admin.unpublish(model_id.full, context.timeout_s)


class WatchCommand(Command):
    """Follow the addresses of a model."""

    name = "watch"
    synopsis = "Watch addresses of a model."
    usage = "<model ID>"
    details = "Watch server addresses of a model, until it is unpublished."

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints Reset, then "+ address" and "- address" lines as they come."""
        need(context.format == TABLE, "watch prints lines as they come; it has no -format")
        need(len(args) == 1, "Provide a model ID.")
        model_id = model_argument(args[0])
        with (
            failing(f"watch {model_id.full}"),
            AdminClient(context.root(), model_id.cell_id) as admin,
        ):
            for change in admin.watch(model_id.full, context.total_s):
                if change.reset:
                    print("Reset", flush=True)
                for sign, address in change.steps:
                    print(sign, address, flush=True)


def _replicas(text: str) -> int:
    try:
        count = int(text)
    except ValueError as error:
        raise UsageError(f"Provide number of replicas: {text} is not a number") from error
    if not -_INT32_MAX <= count <= _INT32_MAX:
        raise UsageError(f"Provide number of replicas: {text} is out of range")
    return count
