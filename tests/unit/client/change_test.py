"""Replicas and admin servers that change under load: callers see no error."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from saxml.client.admin_client import AdminClient, new_model
from saxml.common.errors import UnavailableError
from saxml.common.names import parse_cell
from saxml.storage.cell import CellStore
from tests.unit.client.world import MODEL, World, wait_until

Code = grpc.StatusCode
CELL = parse_cell("/sax/test")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


@contextmanager
def load(call: Callable[[], str], threads: int = 16) -> Iterator[Counter[str]]:
    """Calls from many threads until the block ends; counts answers, raises the first error."""
    answers: Counter[str] = Counter()
    errors: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                answers[call()] += 1
            except BaseException as error:
                errors.append(error)
                return

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield answers
    finally:
        stop.set()
        for worker in workers:
            worker.join(30)
    if errors:
        raise errors[0]


def test_replica_killed_under_load(world: World) -> None:
    servers = [world.server(name) for name in ("one", "two", "three")]
    world.admin.add_model(MODEL, *(s.address for s in servers))
    lm = world.lm()
    with load(lambda: lm.generate("hi", timeout_s=30)[0].text) as answers:
        wait_until(lambda: all(answers[s.name] > 20 for s in servers))
        servers[0].stop()
        before = answers.total()
        wait_until(lambda: answers.total() > before + 300)
        world.admin.change(MODEL, "-", servers[0].address)
        four = world.server("four")
        world.admin.change(MODEL, "+", four.address)
        wait_until(lambda: answers["four"] > 20)


def test_draining_replica_sends_calls_elsewhere_without_a_pause(world: World) -> None:
    draining, other = world.server("draining"), world.server("other")
    world.admin.add_model(MODEL, draining.address, other.address)
    lm = world.lm()
    lm.generate("hi", timeout_s=10)
    draining.fail("Generate", *[Code.UNAVAILABLE] * 500, text="this model server is draining")
    start = time.monotonic()
    for _ in range(200):
        assert lm.generate("hi", timeout_s=10)[0].text == "other"
    took = time.monotonic() - start
    turned_away = len(draining.requests)
    assert turned_away > 20
    # A pause would be 5 ms at least.
    assert took < 200 * 0.01 + 1


def test_server_that_hangs_loses_its_call_after_20_seconds(world: World) -> None:
    code = (
        "import time; from tests.unit.client.stubs import StubServer; server = StubServer();"
        "server.release.clear(); print(server.start().address, flush=True); time.sleep(99)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    try:
        assert process.stdout
        world.admin.add_model(MODEL, process.stdout.readline().strip())
        lm = world.lm()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(lambda: lm.generate("hi", timeout_s=40)[0].text)
            time.sleep(1)
            process.send_signal(signal.SIGSTOP)
            world.admin.change(MODEL, "+", world.server("alive").address)
            assert answer.result(30) == "alive"
    finally:
        process.kill()
        process.wait()


def test_leader_changes_under_load(world: World) -> None:
    servers = [world.server(name) for name in ("one", "two")]
    world.admin.add_model(MODEL, servers[0].address)
    lm = world.lm()
    with (
        AdminClient(str(world.root), CELL) as admin,
        load(lambda: lm.generate("hi", timeout_s=30)[0].text) as answers,
        load(lambda: admin.list_model(MODEL, 30).model.model_id, threads=4) as listed,
    ):
        wait_until(lambda: answers["one"] > 20 and listed[MODEL] > 20)
        old = world.admin
        new = world.start_admin("admin_2")
        new.add_model(MODEL, servers[1].address)
        old.stand_by(new.address)
        wait_until(lambda: answers["two"] > 20)
        before = listed[MODEL]
        wait_until(lambda: listed[MODEL] > before + 20)
    assert new.requests


def test_publish_finds_the_leader_when_location_is_behind(world: World) -> None:
    standby = world.admin
    leader = world.start_admin("admin_2")
    files = CellStore(str(world.root), CELL)
    files.write_location(standby.address)
    standby.stand_by(leader.address)
    timer = threading.Timer(0.5, files.write_location, [leader.address])
    timer.start()
    with AdminClient(str(world.root), CELL) as admin:
        admin.publish(new_model(MODEL, "p.M", "None", 1), 10)
    timer.join()
    assert MODEL in leader.models
    assert MODEL not in standby.models


def test_cell_without_leader_says_who_stands_by(world: World) -> None:
    world.admin.stand_by("192.0.2.9:10000")
    with (
        AdminClient(str(world.root), CELL) as admin,
        pytest.raises(UnavailableError, match=r"stands by; the leader of .* is 192\.0\.2\.9"),
    ):
        admin.list_models(3.0)
