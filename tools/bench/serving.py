"""Sends requests to a published model, and says how it serves them: serving [--help].

  serving --model=/sax/test/lm --rate=4 --stream             open loop, Poisson arrivals
  serving --model=/sax/test/lm --concurrency=16 --stream     closed loop, 16 clients
  serving --model=/sax/test/lm --sweep=1,2,4,8 --stream      open loop, one rate after another

Latencies count from the moment a request was due. TTFT is the time to the first token, TBT the time
between pieces of a stream, and a good request is answered within --ttft_limit, and within
--tbt_limit a token on average.

Prompts are the lines of --prompts, or drawn: token ids below --vocab with commas between them, as
models with TOKENIZED_INPUT take, or, with --tokenizer, text of about so many tokens. Answers are
counted in tokens alike.
"""

import argparse
import asyncio
import dataclasses
import math
import os
import pathlib
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
import tqdm  # type: ignore[import-untyped]

from saxml.client.sax_aio import LanguageModel, Model
from saxml.client.sax_options import ModelOptions, Options
from saxml.common.errors import SaxError
from saxml.tokenizer.load import load_tokenizer, load_vocabulary
from tools.bench.serving_load import Outcome, Piece, closed_loop, open_loop
from tools.bench.serving_report import Limits, summary, table
from tools.bench.workload import Job, Lengths, jobs, write_json

_STEPS = "per_example_max_decode_steps"


class LoadError(Exception):
    """The load cannot be run as asked; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Texts:
    """prompt: of a job and its number; count: tokens of an answer."""

    prompt: Callable[[Job, int], str]
    count: Callable[[str], int]


def texts(args: argparse.Namespace) -> Texts:
    """As the flags say. Raises LoadError or SaxError."""
    count, text_of, size = count_ids, ids_text, args.vocab
    if args.tokenizer:
        tokenizer = _tokenizer(args.tokenizer)
        size, text_of = tokenizer.vocab_size, tokenizer.decode
        count = lambda text: len(tokenizer.encode(text))  # noqa: E731

    def drawn(job: Job, number: int) -> str:
        random = np.random.default_rng([args.seed, number])
        return text_of(random.integers(0, size, job.prompt).tolist())

    if not args.prompts:
        return Texts(drawn, count)
    lines = pathlib.Path(args.prompts).read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise LoadError(f"--prompts={args.prompts} has no prompt; wanted: one a line")
    return Texts(lambda job, number: lines[number % len(lines)], count)


def _tokenizer(path: str) -> Any:
    """Of a checkpoint, or a vocabulary by itself."""
    if os.path.exists(os.path.join(path, "sax_model.json")):
        return load_tokenizer(path)
    return load_vocabulary(path)


def ids_text(ids: Sequence[int]) -> str:
    """A prompt of ids."""
    return ",".join(map(str, ids))


def count_ids(text: str) -> int:
    """Tokens of an answer in ids. Raises LoadError for other text."""
    parts = [part for part in text.split(",") if part]
    if not all(part.strip().isdigit() for part in parts):
        raise LoadError(
            f"an answer is {text[:40]!r}, no ids; give the model's vocabulary with --tokenizer"
        )
    return len(parts)


class Sender:
    """Calls the model for each job."""

    def __init__(self, lm: LanguageModel, args: argparse.Namespace, prompts: Texts) -> None:
        self._lm = lm
        self._args = args
        self._texts = prompts

    async def __call__(self, job: Job, number: int) -> AsyncIterator[Piece]:
        """See serving_load.Send."""
        options = ModelOptions()
        options.SetTimeout(self._args.timeout)
        for name, value in self._args.extra:
            options.SetExtraInput(name, value)
        if self._args.output_tokens:
            options.SetExtraInput(_STEPS, job.steps)
        prompt = self._texts.prompt(job, number)
        if not self._args.stream:
            answers = await self._lm.Generate(prompt, options)
            yield Piece(answers[0][0] if answers else "", streamed=False)
            return
        text = ""
        async for chunk in self._lm.GenerateStream(prompt, options):
            new, kept, _ = chunk[0]
            text = text[:kept] + new
            yield Piece(text, streamed=True)


def plan(args: argparse.Namespace, rate: float) -> list[Job]:
    """The jobs of one run."""
    answers = args.output_tokens or Lengths.parse("1")
    return jobs(args.requests, args.prompt_tokens, answers, rate=rate, seed=args.seed)


async def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All runs of the command line, one after another. Raises LoadError or SaxError."""
    prompts = texts(args)
    options = Options(proxy_addr=args.proxy, fail_fast=args.fail_fast, sax_root=args.sax_root)
    found = []
    async with Model(args.model, options) as model:
        send = Sender(model.LM(), args, prompts)
        if args.warmup:
            warm = jobs(args.warmup, args.prompt_tokens, Lengths.parse("1"), rate=math.inf, seed=0)
            _check(await closed_loop(warm, 1, send))
        for rate in args.sweep or [args.rate]:
            todo = plan(args, rate or math.inf)
            load = f"{rate:g}/s" if rate else f"{args.concurrency} clients"
            with tqdm.tqdm(total=len(todo), unit="request", desc=load, disable=None) as bar:
                if rate:
                    outcomes = await open_loop(todo, send, bar.update)
                else:
                    outcomes = await closed_loop(todo, args.concurrency, send, bar.update)
            limits = Limits(args.ttft_limit, args.tbt_limit)
            result = summary(outcomes, prompts.count, limits)
            found.append({"load": load, "rate": rate, "concurrency": args.concurrency} | result)
    return found


