"""Tests that tell what happens in a World, step by step."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.unit.admin.fakes import World

Run = Callable[[Callable[[World], Awaitable[None]]], None]


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a story in a world of its own."""

    async def story(tell: Callable[[World], Awaitable[None]]) -> None:
        world = World(request.node.name)
        await world.manager.restore()
        await tell(world)
        await world.manager.close()

    return lambda tell: asyncio.run(story(tell))
