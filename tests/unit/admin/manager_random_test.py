"""Random stories: whoever looks at what has changed alone misses nothing.

World.settle() asserts it after each step: a decision about the whole cell finds nothing to do.
"""

import asyncio
import contextlib
import random

import grpc
import pytest

from saxml.common.errors import SaxError
from tests.unit.admin.fakes import FakeRpcError, World

_FAILURES = [
    FakeRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "no memory"),
    FakeRpcError(grpc.StatusCode.UNAVAILABLE, "connection refused"),
]
_PATHS = [("p.Lm",), ("p.Lm", "p.Other")]
_STEPS = 40


async def _step(world: World, rng: random.Random) -> None:
    name = rng.choice("abcdef")
    address = rng.choice(["h1:1", "h1:2", "h2:1"])
    modelet = world.modelets.get(address)
    fields = {
        "model_path": rng.choice(["p.Lm", "p.Other"]),
        "checkpoint_path": rng.choice(["None", "/one", "/two"]),
        "overrides": rng.choice([{}, {"ram": "1"}, {"ram": "4"}, {"ram": "20"}]),
    }
    match rng.choice(["join", "publish", "publish", "update", "unpublish", "fail", "hold", "time"]):
        case "join":
            await world.join(address, *rng.choice(_PATHS))
        case "publish":
            await world.publish(name, rng.randrange(4), **fields)
        case "update":
            known = world.manager.registry.models.get(f"/sax/test/{name}")
            if known is not None:
                fields["model_path"] = known.proto.model_path
                await world.update(name, rng.randrange(4), **fields)
        case "unpublish":
            known = world.manager.registry.models.get(f"/sax/test/{name}")
            if known is not None:
                await world.manager.registry.unpublish(known.id)
        case "fail" if modelet is not None:
            modelet.error = rng.choice([None, *_FAILURES])
        case "hold" if modelet is not None:
            # What it is told takes until it is let go.
            if modelet.gate.is_set():
                modelet.gate.clear()
            else:
                modelet.gate.set()
        case _:
            await world.advance(rng.choice([0.5, 5.0, 11.0]))


@pytest.mark.parametrize("seed", range(60))
def test_nothing_is_missed(seed: int) -> None:
    async def story() -> None:
        rng = random.Random(seed)
        world = World(f"random {seed}")
        await world.manager.restore()
        for _ in range(_STEPS):
            with contextlib.suppress(SaxError):  # published already, or being unpublished
                await _step(world, rng)
            await world.settle()
        for modelet in world.modelets.values():
            modelet.error = None
            modelet.gate.set()
        await world.settle()
        await world.manager.close()

    asyncio.run(story())
