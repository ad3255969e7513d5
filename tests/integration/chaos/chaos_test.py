"""Nothing acknowledged is lost and nobody waits long, whatever dies.

SAX_CHAOS_SECONDS (30) and SAX_CHAOS_SEED (1) are taken from the environment; the figures are
printed, and are in docs/operations.md for three minutes.
"""

import collections
import contextlib
import os
import pathlib
import re
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import saxml.client.sax as sax
from saxml.common.errors import SaxError
from tests.integration import admin_cell, gcs
from tests.integration.chaos.cell import SERVERS, Cell
from tests.integration.chaos.fake_model_server import MODEL_PATH
from tests.integration.chaos.workload import Tally, Workload

_SECONDS = float(os.environ.get("SAX_CHAOS_SECONDS", "30"))
_SEED = int(os.environ.get("SAX_CHAOS_SEED", "1"))
_CLIENTS = 50
_MODELS = [f"/sax/test/base{i}" for i in range(3)]
_KILL_S, _TERM_S = 12.0, 1.0


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        base = str(tmp_path)
        if request.param == "bucket":
            stack.enter_context(gcs.bucket("cells"))
            base = "gs://cells"
        admin_cell.create_cell(f"{base}/root", f"{base}/fs")
        yield f"{base}/root"


def test_a_cell_survives_whatever_dies(root: str) -> None:
    with _running(Cell(root, _MODELS, _SEED)) as cell:
        work = _work(root, cell, _MODELS, SERVERS, _CLIENTS)
        try:
            _disturb(_SECONDS, cell.disturb_admins, cell.disturb_servers)
        finally:
            work.stop()
        _report(root, cell, work.tally)
        assert _broken_promises(root, cell, work.tally) == []
        for what, limit in (("kill", _KILL_S), ("term", _TERM_S)):
            late = [s for w, s in cell.take_overs if w == what and s > limit]
            assert not late, f"take-over after {what} took {late} s"


@pytest.mark.parametrize(
    ("broken", "ways", "noticed"),
    [
        ("nothing", ("kill", "freeze"), None),
        ("early_ack", ("kill",), r"NOT_FOUND: model /sax/test/\w+ not found"),
        ("blind_lease", ("freeze",), "^2 admin servers lead"),
    ],
)
def test_what_is_broken_is_noticed(
    broken: str, ways: tuple[str, ...], noticed: str | None, tmp_path: pathlib.Path
) -> None:
    """Short, with a short lease; nothing is noticed where nothing is broken."""
    admin_cell.create_cell(f"{tmp_path}/root", f"{tmp_path}/fs")
    made = Cell(
        f"{tmp_path}/root",
        _MODELS[:1],
        _SEED,
        admins=2,
        servers=1,
        module="tests.integration.chaos.broken_admin",
        flags=(f"--broken={broken}", "--lease_ttl=2"),
    )
    with _running(made) as cell:
        work = _work(f"{tmp_path}/root", cell, _MODELS[:1], 1, clients=2)
        try:
            _disturb(4.0, lambda end, over: cell.disturb_admins(end, over, ways))
        finally:
            work.stop()
        promises = _broken_promises(f"{tmp_path}/root", cell, work.tally)
    if noticed is None:
        assert promises == []
    else:
        assert [p for p in promises if re.search(noticed, p)], promises


@contextlib.contextmanager
def _running(cell: Cell) -> Iterator[Cell]:
    """Ends it; after a failure says what the processes have said."""
    try:
        yield cell
    except BaseException:
        for number, member in enumerate((*cell.admins, *cell.servers)):
            kind = "admin" if number < len(cell.admins) else "server"
            print(f"--- {kind} {member.address}")
            print("\n".join(member.process.log[-60:]))
        raise
    finally:
        cell.close()


def _work(root: str, cell: Cell, models: list[str], replicas: int, clients: int) -> Workload:
    """Publishes the models, waits until they are ready, and starts to use them."""
    cell.leader()
    with sax.Admin("/sax/test", sax.AdminOptions(sax_root=root)) as admin:
        for model in models:
            admin.Publish(model, MODEL_PATH, "None", replicas, {"ram": "1"})
        for model in models:
            admin.WaitForReady(model, replicas)
    work = Workload(root, models, clients, _SEED)
    work.start()
    return work


def _disturb(seconds: float, *hands: Callable[[float, threading.Event], None]) -> None:
    end, over = time.monotonic() + seconds, threading.Event()
    failed: list[BaseException] = []

    def run(disturb: Callable[[float, threading.Event], None]) -> None:
        try:
            disturb(end, over)
        except BaseException as error:
            failed.append(error)
            over.set()

    threads = [threading.Thread(target=run, args=(hand,)) for hand in hands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def _broken_promises(root: str, cell: Cell, tally: Tally) -> list[str]:
    """Requests that failed, acknowledged models that are not served, and leaders too many."""
    broken = [*tally.wrong]
    options = sax.ModelOptions()
    options.SetTimeout(60.0)
    for name in sorted(tally.acknowledged):
        with sax.Model(name, sax.Options(sax_root=root)) as model:
            try:
                answer = model.LM().Generate("40+2", options)[0][0]
                if answer != "42":
                    broken.append(f"{name}: 40+2 = {answer}")
            except SaxError as error:
                broken.append(f"{name}: {error.code.name}: {error}")
    leaders = len([a for a in cell.admins if a.leads()])
    if leaders != 1:
        broken.append(f"{leaders} admin servers lead")
    return broken


def _report(root: str, cell: Cell, tally: Tally) -> None:
    seconds = sorted(tally.seconds)
    waits = {
        what: [round(s, 2) for w, s in cell.take_overs if w == what]
        for what in ("kill", "term", "freeze")
    }
    half, most = seconds[len(seconds) // 2], seconds[len(seconds) * 99 // 100]
    longest = max(tally.publishes, default=0.0)
    counts = collections.Counter(cell.events)
    print(f"\n{root.partition(':')[0]}: seed {_SEED}, {_SECONDS:g} s, {len(cell.events)} events:")
    print("   " + ", ".join(f"{n} x {event}" for event, n in sorted(counts.items())))
    print(f"   take-over after {waits}")
    print(
        f"   {len(seconds)} requests, {len(tally.wrong)} failed;"
        f" p50 {half:.3f} p99 {most:.3f} longest {seconds[-1]:.2f} s"
    )
    print(
        f"   {len(tally.publishes)} publishes acknowledged, longest {longest:.2f} s;"
        f" {len(tally.refused)} admin calls not: {tally.refused[:5]}"
    )
