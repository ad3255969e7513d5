import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from saxml.client.admin_client import AdminClient, new_model
from saxml.client.admin_link import code_name
from saxml.common.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    NotFoundError,
    SaxError,
    UnavailableError,
)
from saxml.common.names import parse_cell
from saxml.proto import admin_pb2
from tests.unit.client.world import MODEL, World, wait_until

Code = grpc.StatusCode


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


@pytest.fixture
def admin(world: World) -> Iterator[AdminClient]:
    with AdminClient(str(world.root), parse_cell("/sax/test")) as client:
        yield client


def test_publish_sends_the_model(world: World, admin: AdminClient) -> None:
    admin.publish(new_model(MODEL, "p.M", "None", 2, {"BATCH_SIZE": "[2]"}), 10)
    (request,) = world.admin.requests
    assert request.model == admin_pb2.Model(
        model_id=MODEL,
        model_path="p.M",
        checkpoint_path="None",
        requested_num_replicas=2,
        overrides={"BATCH_SIZE": "[2]"},
    )
    assert 5 < (world.admin.time_left[0] or 0) < 11


def test_name_that_is_being_unpublished_is_waited_for(world: World, admin: AdminClient) -> None:
    world.admin.fail("Publish", Code.UNAVAILABLE, Code.UNAVAILABLE, text="is being unpublished")
    admin.publish(new_model(MODEL, "p.M", "None", 1), 10)
    assert MODEL in world.admin.models


def test_taken_name_is_an_error(world: World, admin: AdminClient) -> None:
    world.admin.add_model(MODEL)
    with pytest.raises(AlreadyExistsError, match="already exists"):
        admin.publish(new_model(MODEL, "p.M", "None", 1), 10)


def test_publish_whose_reply_was_lost_succeeds(world: World, admin: AdminClient) -> None:
    world.admin.add_model(MODEL, checkpoint_path="None", requested_num_replicas=1)
    world.admin.fail("Publish", Code.UNAVAILABLE)
    admin.publish(new_model(MODEL, "p.M", "None", 1), 10)


def test_publish_of_another_model_after_a_lost_reply_fails(
    world: World, admin: AdminClient
) -> None:
    world.admin.add_model(MODEL, checkpoint_path="other", requested_num_replicas=1)
    world.admin.fail("Publish", Code.UNAVAILABLE)
    with pytest.raises(AlreadyExistsError):
        admin.publish(new_model(MODEL, "p.M", "None", 1), 10)


def test_unpublish_whose_reply_was_lost_succeeds(world: World, admin: AdminClient) -> None:
    world.admin.fail("Unpublish", Code.UNAVAILABLE)
    admin.unpublish(MODEL, 10)
    with pytest.raises(NotFoundError):
        admin.unpublish(MODEL, 10)


def test_list_sorts_and_names_what_is_missing(world: World, admin: AdminClient) -> None:
    world.admin.add_model("/sax/test/b")
    world.admin.add_model("/sax/test/a", "1.2.3.4:5")
    names = [m.model.model_id for m in admin.list_models(10)]
    assert names == ["/sax/test/a", "/sax/test/b"]
    assert [*admin.list_model("/sax/test/a", 10).modelet_addresses] == ["1.2.3.4:5"]
    with pytest.raises(NotFoundError, match="model /sax/test/c not found"):
        admin.list_model("/sax/test/c", 10)


def test_acls_are_set_and_removed_and_the_rest_of_the_model_stays(
    world: World, admin: AdminClient
) -> None:
    world.admin.add_model(MODEL, overrides={"A": "1"})
    assert admin.get_acls(MODEL) == ("", None)
    admin.set_acl(MODEL, "acl/all")
    admin.set_acl(MODEL, "acl/all", "lm.score")
    assert admin.get_acls(MODEL) == ("acl/all", {"lm.score": "acl/all"})
    admin.set_acl(MODEL, "", "lm.score")
    assert admin.get_acls(MODEL) == ("acl/all", {})
    assert dict(world.admin.models[MODEL].model.overrides) == {"A": "1"}


def test_new_leader_is_found(world: World, admin: AdminClient) -> None:
    assert admin.list_models(10) == []
    world.admin.stop()
    successor = world.start_admin("admin_2")
    successor.add_model(MODEL)
    assert [m.model.model_id for m in admin.list_models(10)] == [MODEL]


def test_dead_admin_server_fails_in_time_and_is_named(world: World, admin: AdminClient) -> None:
    world.admin.stop()
    start = time.monotonic()
    with pytest.raises(UnavailableError, match=rf"at {world.admin.address}: .*gave up after"):
        admin.list_models(0.5)
    assert time.monotonic() - start < 3


def test_silent_admin_server_fails_in_time(world: World, admin: AdminClient) -> None:
    world.admin.silent.set()
    with pytest.raises(
        DeadlineExceededError, match=r"admin server of /sax/test: no answer in 0\.3"
    ):
        admin.list_models(0.3)
    world.admin.silent.clear()


def test_watch_gives_changes_until_the_model_is_gone(world: World, admin: AdminClient) -> None:
    world.admin.add_model(MODEL, "a:1", "b:2")
    changes = admin.watch(MODEL, 10)
    first = next(changes)
    assert first.reset
    assert first.steps == (("+", "a:1"), ("+", "b:2"))
    world.admin.change(MODEL, "-", "a:1")
    assert next(changes).steps == (("-", "a:1"),)
    asked = world.admin.count(admin_pb2.WatchLocRequest)
    with ThreadPoolExecutor(1) as pool:
        last = pool.submit(next, changes)
        wait_until(lambda: world.admin.count(admin_pb2.WatchLocRequest) > asked)
        world.admin.remove_model(MODEL)
        assert last.result(10).reset
    with pytest.raises(NotFoundError, match="not found"):
        next(changes)


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (Code.UNKNOWN, "no: rpc error: code = NotFound desc = NotFound", (Code.NOT_FOUND, "no")),
        (Code.UNKNOWN, "c: rpc error: code = Canceled desc = x", (Code.CANCELLED, "c")),
        (Code.UNKNOWN, "strange", (Code.UNKNOWN, "strange")),
        (
            Code.INTERNAL,
            "x: rpc error: code = NotFound desc = y",
            (Code.INTERNAL, "x: rpc error: code = NotFound desc = y"),
        ),
    ],
)
def test_status_inside_the_text_of_an_unknown_error_counts(
    world: World,
    admin: AdminClient,
    code: grpc.StatusCode,
    details: str,
    expected: tuple[grpc.StatusCode, str],
) -> None:
    world.admin.fail("List", code, text=details)
    with pytest.raises(SaxError) as caught:
        admin.list_models(10)
    assert (caught.value.code, str(caught.value)) == expected


def test_status_names_are_those_of_go() -> None:
    names = [code_name(c) for c in (Code.OK, Code.NOT_FOUND, Code.CANCELLED, Code.DATA_LOSS)]
    assert names == ["OK", "NotFound", "Canceled", "DataLoss"]
