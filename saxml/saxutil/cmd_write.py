"""save and export."""

from collections.abc import Sequence

from saxml.client.model_client import ModelClient
from saxml.client.modelet import export, save
from saxml.saxutil.command import Command, Context, failing, model_argument, need


class SaveCommand(Command):
    """Save a checkpoint."""

    name = "save"
    synopsis = "Save a model to a checkpoint."
    usage = "<model ID> <checkpoint path>"

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints nothing."""
        need(len(args) == 2, "Provide a model ID and a checkpoint path.")
        with _open(context, args[0]) as client, failing("save model"):
            save(client, args[1], context.timeout_s)


class ExportCommand(Command):
    """Export a SavedModel."""

    name = "export"
    synopsis = "Export a model to a TF SavedModel."
    usage = "[flags] <model ID> <method names> <path>"
    details = "Export methods (comma-separated) of a model to a path that its server can reach."

    def declare(self) -> None:
        """-rng_seed_mode, -signatures, -enable_gpu_multi_device_execution."""
        self.flags.string(
            "rng_seed_mode", "stateful", "RNG seed mode: stateful, stateless, or fixed."
        )
        self.flags.string(
            "signatures", "", "Comma-separated signatures to export to, one for each method."
        )
        self.flags.boolean(
            "enable_gpu_multi_device_execution", True, "Let the export use several GPUs."
        )

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints nothing."""
        need(len(args) == 3, "Provide a model ID, method names and a path.")
        signatures: str = self.flags["signatures"]
        with _open(context, args[0]) as client, failing("export model"):
            export(
                client,
                args[1].split(","),
                args[2],
                rng_seed_mode=self.flags["rng_seed_mode"],
                signatures=signatures.split(",") if signatures else (),
                enable_gpu_multi_device_execution=self.flags["enable_gpu_multi_device_execution"],
                timeout_s=context.timeout_s,
            )


def _open(context: Context, model: str) -> ModelClient:
    return ModelClient(model_argument(model).full, context.root)
