import gc
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from saxml.client.language_model import LanguageModel
from saxml.client.model_client import ClientOptions, ModelClient
from saxml.common.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    SaxError,
    UnavailableError,
)
from saxml.common.names import parse_cell
from saxml.proto import admin_pb2, lm_pb2
from saxml.storage.cell import NO_ADMIN_YET, CellStore
from tests.unit.client.stubs import chunk
from tests.unit.client.world import MODEL, World, wait_until

Code = grpc.StatusCode


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def text(lm: LanguageModel, timeout_s: float = 10) -> str:
    return lm.generate("hi", timeout_s=timeout_s)[0].text


def test_opening_contacts_nobody(world: World) -> None:
    client = world.client()
    client.close()
    assert not world.admin.requests


def test_generate_finds_the_server_and_sends_key_and_extra_inputs(world: World) -> None:
    server = world.server()
    world.admin.add_model(MODEL, server.address)
    assert text(world.lm()) == "one"
    (request,) = server.requests
    assert request.model_key == MODEL
    assert request.HasField("extra_inputs")
    assert 5 < (server.time_left[0] or 0) < 11


def test_default_deadline_is_a_minute(world: World) -> None:
    server = world.server()
    world.admin.add_model(MODEL, server.address)
    world.lm().generate("hi")
    assert 50 < (server.time_left[0] or 0) < 61


@pytest.mark.parametrize(
    "code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.NOT_FOUND], ids=lambda c: str(c.name)
)
def test_server_error_is_tried_again(world: World, code: Code) -> None:
    server = world.server()
    world.admin.add_model(MODEL, server.address)
    server.fail("Generate", code, code, code)
    assert text(world.lm()) == "one"
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "code",
    [
        Code.INVALID_ARGUMENT,
        Code.PERMISSION_DENIED,
        Code.INTERNAL,
        Code.UNKNOWN,
        Code.CANCELLED,
        Code.FAILED_PRECONDITION,
        Code.UNIMPLEMENTED,
    ],
    ids=lambda c: str(c.name),
)
def test_other_server_error_is_final(world: World, code: Code) -> None:
    server = world.server()
    world.admin.add_model(MODEL, server.address)
    server.fail("Generate", code)
    with pytest.raises(SaxError, match="scripted") as caught:
        text(world.lm())
    assert caught.value.code is code
    assert len(server.requests) == 1


def test_fail_fast_waits_only_for_a_model_that_is_being_loaded(world: World) -> None:
    server = world.server()
    world.admin.add_model(MODEL, server.address)
    server.fail("Generate", Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED)
    with pytest.raises(ResourceExhaustedError):
        text(world.lm(fail_fast=True))
    assert len(server.requests) == 2


def test_another_server_is_tried_first_after_a_failure(world: World) -> None:
    full, idle = world.server("full"), world.server("idle")
    world.admin.add_model(MODEL, full.address, idle.address)
    full.fail("Generate", *[Code.RESOURCE_EXHAUSTED] * 99)
    lm = world.lm()
    assert [text(lm) for _ in range(20)] == ["idle"] * 20
    assert len(full.requests) <= 20


def test_dead_server_in_the_set_is_passed_over(world: World) -> None:
    alive, dead = world.server("alive"), world.server("dead")
    dead.stop()
    world.admin.add_model(MODEL, dead.address, alive.address)
    lm = world.lm()
    assert [text(lm) for _ in range(10)] == ["alive"] * 10


def test_server_that_returns_on_its_port_is_used_again(world: World) -> None:
    server = world.server()
    world.admin.add_model(MODEL, server.address)
    lm = world.lm()
    assert text(lm) == "one"
    server.stop()
    with pytest.raises(UnavailableError, match=server.address):
        text(lm, timeout_s=0.3)
    world.server("again", port=int(server.address.split(":")[1]))
    assert text(lm) == "again"


