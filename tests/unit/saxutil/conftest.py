"""A stub cell, and a stub server that serves its model, for tests of saxutil."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.unit.client.stubs import StubServer
from tests.unit.client.world import MODEL, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


@pytest.fixture
def server(world: World) -> StubServer:
    server = world.server()
    world.admin.add_model(
        MODEL,
        server.address,
        model_path="saxml.server.pax.lm.params.gptj.GPTJ",
        checkpoint_path="None",
        requested_num_replicas=1,
        method_names=["lm.generate", "lm.score"],
    )
    return server
