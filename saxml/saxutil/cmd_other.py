"""Commands of services that model servers do not have yet: vm.* and am.*."""

from collections.abc import Sequence
from typing import NoReturn

from saxml.common.errors import UnimplementedError
from saxml.saxutil.command import Command, CommandError, Context, model_argument, need, status_text


class _Unserved(Command):
    """Says that it is not there, whatever its arguments."""

    def declare(self) -> None:
        """The flags are read, so that the message is about what is missing."""
        self.flags.string("extra", "", "extra inputs.")
        self.flags.string("proxy", "", "host:port to call instead of the model's servers.")

    def run(self, context: Context, args: Sequence[str]) -> NoReturn:
        """Always fails."""
        need(len(args) >= 2, f"Provide {self.usage}")
        model = model_argument(args[0])
        service = "vision" if self.name.startswith("vm.") else "audio"
        error = UnimplementedError(
            f"{self.name} for {model.full}: model servers have no {service} service"
        )
        raise CommandError(status_text(error))


class ClassifyCommand(_Unserved):
    """Images to labels."""

    name = "vm.classify"
    synopsis = "Classify an image (not available)."
    usage = "[flags] <model ID> <image file>"


class DetectCommand(_Unserved):
    """Images to boxes."""

    name = "vm.detect"
    synopsis = "Detect objects in an image (not available)."
    usage = "[flags] <model ID> <image file> [text]..."


class EmbedImageCommand(_Unserved):
    """Images to vectors."""

    name = "vm.embed"
    synopsis = "Embed an image (not available)."
    usage = "[flags] <model ID> <image file>"


class GenerateImageCommand(_Unserved):
    """Texts to images."""

    name = "vm.generate"
    synopsis = "Generate images from a text (not available)."
    usage = "[flags] <model ID> <text> <folder>"


class RecognizeCommand(_Unserved):
    """Speech to text."""

    name = "am.recognize"
    synopsis = "Recognize speech (not available)."
    usage = "[flags] <model ID> <audio file>"