def _check(warm: Sequence[Outcome]) -> None:
    if codes := {outcome.code for outcome in warm if outcome.code}:
        raise LoadError(f"requests to warm up ended with {', '.join(sorted(codes))}")


def _extra(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(text)
    return name, float(value)


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 < rate < math.inf:
        raise ValueError(text)
    return rate


def _rates(text: str) -> list[float]:
    return [_rate(part) for part in text.split(",")]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(
        prog="serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model", required=True, help="/sax/CELL/MODEL")
    load = made.add_mutually_exclusive_group(required=True)
    load.add_argument("--rate", type=_rate, help="requests a second, at random (Poisson)")
    load.add_argument("--concurrency", type=_positive, help="clients that send one after another")
    load.add_argument("--sweep", type=_rates, metavar="R1,R2,...", help="rates in turn")
    made.add_argument("--requests", type=_positive, default=200, help="of a run")
    made.add_argument("--warmup", type=int, default=4, help="requests before, not counted")
    lengths = "N, or MEDIAN,SIGMA,LOW,HIGH of a lognormal distribution"
    made.add_argument(
        "--prompt_tokens", type=Lengths.parse, default=Lengths.parse("32"), help=lengths
    )
    made.add_argument(
        "--output_tokens", type=Lengths.parse, help=f"sent as {_STEPS}: {lengths}; default: not"
    )
    made.add_argument("--prompts", help="file of prompts, one a line, taken in turn")
    made.add_argument("--vocab", type=_positive, default=200, help="ids are drawn below it")
    made.add_argument(
        "--tokenizer", help="converted checkpoint or vocabulary of a model with text in and out"
    )
    made.add_argument(
        "--extra", type=_extra, action="append", default=[], metavar="NAME=NUMBER", help="input"
    )
    made.add_argument("--stream", action="store_true", help="GenerateStream for Generate")
    made.add_argument("--timeout", type=_rate, default=60.0, help="seconds of a request")
    made.add_argument("--fail_fast", action="store_true", help="no second try of a refused call")
    made.add_argument("--ttft_limit", type=_rate, default=math.inf, help="seconds")
    made.add_argument("--tbt_limit", type=_rate, default=math.inf, help="seconds")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--sax_root", default="", help="default: $SAX_ROOT")
    made.add_argument("--proxy", default="", help="HOST:PORT to call instead of the cell's servers")
    made.add_argument("--json", help="file to write")
    return made


def main(argv: Sequence[str]) -> int:
    """Prints a table; --json writes it for plot.py. Exit code 1 if nothing was answered."""
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    made = parser()
    args = made.parse_args(argv[1:])
    if not args.stream and (args.ttft_limit, args.tbt_limit) != (math.inf, math.inf):
        made.error("--ttft_limit and --tbt_limit need --stream: without it no token has a time")
    try:
        found = asyncio.run(run(args))
    except (LoadError, SaxError, OSError) as e:
        print(f"serving: {type(e).__name__}: {e}", file=sys.stderr)
        return 1
    print(table(found))
    if args.json:
        flags = {k: str(v) for k, v in vars(args).items() if k != "json"}
        write_json(args.json, {"kind": "serving", "flags": flags, "runs": found})
    return 0 if all(run["ok"] for run in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
