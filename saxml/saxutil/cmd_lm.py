"""lm.generate, lm.score, lm.embed, lm.gradient."""

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing

from saxml.client.language_model import LanguageModel
from saxml.client.model_client import ClientOptions, ModelClient
from saxml.common.errors import SaxError
from saxml.proto import common_pb2
from saxml.saxutil.command import (
    Command,
    CommandError,
    Context,
    failing,
    model_argument,
    need,
    read_argument,
)
from saxml.saxutil.extra_inputs import HELP, parse_extra_inputs
from saxml.saxutil.format import format_float, format_floats, format_shortest
from saxml.saxutil.output import TABLE, show

_GRADIENT_VALUES = 8
_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


class _LmCommand(Command):
    """Has -extra and -proxy."""

    def declare(self) -> None:
        """The flags of every method."""
        self.flags.string("extra", "", f"extra inputs, {HELP}")
        self.flags.string("proxy", "", "host:port to call instead of the model's servers.")

    def extra(self) -> common_pb2.ExtraInputs:
        """What -extra says."""
        try:
            return parse_extra_inputs(self.flags["extra"])
        except SaxError as error:
            raise CommandError(f"Could not parse extra inputs: {error}") from error

    def open(self, context: Context, model: str) -> AbstractContextManager[ModelClient]:
        """The model's client, a context manager."""
        options = ClientOptions(proxy=self.flags["proxy"])
        return ModelClient(model_argument(model).full, context.root, options)


class GenerateCommand(_LmCommand):
    """Continue a text."""

    name = "lm.generate"
    synopsis = "Generate a text input using a published language model."
    usage = "[flags] <model ID> <text>"
    details = """Generate a text input using a published language model; - reads it from stdin.
Supports extra inputs such as temperature through -extra="temperature:0.2",
streaming through -stream, plain texts through -terse."""

    def declare(self) -> None:
        """-extra, -proxy, -stream, -terse, -n."""
        super().declare()
        self.flags.boolean("stream", False, "Stream responses.")
        self.flags.boolean("terse", False, "Print the texts only, best first.")
        self.flags.integer("n", 0, "Print at most so many results; 0 is all.")

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints a table, plain texts, or the texts as they grow."""
        need(len(args) == 2, "Provide model and query for generate")
        stream, terse, count = self.flags["stream"], self.flags["terse"], self.flags["n"]
        need(not (stream and terse), "-stream and -terse exclude each other")
        need(not (stream and self.flags.given("n")), "-stream and -n exclude each other")
        need(
            context.format == TABLE or not (stream or terse),
            "-format goes with neither -stream nor -terse",
        )
        extra = self.extra()
        with self.open(context, args[0]) as client, failing("generate query"):
            lm, text = LanguageModel(client), read_argument(args[1])
            if stream:
                _print_stream(lm, text, extra, context.timeout_s)
                return
            answers = lm.generate(text, extra, context.timeout_s)
        if terse:
            answers.sort(key=lambda answer: -answer.score)
        shown = answers[:count] if count > 0 else answers
        if terse:
            for answer in shown:
                print(answer.text)
        else:
            rows = [[answer.text, format_float(answer.score)] for answer in shown]
            value = [{"text": answer.text, "score": answer.score} for answer in shown]
            show(context.format, value, (["generate", "Score"], rows))


def _print_stream(
    lm: LanguageModel, text: str, extra: common_pb2.ExtraInputs, timeout_s: float
) -> None:
    """Prints all texts so far, a blank line after each, for every chunk; at the end the scores."""
    texts: list[str] = []
    totals: list[list[float]] = []
    last: list[tuple[float, ...]] = []
    clear = _CLEAR if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" else ""
    with closing(lm.generate_stream(text, extra, timeout_s)) as chunks:
        for items in chunks:
            while len(texts) < len(items):
                texts.append("")
                totals.append([])
                last.append(())
            for i, item in enumerate(items):
                texts[i] = item.apply(texts[i])
                totals[i] += [0.0] * (len(item.scores) - len(totals[i]))
                for j, score in enumerate(item.scores):
                    totals[i][j] += score
                last[i] = item.scores
            sys.stdout.write(clear + "".join(f"{text}\n\n" for text in texts[: len(items)]))
            sys.stdout.flush()
    if not totals:
        print("The model's answer is empty: the stream ended without a result.", file=sys.stderr)
    elif len(totals[0]) == 1:
        print(f"Scores: {_column(totals, 0)}")
    else:
        for j in range(len(totals[0])):
            print(f"Total Scores[{j}]: {_column(totals, j)}")
        print()
        for j in range(len(last[0])):
            print(f"Last Score[{j}]: {_column(last, j)}")


def _column(scores: Sequence[Sequence[float]], j: int) -> str:
    return ", ".join(format_shortest(of_sample[j]) for of_sample in scores if j < len(of_sample))


class ScoreCommand(_LmCommand):
    """Score suffixes of a prefix."""

    name = "lm.score"
    synopsis = "Score a prefix and suffixes using a published language model."
    usage = "[flags] <model ID> <prefix> <suffix>..."
    details = (
        "Score a prefix and suffixes using a published language model; - reads one from stdin."
    )

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints a table of suffixes and scores."""
        need(len(args) >= 3, "Provide model and prefix/suffix for score")
        extra, suffixes = self.extra(), args[2:]
        with self.open(context, args[0]) as client, failing("score prefix/suffix"):
            prefix, *texts = map(read_argument, args[1:])
            scores = LanguageModel(client).score(prefix, texts, extra, context.timeout_s)
        each = len(scores) // len(suffixes)
        rows: list[list[str]] = []
        value: list[dict[str, object]] = []
        for i, suffix in enumerate(texts):
            mine = scores[i * each : (i + 1) * each] if each else scores[i : i + 1]
            rows.append([suffix, *map(format_float, mine)])
            value.append({"suffix": suffix, "scores": mine})
        show(context.format, value, (["Suffix", "Score"], rows))


class EmbedCommand(_LmCommand):
    """Embed a text."""

    name = "lm.embed"
    synopsis = "Embed a text input using a published language model."
    usage = "[flags] <model ID> <text>"

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints the text and its embedding."""
        need(len(args) == 2, "Provide model and text for embed")
        extra = self.extra()
        with self.open(context, args[0]) as client, failing("embed text"):
            text = read_argument(args[1])
            embedding = LanguageModel(client).embed(text, extra, context.timeout_s)
        value = {"text": text, "embedding": embedding}
        table = ["Text", "Embedding"], [[text, format_floats(embedding)]]
        show(context.format, value, table)


class GradientCommand(_LmCommand):
    """Gradient of a suffix's score."""

    name = "lm.gradient"
    synopsis = "Compute the gradient of a suffix's score using a published language model."
    usage = "[flags] <model ID> <prefix> <suffix>"

    def run(self, context: Context, args: Sequence[str]) -> None:
        """Prints the score and the first values of each tensor."""
        need(len(args) == 3, "Provide model, prefix and suffix for gradient")
        extra = self.extra()
        with self.open(context, args[0]) as client, failing("compute gradient"):
            prefix, suffix = map(read_argument, args[1:])
            lm = LanguageModel(client)
            scores, gradients = lm.gradient(prefix, suffix, extra, context.timeout_s)
        row = [format_floats(scores)]
        row += [format_floats(values, _GRADIENT_VALUES) for values in gradients.values()]
        value = {"scores": scores, "gradients": gradients}
        show(context.format, value, (["Score", *gradients], [row]))
