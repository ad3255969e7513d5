"""A cell in a folder, its admin server, and two model servers that load nothing."""

import pathlib
from collections.abc import Iterator

import pytest

from tests.integration import admin_cell
from tests.integration.admin_cell import RunningAdmin
from tests.integration.stub_modelet import StubModelet


@pytest.fixture
def root(tmp_path: pathlib.Path) -> str:
    admin_cell.create_cell(str(tmp_path / "root"), str(tmp_path / "fs"))
    return str(tmp_path / "root")


@pytest.fixture
def admin(root: str) -> Iterator[RunningAdmin]:
    with admin_cell.running(root) as running:
        yield running


@pytest.fixture
def stubs() -> Iterator[list[StubModelet]]:
    started: list[StubModelet] = [StubModelet(), StubModelet()]
    yield started
    for stub in started:
        stub.stop()
