"""Loading, updating and unloading, with a model that only counts."""

import threading
from collections.abc import Mapping
from typing import cast

import pytest

from saxml.common import errors
from saxml.engine.heartbeat import Stall
from saxml.proto import common_pb2
from saxml.server.lifecycle import ModelTable
from saxml.server.servable import Servable

KEY = "/sax/test/m"


class FakeServable:
    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        self.unloaded = False
        self.waited = 0.0
        self.failure: errors.SaxError | None = None
        self.stall: Stall | None = None
        self.stats: dict[str, object] = {}

    def wait_until_idle(self, timeout_s: float) -> bool:
        self.waited = timeout_s
        return True

    def unload(self) -> None:
        self.unloaded = True


class Builder:
    """Builds FakeServables; raises what `error` says; waits while `gate` is closed."""

    def __init__(self) -> None:
        self.built: list[FakeServable] = []
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def __call__(
        self, key: str, path: str, checkpoint: str, overrides: Mapping[str, str]
    ) -> Servable:
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        self.built.append(FakeServable(checkpoint))
        return cast(Servable, self.built[-1])


@pytest.fixture
def builder() -> Builder:
    return Builder()


@pytest.fixture
def models(builder: Builder) -> ModelTable:
    return ModelTable(builder)


def statuses(models: ModelTable) -> list[tuple[str, int, str]]:
    listed = models.status(failure_reasons=True, method_stats=True)
    return [(m.model_key, m.model_status, m.failure_reason) for m in listed]


def test_loaded_model_is_found_and_loading_it_again_does_nothing(
    models: ModelTable, builder: Builder
) -> None:
    models.load(KEY, "p.M", "c", {}, {})
    models.load(KEY, "p.M", "c", {}, {})
    assert len(builder.built) == 1
    assert cast(object, models.get(KEY)) is builder.built[0]
    assert statuses(models) == [(KEY, common_pb2.LOADED, "")]


def test_failed_load_says_why_and_is_tried_again(models: ModelTable, builder: Builder) -> None:
    builder.error = errors.InvalidArgumentError("no such constant")
    with pytest.raises(errors.InvalidArgumentError, match="no such constant"):
        models.load(KEY, "p.M", "c", {}, {})
    assert statuses(models) == [(KEY, common_pb2.FAILED, "no such constant")]
    with pytest.raises(errors.NotFoundError, match="no such constant"):
        models.get(KEY)
    builder.error = KeyError("oops")
    with pytest.raises(errors.InternalError, match="Loading error"):
        models.load(KEY, "p.M", "c", {}, {})
    builder.error = None
    models.load(KEY, "p.M", "c", {}, {})
    assert cast(object, models.get(KEY)) is builder.built[0]


def test_update_reloads_only_for_another_checkpoint(models: ModelTable, builder: Builder) -> None:
    models.load(KEY, "p.M", "one", {}, {})
    models.update(KEY, "one", {"lm.score": "acl/x"})
    models.update(KEY, "", {})
    assert len(builder.built) == 1
    models.update(KEY, "two", {})
    assert builder.built[0].unloaded
    assert cast(FakeServable, models.get(KEY)).checkpoint == "two"


def test_unloaded_model_is_gone(models: ModelTable, builder: Builder) -> None:
    models.load(KEY, "p.M", "c", {}, {})
    models.unload(KEY)
    assert builder.built[0].unloaded
    assert builder.built[0].waited > 0
    assert statuses(models) == []
    with pytest.raises(errors.NotFoundError, match=r"already unloaded.*Available models: none"):
        models.get(KEY)
    with pytest.raises(errors.NotFoundError):
        models.unload(KEY)
    with pytest.raises(errors.NotFoundError):
        models.update(KEY, "c", {})


def test_lookups_do_not_wait_for_a_load(models: ModelTable, builder: Builder) -> None:
    models.load(KEY, "p.M", "c", {}, {})
    builder.gate.clear()
    loading = threading.Thread(target=models.load, args=("/sax/test/n", "p.M", "c", {}, {}))
    loading.start()
    while len(statuses(models)) < 2:
        pass
    assert cast(object, models.get(KEY)) is builder.built[0]
    assert statuses(models)[1] == ("/sax/test/n", common_pb2.LOADING, "")
    with pytest.raises(errors.UnavailableError, match="still loading"):
        models.unload("/sax/test/n")
    builder.gate.set()
    loading.join()
    assert statuses(models)[1][1] == common_pb2.LOADED


def test_model_whose_engine_broke_counts_as_failed_and_can_be_loaded_again(
    models: ModelTable, builder: Builder
) -> None:
    models.load(KEY, "p.M", "c", {}, {})
    builder.built[0].failure = errors.UnavailableError("the engine has failed: boom")
    assert statuses(models) == [(KEY, common_pb2.FAILED, "the engine has failed: boom")]
    models.load(KEY, "p.M", "c", {}, {})
    assert builder.built[0].unloaded
    assert statuses(models) == [(KEY, common_pb2.LOADED, "")]


def test_model_whose_step_stands_still_counts_as_loading_until_it_goes_on(
    models: ModelTable, builder: Builder
) -> None:
    models.load(KEY, "p.M", "c", {}, {})
    builder.built[0].stall = Stall(61, 60)
    assert statuses(models) == [(KEY, common_pb2.LOADING, str(builder.built[0].stall))]
    assert cast(object, models.get(KEY)) is builder.built[0], "who comes all the same is served"
    builder.built[0].stall = None
    assert statuses(models) == [(KEY, common_pb2.LOADED, "")]


def test_draining_server_takes_nothing_new_and_says_so(
    models: ModelTable, builder: Builder
) -> None:
    models.load(KEY, "p.M", "c", {}, {})
    models.start_draining()
    with pytest.raises(errors.UnavailableError, match="draining"):
        models.get(KEY)
    with pytest.raises(errors.UnavailableError, match="draining"):
        models.load("/sax/test/n", "p.M", "c", {}, {})
    assert statuses(models) == [(KEY, common_pb2.UNLOADING, "")]
    assert models.wait_until_idle(7)
    assert 0 < builder.built[0].waited <= 7
