"""The model server's side of Join against the admin server."""

import pathlib
from collections.abc import Iterator

import pytest

from saxml.common.clock import SystemClock
from saxml.server.join import Joiner
from saxml.storage.cell import CellStore
from tests.integration import admin_cell
from tests.integration.stub_modelet import StubModelet, until


@pytest.fixture
def cell(tmp_path: pathlib.Path) -> CellStore:
    return admin_cell.create_cell(str(tmp_path / "root"), str(tmp_path / "fs"))


@pytest.fixture
def modelet(cell: CellStore) -> Iterator[StubModelet]:
    stub = StubModelet()
    joiner = Joiner(cell, stub.join_request(), SystemClock(), heartbeat_s=0.2)
    joiner.start()
    yield stub
    joiner.stop()
    stub.stop()


def test_a_server_finds_every_admin_server_that_follows(
    cell: CellStore, modelet: StubModelet
) -> None:
    """It started before the first one, and each listens somewhere else."""
    with admin_cell.running(str(cell.store.root)) as admin:
        admin.publish()
        admin.wait_for_ready(1)
        assert admin.homes() == [modelet.address]
    for checks in (1, 2):
        with admin_cell.running(str(cell.store.root)) as admin:
            admin.wait_for_ready(1)
            assert admin.homes() == [modelet.address]
            modelet.wait_for_calls("Load", *["UpdateLoaded"] * checks)


def test_signs_of_life_disturb_nobody(cell: CellStore, modelet: StubModelet) -> None:
    with admin_cell.running(str(cell.store.root)) as admin:
        admin.publish()
        admin.wait_for_ready(1)
        polls = len(modelet.calls)
        until(lambda: len(modelet.calls) > polls + 5)
        assert modelet.names() == ["Load"]
        answer = admin.watch(0).result
        assert (answer.next_seqno, answer.has_fullset) == (1, False)
