"""Nothing acknowledged is lost and nobody waits long, whatever dies.

SAX_CHAOS_SECONDS (30) and SAX_CHAOS_SEED (1) are taken from the environment; the figures are
printed, and are in docs/operations.md for three minutes.
"""

import collections
import contextlib
import os
import pathlib
import threading
import time
from collections.abc import Iterator

import pytest

import saxml.client.sax as sax
from saxml.common.errors import SaxError
from tests.integration import admin_cell, gcs
from tests.integration.chaos.cell import ADMINS, SERVERS, Cell
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
    cell = Cell(root, _MODELS, _SEED)
    try:
        cell.leader()
        options = sax.AdminOptions(sax_root=root)
        with sax.Admin("/sax/test", options) as admin:
            for model in _MODELS:
                admin.Publish(model, MODEL_PATH, "None", SERVERS, {"ram": "1"})
            for model in _MODELS:
                admin.WaitForReady(model, SERVERS)
        work = Workload(root, _MODELS, _CLIENTS, _SEED)
        work.start()
        try:
            _disturb(cell)
        finally:
            work.stop()
        _report(root, cell, work.tally)
        assert work.tally.wrong == []
        _all_served(root, work.tally)
        assert len([a for a in cell.admins if a.leads()]) == 1
        for what, limit in (("kill", _KILL_S), ("term", _TERM_S)):
            late = [s for w, s in cell.take_overs if w == what and s > limit]
            assert not late, f"take-over after {what} took {late} s"
    except BaseException:
        for number, member in enumerate((*cell.admins, *cell.servers)):
            print(f"--- {'admin' if number < ADMINS else 'server'} {member.address}")
            print("\n".join(member.process.log[-60:]))
        raise
    finally:
        cell.close()


def _disturb(cell: Cell) -> None:
    end, over = time.monotonic() + _SECONDS, threading.Event()
    failed: list[BaseException] = []

    def run(disturb: object) -> None:
        try:
            disturb(end, over)  # type: ignore[operator]
        except BaseException as error:
            failed.append(error)
            over.set()

    hands = [
        threading.Thread(target=run, args=(h,)) for h in (cell.disturb_admins, cell.disturb_servers)
    ]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    if failed:
        raise failed[0]


def _all_served(root: str, tally: Tally) -> None:
    options = sax.ModelOptions()
    options.SetTimeout(60.0)
    missing = []
    for name in sorted(tally.acknowledged):
        with sax.Model(name, sax.Options(sax_root=root)) as model:
            try:
                assert model.LM().Generate("40+2", options)[0][0] == "42"
            except SaxError as error:
                missing.append(f"{name}: {error}")
    assert not missing


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
