"""Ready, alive, or beyond help: what a watchdog says of models that fail, stall and hang."""

from collections.abc import Mapping

import pytest

from saxml.common import errors
from saxml.engine.heartbeat import Stall
from saxml.server.lifecycle import ModelTable
from saxml.server.watchdog import Watchdog
from tests.unit.server.fake_servable import FakeServable

KEY = "/sax/test/m"


class _Watched:
    """Looks when it is told to; two models, one of them well."""

    def __init__(self) -> None:
        self.servable = FakeServable(KEY)
        self.models = ModelTable(self._build)
        self.said: list[bool] = []
        self.failures: list[str] = []
        self.dog = Watchdog(self.models, say=self.said.append, on_failure=self.failures.append)
        self.dog.look()
        self.models.load("/sax/test/well", "p.M", "None", {}, {})
        self.models.load(KEY, "p.M", "None", {}, {})

    def _build(
        self, key: str, path: str, checkpoint: str, overrides: Mapping[str, str]
    ) -> FakeServable:
        if path == "p.Bad":
            raise errors.NotFoundError("no such checkpoint")
        return self.servable if key == KEY else FakeServable(key)


@pytest.fixture
def watched() -> _Watched:
    return _Watched()


def test_each_change_is_told_once(watched: _Watched) -> None:
    watched.dog.look()
    watched.servable.stall = Stall(73, 60)
    watched.dog.look()
    watched.dog.look()
    assert watched.said == [True, False]
    assert watched.dog.ready() == (False, f"{KEY}: {watched.servable.stall}")
    assert watched.dog.alive() == (True, "ok")
    watched.servable.stall = None
    watched.dog.look()
    assert watched.said == [True, False, True]
    assert watched.dog.ready() == (True, "serving")
    assert watched.failures == []


def test_a_step_that_hangs_is_for_the_supervisor(watched: _Watched) -> None:
    watched.servable.stall = Stall(301, 60)
    alive, why = watched.dog.alive()
    assert not alive
    assert "/sax/test/m: the present step has been running for 301 s" in why


def test_an_engine_that_broke_is_told_once_with_its_reason(watched: _Watched) -> None:
    watched.servable.failure = errors.UnavailableError("the engine has failed: device lost")
    watched.dog.look()
    watched.dog.look()
    assert watched.failures == [f"{KEY}: the engine has failed: device lost"]
    assert watched.said == [True, False]
    assert not watched.dog.alive()[0]
    assert not watched.dog.ready()[0]


def test_a_model_that_did_not_load_is_no_reason_to_end(watched: _Watched) -> None:
    with pytest.raises(errors.NotFoundError):
        watched.models.load("/sax/test/bad", "p.Bad", "None", {}, {})
    watched.dog.look()
    assert watched.dog.ready() == (False, "/sax/test/bad: no such checkpoint")
    assert watched.dog.alive() == (True, "ok")
    assert watched.failures == []


def test_draining_is_not_ready_and_unloading_is_no_failure(watched: _Watched) -> None:
    watched.models.unload(KEY)
    assert watched.dog.ready() == (True, "serving")
    watched.models.start_draining()
    watched.dog.look()
    assert watched.dog.ready() == (False, "draining")
    assert watched.dog.alive() == (True, "ok")
    assert watched.failures == []