def test_server_that_accepts_but_never_answers_the_dial_is_unavailable(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        alive = world.server("alive")
        world.admin.add_model(MODEL, address)
        lm = world.lm()
        start = time.monotonic()
        with pytest.raises(SaxError):
            text(lm, timeout_s=2.5)
        assert time.monotonic() - start < 4
        world.admin.change(MODEL, "+", alive.address)
        wait_until(lambda: text(lm) == "alive")


def test_unknown_model_fails_at_once(world: World) -> None:
    start = time.monotonic()
    with pytest.raises(NotFoundError, match="model /sax/test/nope not found"):
        text(LanguageModel(world.client("/sax/test/nope")), timeout_s=60)
    assert time.monotonic() - start < 5


def test_unknown_model_of_a_go_admin_server_is_not_found_too(world: World) -> None:
    world.admin.add_model(MODEL)
    world.admin.fail(
        "WatchLoc",
        Code.UNKNOWN,
        text="model /sax/test/lm not found: rpc error: code = NotFound desc = NotFound",
    )
    with pytest.raises(NotFoundError, match=r"^model /sax/test/lm not found$"):
        text(world.lm())


def test_call_waits_for_the_first_server(world: World) -> None:
    server = world.server()
    world.admin.add_model(MODEL)
    lm = world.lm()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(text, lm)
        wait_until(lambda: world.admin.count(admin_pb2.WatchLocRequest) == 1)
        assert not answer.done()
        world.admin.change(MODEL, "+", server.address)
        assert answer.result(10) == "one"


def test_model_without_server_ends_at_the_deadline(world: World) -> None:
    world.admin.add_model(MODEL)
    with pytest.raises(DeadlineExceededError, match="model /sax/test/lm has no model server yet"):
        text(world.lm(), timeout_s=0.3)


def test_changes_are_followed(world: World) -> None:
    one, two = world.server("one"), world.server("two")
    world.admin.add_model(MODEL, one.address)
    lm = world.lm()
    assert text(lm) == "one"
    world.admin.change(MODEL, "+", two.address)
    world.admin.change(MODEL, "-", one.address)
    wait_until(lambda: text(lm) == "two")
    assert {text(lm) for _ in range(10)} == {"two"}


def test_unpublished_model_is_not_found_and_found_when_published_again(world: World) -> None:
    server = world.server()
    world.admin.add_model(MODEL, server.address)
    lm = world.lm()
    assert text(lm) == "one"
    world.admin.remove_model(MODEL)

    def gone() -> bool:
        try:
            text(lm, timeout_s=0.5)
        except NotFoundError:
            return True
        except DeadlineExceededError:
            pass
        return False

    wait_until(gone)
    world.admin.add_model(MODEL, server.address)
    assert text(lm) == "one"


def test_addresses_survive_a_dead_admin_server_and_a_new_one_replaces_them(world: World) -> None:
    one, two = world.server("one"), world.server("two")
    world.admin.add_model(MODEL, one.address)
    lm = world.lm()
    assert text(lm) == "one"
    world.admin.stop()
    assert text(lm) == "one"
    # The new one listens elsewhere, counts from zero and knows another server.
    admin = world.start_admin("admin_2")
    admin.add_model(MODEL, two.address)
    wait_until(lambda: text(lm) == "two")
    assert {text(lm) for _ in range(10)} == {"two"}


def test_dead_admin_server_is_named_at_the_deadline(world: World) -> None:
    world.admin.stop()
    with pytest.raises(
        UnavailableError, match=rf"admin server of /sax/test at {world.admin.address}"
    ):
        text(world.lm(), timeout_s=0.5)


def test_cell_without_admin_server_fails_at_once(world: World) -> None:
    CellStore(str(world.root), parse_cell("/sax/test")).write_location(NO_ADMIN_YET)
    with pytest.raises(FailedPreconditionError, match="no admin server has been started"):
        text(world.lm())


def test_missing_cell_fails_at_once(world: World) -> None:
    with pytest.raises(SaxError, match="/sax/other"):
        text(LanguageModel(world.client("/sax/other/lm")))


def test_slow_server_is_cut_off_at_the_deadline(world: World) -> None:
    server = world.server()
    server.release.clear()
    world.admin.add_model(MODEL, server.address)
    start = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        text(world.lm(), timeout_s=0.5)
    assert time.monotonic() - start < 3


def test_calls_under_way_count_for_balancing(world: World) -> None:
    one, two = world.server("one"), world.server("two")
    world.admin.add_model(MODEL, one.address, two.address)
    lm = world.lm()
    wait_until(lambda: len({text(lm) for _ in range(10)}) == 2)
    one.release.clear()
    with ThreadPoolExecutor(1) as pool:
        before = len(one.requests)
        held = pool.submit(text, lm)
        while len(one.requests) == before:  # until one call hangs on server one
            if held.done():
                held = pool.submit(text, lm)
        assert {text(lm) for _ in range(20)} == {"two"}
        one.release.set()
        assert held.result(10) == "one"


def test_stream_yields_items_as_they_come(world: World) -> None:
    server = world.server()
    server.chunks = [chunk(("日本", 0, [-1.0])), chunk(("語", 2, [-2.0]))]
    world.admin.add_model(MODEL, server.address)
    so_far = ""
    for items in world.lm().generate_stream("hi", timeout_s=10):
        so_far = items[0].apply(so_far)
    assert so_far == "日本語"


def test_stream_error_before_the_first_item_is_tried_again(world: World) -> None:
    server = world.server()
    server.chunks = [chunk(("a", 0, [0.0]))]
    server.fail("GenerateStream", Code.UNAVAILABLE, Code.NOT_FOUND)
    world.admin.add_model(MODEL, server.address)
    assert len(list(world.lm().generate_stream("hi", timeout_s=10))) == 1
    assert len(server.requests) == 3


def test_stream_error_after_the_first_item_is_final(world: World) -> None:
    server = world.server()
    server.chunks = [chunk(("a", 0, [0.0]))]
    server.stream_error = Code.UNAVAILABLE
    world.admin.add_model(MODEL, server.address)
    items = world.lm().generate_stream("hi", timeout_s=10)
    assert next(items)[0].text == "a"
    with pytest.raises(UnavailableError, match="scripted mid-stream"):
        next(items)
    assert len(server.requests) == 1


def test_stream_without_items_ends(world: World) -> None:
    server = world.server()
    world.admin.add_model(MODEL, server.address)
    assert list(world.lm().generate_stream("hi", timeout_s=10)) == []


def test_abandoned_stream_is_cancelled_at_the_server(world: World) -> None:
    server = world.server()
    server.chunks = [chunk(("a", 0, [0.0])), chunk(("b", 1, [0.0]))]
    server.release.clear()
    world.admin.add_model(MODEL, server.address)
    items = world.lm().generate_stream("hi", timeout_s=10)
    next(items)
    items.close()
    assert server.stream_ended.wait(5)


def test_deprecated_score_counts_if_there_are_no_scores(world: World) -> None:
    server = world.server()
    item = lm_pb2.GenerateStreamItem(text="a", score=-3.0)
    server.chunks = [lm_pb2.GenerateStreamResponse(items=[item])]
    world.admin.add_model(MODEL, server.address)
    ((only,),) = world.lm().generate_stream("hi", timeout_s=10)
    assert only.scores == (-3.0,)


def test_proxy_is_called_without_the_admin_server(world: World) -> None:
    server = world.server("proxy")
    assert text(world.lm(proxy=server.address)) == "proxy"
    assert server.requests[0].model_key == MODEL
    assert not world.admin.requests


def test_dead_proxy_fails_by_the_deadline(world: World) -> None:
    server = world.server("proxy")
    server.stop()
    with pytest.raises(UnavailableError, match=server.address):
        text(world.lm(proxy=server.address), timeout_s=0.5)


def test_close_ends_waiting_and_running_calls_and_the_thread(world: World) -> None:
    server = world.server()
    server.release.clear()
    world.admin.add_model(MODEL, server.address)
    world.admin.add_model("/sax/test/empty")
    running, waiting = world.client(), world.client("/sax/test/empty")
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(text, LanguageModel(c), 30.0) for c in (running, waiting)]
        wait_until(lambda: len(server.requests) == 1)
        wait_until(lambda: world.admin.count(admin_pb2.WatchLocRequest) >= 2)
        running.close()
        waiting.close()
        for call in calls:
            assert isinstance(call.exception(10), CancelledError)
    assert not [t for t in threading.enumerate() if t.name.startswith("watch ")]
    with pytest.raises(CancelledError):
        text(LanguageModel(running))


def test_forgotten_client_leaves_no_thread(world: World) -> None:
    server = world.server()
    world.admin.add_model(MODEL, server.address)
    client = ModelClient(MODEL, lambda: str(world.root))
    assert text(LanguageModel(client)) == "one"
    assert [t for t in threading.enumerate() if t.name.startswith("watch ")]
    del client
    gc.collect()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("watch ")])


@pytest.mark.parametrize(
    "name", ["lm", "/sax/test", "/sax/Test/lm", "/sax/test/Lm", "/sax/test/lm/x"]
)
def test_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        ModelClient(name, lambda: "/")


def test_no_connections_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="num_conn"):
        ModelClient(MODEL, lambda: "/", ClientOptions(num_conn=0))
