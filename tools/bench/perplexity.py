"""How well a served model predicts a text, with its matrices in float32, bfloat16 and int8.

bazel run //tools/bench:perplexity -- --checkpoint DIR [--weights float32,bfloat16,int8]

The text's tokens are cut into windows; each window's tokens are scored behind those before them in
it, by the engine that publishing the checkpoint as AutoLM would run on this machine. Perplexity is
exp of the mean of -log p. "stored" serves the checkpoint as it is, in bfloat16 unless it is int8.
"""

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tqdm  # type: ignore[import-untyped]

from saxml.engine.decoders import ScoreDecoder
from saxml.server.loading import LoadOptions, load
from saxml.server.pax.lm.params.auto import AutoLM
from saxml.tokenizer.load import load_tokenizer
from tools.bench.workload import write_json

Floats = npt.NDArray[np.float64]
OVERRIDES = {
    "float32": {"FPROP_DTYPE": '"float32"'},
    "bfloat16": {"FPROP_DTYPE": '"bfloat16"'},
    "int8": {"FPROP_DTYPE": '"bfloat16"', "WEIGHT_DTYPE": '"int8"'},
    "stored": {"FPROP_DTYPE": '"bfloat16"'},
}


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Perplexity with one kind of weights, and its ratio to that with another, on the same
    windows; `error` is the standard error of the ratio, by what windows differ."""

    perplexity: float
    ratio: float
    error: float


def windows(checkpoint: str, text: str, tokens: int, window: int) -> npt.NDArray[np.int32]:
    """The first `tokens` token ids of a text, i32[n, window]. Raises ValueError for a text that is
    too short."""
    ids = np.array(load_tokenizer(checkpoint).encode(text), np.int32)[:tokens]
    count = len(ids) // window
    if count < 1 or len(ids) < tokens:
        raise ValueError(f"the text has {len(ids)} tokens; {tokens} in windows of {window} wanted")
    return ids[: count * window].reshape(count, window)


def losses(checkpoint: str, ids: npt.NDArray[np.int32], weights: str) -> Floats:
    """-log p f64[n, window - 1] of all tokens of each window but its first."""
    longest = ids.shape[1]
    params = AutoLM(
        {
            **OVERRIDES[weights],
            "BATCH_SIZE": "1",
            "INPUT_SEQ_LEN": str(longest),
            "MAX_DECODE_STEPS": "1",
            "KV_CACHE_GIB": "1",
            "TOKENIZED_INPUT": "true",
            "TOKENIZED_OUTPUT": "true",
        }
    )
    engine = load(params, checkpoint, LoadOptions()).engine
    try:
        found = []
        for row in tqdm.tqdm(ids, desc=weights, unit="window"):
            decoder = ScoreDecoder(row[1:])
            request = engine.submit(row[:-1], decoder, cache_read=False)
            logprobs = request.future.result()[0].logprobs
            assert logprobs is not None
            found.append(-logprobs.chosen.astype(np.float64))
        return np.stack(found)
    finally:
        engine.stop()


def compare(found: Floats, reference: Floats) -> Comparison:
    """Of losses f64[n, m], with those of the reference."""
    difference = (found - reference).mean(1)
    ratio = math.exp(difference.mean())
    error = ratio * difference.std(ddof=1) / math.sqrt(len(difference)) if len(found) > 1 else 0.0
    return Comparison(math.exp(found.mean()), ratio, float(error))


def default_text() -> str:
    """Python's own documentation, as every installation of it has it."""
    from pydoc_data.topics import topics

    return "\n".join(text for _, text in sorted(topics.items()))


def main(argv: Sequence[str]) -> int:
    """Prints a table; --json writes it."""
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument(
        "--weights",
        default="float32,bfloat16,int8",
        help=f"of {', '.join(OVERRIDES)}; ratios are to the first of these",
    )
    parser.add_argument("--text", help="a file; otherwise Python's documentation")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args(argv[1:])
    kinds = args.weights.split(",")
    if unknown := [kind for kind in kinds if kind not in OVERRIDES]:
        parser.error(f"--weights={args.weights}: {unknown[0]!r} is none of {', '.join(OVERRIDES)}")
    if args.window < 2:
        parser.error(f"--window={args.window}: must be 2 or more")
    text = default_text()
    if args.text:
        with open(args.text, encoding="utf-8") as file:
            text = file.read()
    try:
        ids = windows(args.checkpoint, text, args.tokens, args.window)
    except ValueError as error:
        parser.error(str(error))
    found = {kind: losses(args.checkpoint, ids, kind) for kind in kinds}
    rows = {kind: compare(loss, found[kinds[0]]) for kind, loss in found.items()}
    print(f"{ids.size} tokens in windows of {args.window}")
    print(f"weights   perplexity  to {kinds[0]}")
    for kind, row in rows.items():
        print(f"{kind:9} {row.perplexity:10.4f}  {row.ratio:.4f} +- {row.error:.4f}")
    if args.json:
        report = {
            "kind": "perplexity",
            "tokens": ids.size,
            "window": args.window,
            "weights": {kind: dataclasses.asdict(row) for kind, row in rows.items()},
        }
        write_json(args.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
