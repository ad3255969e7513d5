"""SAX and its peers side by side on this machine: peers [--help].

Each engine runs in a process of its own, and one of them at a time; the others sleep. In every
round each has its turn at each case, in an order that changes from round to round, with the same
prompts. Around each turn the read bandwidth is probed, and it is noted how much of the machine
other programs used; turns that others disturbed are left out. Reported are medians and ranges, for
decodes the part of the bandwidth that reading the weights takes, and ratios of turns of the same
round: only these say something on a machine that is not alone.

  sax-bare      our engine, called in its own process
  sax-server    our model server, a process of its own, called through the Python client
  hf            Hugging Face transformers on PyTorch
  ctranslate2   CTranslate2
  llama_cpp     llama.cpp; as it has no GPT-J, both it and ours then run a Llama of the same size
  openvino      OpenVINO, through optimum

Peers are installed with pip when they are first asked for, and models with random weights are made,
both under --cache. A peer that cannot be had is named with the reason, and left out.

Cases: decodeN, N rows that decode behind prompts of 128; prefillN, a prompt of N until its first
token; beamN, a search with N beams behind a prompt of 430.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import signal
import statistics
import sys
from collections.abc import Callable, Sequence

import psutil
import tqdm  # type: ignore[import-untyped]

from tools.bench import cases, machine, peers_install, peers_models, peers_table
from tools.bench.cases import SHAPES, Case, Measured, Shape
from tools.bench.engines.protocol import Setup, Size, Task
from tools.bench.peers_child import Child, ChildError
from tools.bench.peers_install import PEERS, PeerMissingError
from tools.bench.peers_table import Entrant, Sample
from tools.bench.workload import write_json

OURS = ("sax-bare", "sax-server")
_LOAD_S = 3600.0
_TURN_S = 3600.0
# Seed of prompts that count for nothing.
_WARM_UP = 1 << 20
# glibc's malloc on huge pages, and slower to give memory back.
_HUGE = (
    "glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=4294967296"
    ":glibc.malloc.top_pad=67108864:glibc.malloc.mmap_threshold=4294967296"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """How an entrant's process is started."""

    entrant: Entrant
    command: tuple[str, ...]
    env: dict[str, str]
    beams: bool


class Field:
    """Everyone who takes part: their processes, kept or started for each turn."""

    def __init__(self, starts: Sequence[Start], logs: pathlib.Path, *, keep: bool) -> None:
        self.keep = keep
        self._starts = {start.entrant: start for start in starts}
        self._logs = logs
        self._children: dict[Entrant, Child] = {}
        self.about: dict[str, dict[str, str]] = {}

    def entrants(self, case: Case) -> list[Entrant]:
        """Those who take part in a case."""
        return [e for e, start in self._starts.items() if start.beams or not case.beams]

    def wake(self, entrant: Entrant, case: Case) -> None:
        """Starts its process, unless it runs, and has a new one do the case once."""
        if entrant not in self._children:
            start = self._starts[entrant]
            log = self._logs / f"{entrant.name.replace(' ', '-')}-{entrant.shape}.log"
            child = Child(entrant.name, start.command, start.env, log)
            self._children[entrant] = child
            self.about[entrant.engine] = child.wait_until_ready(_LOAD_S)
            self.turn(entrant, case, _WARM_UP)

    def turn(self, entrant: Entrant, case: Case, seed: int) -> Measured:
        """One run of a case."""
        task = Task(case.prompts(SHAPES[entrant.shape], seed), case.new, case.beams)
        answer = self._children[entrant].run(dataclasses.asdict(task), _TURN_S)
        return Measured.parse(case, answer)

    def rest(self, entrant: Entrant) -> None:
        """Ends its process, unless processes are kept."""
        if not self.keep:
            self.end(entrant)

    def end(self, entrant: Entrant) -> None:
        """Ends its process."""
        if child := self._children.pop(entrant, None):
            child.close()

    def close(self) -> None:
        """Ends the processes."""
        for child in self._children.values():
            child.close()


def starts(args: argparse.Namespace, todo: Sequence[Case], missing: dict[str, str]) -> list[Start]:
    """Everything that the run needs: environments, models, commands. Tells `missing` why peers are
    left out."""
    say = tqdm.tqdm.write
    shape = SHAPES[args.model]
    cache = pathlib.Path(args.cache)
    found: list[Start] = []
    shapes: dict[str, Shape] = {}
    for name in args.peers:
        peer = PEERS[name]
        theirs = peer.shape_of(shape)
        try:
            python = peers_install.environment(peer, cache, say)
            base = peers_models.hf_folder(theirs, cache)
            for weights in args.weights:
                if weights not in peer.weights:
                    say(f"{name} takes {', '.join(peer.weights)}, not {weights}: left out")
                    continue
                model = peers_install.model(peer, theirs, weights, base, python)
                setup = _setup(theirs, str(model), weights, todo, beams=peer.beams)
                module = f"tools.bench.engines.run_{name}"
                command = (str(python), "-m", module, setup.to_json())
                for malloc in args.malloc:
                    env = peers_install.environ()
                    if malloc == "huge":
                        env["GLIBC_TUNABLES"] = _HUGE
                    entrant = Entrant(name, theirs.name, weights, malloc)
                    found.append(Start(entrant, command, env, peer.beams))
        except PeerMissingError as e:
            missing[name] = str(e)
            say(f"{name} is left out: {e}")
            continue
        shapes[theirs.name] = theirs
    return ours(args, todo, shapes or {shape.name: shape}) + found


def ours(args: argparse.Namespace, todo: Sequence[Case], shapes: dict[str, Shape]) -> list[Start]:
    """Our side, in each shape that a peer has."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    env["JAX_PLATFORMS"] = "cpu"
    found = []
    for shape in shapes.values():
        model = peers_models.sax_checkpoint(shape, pathlib.Path(args.cache))
        for weights in args.weights:
            setup = _setup(shape, str(model), weights, todo, beams=True)
            for engine in args.ours:
                module = f"tools.bench.engines.run_{engine.replace('-', '_')}"
                command = (sys.executable, "-m", module, setup.to_json())
                entrant = Entrant(engine, shape.name, weights)
                found.append(Start(entrant, command, env, beams=True))
    return found


def _setup(shape: Shape, model: str, weights: str, todo: Sequence[Case], *, beams: bool) -> Setup:
    return Setup(
        model=model,
        weights=weights,
        threads=psutil.cpu_count() or 1,
        shape=dataclasses.asdict(shape),
        sizes=[Size(c.rows, c.prompt, c.new, c.beams) for c in todo if beams or not c.beams],
    )


def measure(field: Field, todo: Sequence[Case], rounds: int, seed: int) -> list[Sample]:
    """All rounds; where processes are kept, behind one that counts for nothing. Who fails takes
    part no more. An interrupt ends it with what there is."""
    samples: list[Sample] = []
    with contextlib.suppress(KeyboardInterrupt):
        _measure(field, todo, rounds, seed, samples)
    return samples


def _measure(
    field: Field, todo: Sequence[Case], rounds: int, seed: int, samples: list[Sample]
) -> None:
    failed: set[Entrant] = set()
    turns = [(case, entrant) for case in todo for entrant in field.entrants(case)]
    first = -1 if field.keep else 0
    with tqdm.tqdm(total=len(turns) * (rounds - first), unit="turn", disable=None) as bar:
        for number in range(first, rounds):
            for case, entrant in turns if number % 2 == 0 else turns[::-1]:
                bar.set_description(f"{entrant.name} {case.name}")
                bar.update()
                if entrant in failed:
                    continue
                try:
                    sample = _sample(field, case, entrant, number, seed + number)
                except (ChildError, ValueError) as e:
                    failed.add(entrant)
                    field.end(entrant)
                    tqdm.tqdm.write(f"{entrant.name} takes part no more: {e}", file=sys.stderr)
                    continue
                if number >= 0:
                    samples.append(sample)


def _sample(field: Field, case: Case, entrant: Entrant, number: int, seed: int) -> Sample:
    field.wake(entrant, case)
    before = machine.read_bandwidth()
    watch = machine.Watch()
    found = field.turn(entrant, case, seed)
    others = watch.others()
    bandwidth = statistics.mean([before, machine.read_bandwidth()])
    field.rest(entrant)
    return Sample(entrant, case.name, number, found.rate(case), bandwidth, others)


def _names(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """A parser of comma-separated names."""

    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(allowed)}")
        return names

    return parse


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(
        prog="peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--peers", type=_names([*PEERS]), default=[*PEERS], help="default: all")
    made.add_argument("--ours", type=_names(OURS), default=[*OURS], help="default: both")
    made.add_argument("--model", choices=[*SHAPES], default="small")
    made.add_argument("--cases", default=cases.CASES, help="default: %(default)s")
    made.add_argument("--weights", type=_names(cases.WEIGHTS), default=[*cases.WEIGHTS])
    made.add_argument(
        "--malloc",
        type=_names(["plain", "huge"]),
        default=["plain"],
        help="plain,huge: peers both with and without huge pages from malloc; the better counts",
    )
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--seed", type=int, default=1, help="of the prompts")
    made.add_argument("--decode_tokens", type=int, default=64, help="of a decode, each row")
    made.add_argument("--beam_tokens", type=int, default=128, help="steps of a search")
    made.add_argument(
        "--fresh",
        action="store_true",
        help="a new process for each turn, for models that do not fit into memory side by side",
    )
    made.add_argument(
        "--others", type=float, default=0.1, help="part of the machine that others may use"
    )
    made.add_argument("--cache", default=str(peers_install.default_cache()), help="%(default)s")
    made.add_argument("--json", help="file to write")
    return made


def main(argv: Sequence[str]) -> int:
    """Prints tables; --json writes all runs for roofline."""
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    made = parser()
    args = made.parse_args(argv[1:])
    tokens = {"decode_tokens": args.decode_tokens, "beam_tokens": args.beam_tokens}
    try:
        todo = [Case.parse(name, **tokens) for name in args.cases.split(",")]
    except ValueError as e:
        made.error(str(e))
    if args.rounds < 1 or args.decode_tokens < 3 or args.beam_tokens < 2:
        made.error("--rounds is at least 1, --decode_tokens 3, --beam_tokens 2")
    # As with Ctrl-C, the processes are ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    missing: dict[str, str] = {}
    found = starts(args, todo, missing)
    logs = pathlib.Path(args.cache) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    field = Field(found, logs, keep=not args.fresh)
    try:
        samples = measure(field, todo, args.rounds, args.seed)
    finally:
        field.close()
    by_name = {case.name: case for case in todo}
    print(peers_table.tables(samples, by_name, SHAPES, args.others))
    for name, reason in missing.items():
        print(f"{name} is missing: {reason.splitlines()[0]}")
    if args.json:
        report = peers_table.report(samples, by_name, SHAPES, args.others)
        extra = {"model": args.model, "about": field.about, "missing": missing}
        write_json(args.json, report | extra | {"cores": psutil.cpu_count()})
    return 0 if samples else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
