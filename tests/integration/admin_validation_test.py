"""Each answer to a bad request, with the status it deserves and the text that users know."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from saxml.admin.validate import METHODS
from saxml.proto import admin_pb2
from tests.integration import admin_cell
from tests.integration.admin_cell import RunningAdmin

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
FORM = "should have the form /sax/<cell name>/<model name>"
ALL_METHODS = " ".join(f"{m}:{{}}" for m in METHODS)


@pytest.fixture(scope="module")
def admin() -> Iterator[RunningAdmin]:
    admin_cell.create_cell("mem://validation", "mem://validation/fs")
    with admin_cell.running("mem://validation") as running:
        running.publish("/sax/test/there")
        yield running


def _model(**fields: Any) -> admin_pb2.Model:
    values = {
        "model_id": "/sax/test/lm",
        "model_path": "p.Lm",
        "checkpoint_path": "None",
        "requested_num_replicas": 1,
        **fields,
    }
    return admin_pb2.Model(**values)


def _acl(method: str, name: str) -> dict[str, Any]:
    return {"acls": {"items": {method: name}}}


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"model_id": ""}, INVALID, f'model full name "" {FORM}'),
        ({"model_id": "bad"}, INVALID, f'model full name "bad" {FORM}'),
        (
            {"model_id": "/sax/other/lm"},
            INVALID,
            'model /sax/other/lm must be within SAX cell "/sax/test"',
        ),
        (
            {"model_id": "/sax/test/Lm"},
            INVALID,
            'model name "Lm" must match "^[a-z]+[a-z0-9-_]*$"',
        ),
        (
            {"model_id": "/sax/test/lm/x"},
            INVALID,
            'cell full name "/sax/test/lm" should have the form /sax/<cell name>',
        ),
        *(
            (
                {"model_path": path},
                INVALID,
                f'model path "{path}" must match "^[a-zA-Z]+[a-zA-Z0-9_.-]*$"',
            )
            for path in ("", "a/b", "1abc")
        ),
        *(
            (
                {"checkpoint_path": path},
                INVALID,
                f'checkpoint path "{path}" must match '
                r'"^(/|\\d|\\w|_|\\.|-|%|:|=|\\||\\+)+$"',
            )
            for path in ("", "a b")
        ),
        (
            {"requested_num_replicas": -1},
            INVALID,
            "number of replicas -1 must be non-negative",
        ),
        (_acl("lm.score", "acl/x"), grpc.StatusCode.UNIMPLEMENTED, "ACL check is not supported"),
        ({"admin_acl": "acl/y"}, grpc.StatusCode.UNIMPLEMENTED, "ACL check is not supported"),
        (
            _acl("lm.score", "x"),
            INVALID,
            "x is not a valid ACL name (must start with one of [acl/])",
        ),
        (
            _acl("bogus", "acl/x"),
            INVALID,
            f"bogus is not a valid method name (map[{ALL_METHODS}])",
        ),
    ],
)
def test_bad_models_are_refused(
    admin: RunningAdmin, fields: dict[str, Any], code: grpc.StatusCode, text: str
) -> None:
    model = _model(**fields)
    for method, request in (
        ("Publish", admin_pb2.PublishRequest(model=model)),
        ("Update", admin_pb2.UpdateRequest(model=model)),
    ):
        error = admin.error(method, request)
        assert (error.code, str(error)) == (code, text)
    assert [m.model.model_id for m in admin.listed()] == ["/sax/test/there"]


def test_an_empty_request_is_refused(admin: RunningAdmin) -> None:
    error = admin.error("Publish", admin_pb2.PublishRequest())
    assert (error.code, str(error)) == (INVALID, f'model full name "" {FORM}')


def test_unusual_but_good_models_are_taken(admin: RunningAdmin) -> None:
    admin.publish("/sax/test/a_b-9", 0, checkpoint_path="gs://b/x+y", **_acl("lm.score", ""))
    (item,) = admin.listed("/sax/test/a_b-9")
    assert item.model.checkpoint_path == "gs://b/x+y"
    assert item.model.requested_num_replicas == 0
    admin.unpublish("/sax/test/a_b-9")


def test_a_model_is_published_once(admin: RunningAdmin) -> None:
    request = admin_pb2.PublishRequest(model=_model(model_id="/sax/test/there"))
    error = admin.error("Publish", request)
    assert error.code is grpc.StatusCode.ALREADY_EXISTS
    assert str(error) == "model {test there} already exists"


def test_the_model_path_is_fixed(admin: RunningAdmin) -> None:
    model = _model(model_id="/sax/test/there", model_path="x.Y")
    error = admin.error("Update", admin_pb2.UpdateRequest(model=model))
    text = "invalid model update: model path can't be changed"
    assert (error.code, str(error)) == (INVALID, text)


def test_unknown_models_are_told(admin: RunningAdmin) -> None:
    for method, request in (
        ("Update", admin_pb2.UpdateRequest(model=_model())),
        ("Unpublish", admin_pb2.UnpublishRequest(model_id="/sax/test/lm")),
        ("List", admin_pb2.ListRequest(model_id="/sax/test/lm")),
        ("Stats", admin_pb2.StatsRequest(model_id="/sax/test/lm")),
        ("WaitForReady", admin_pb2.WaitForReadyRequest(model_id="/sax/test/lm", num_replicas=1)),
    ):
        error = admin.error(method, request)
        assert (error.code, str(error)) == (NOT_FOUND, "model {test lm} not found"), method
    error = admin.error("WatchLoc", admin_pb2.WatchLocRequest(model_id="/sax/test/lm"))
    assert (error.code, str(error)) == (NOT_FOUND, "model /sax/test/lm not found")


def test_malformed_names_are_told_by_every_method(admin: RunningAdmin) -> None:
    for method, request in (
        ("Unpublish", admin_pb2.UnpublishRequest(model_id="bad")),
        ("List", admin_pb2.ListRequest(model_id="bad")),
        ("Stats", admin_pb2.StatsRequest(model_id="bad")),
        ("WatchLoc", admin_pb2.WatchLocRequest(model_id="bad")),
        ("WaitForReady", admin_pb2.WaitForReadyRequest(model_id="bad")),
    ):
        error = admin.error(method, request)
        assert (error.code, str(error)) == (INVALID, f'model full name "bad" {FORM}'), method


def test_a_negative_seqno_is_refused(admin: RunningAdmin) -> None:
    request = admin_pb2.WatchLocRequest(model_id="/sax/test/there", seqno=-1)
    error = admin.error("WatchLoc", request)
    assert (error.code, str(error)) == (INVALID, "WatchLoc seqno -1 should be non-negative")


def test_incomplete_joins_are_refused(admin: RunningAdmin) -> None:
    for request, text in (
        (admin_pb2.JoinRequest(), "JoinRequest.modelet_address cannot be empty"),
        (admin_pb2.JoinRequest(address="127.0.0.1:1"), "JoinRequest.modelet missing"),
    ):
        error = admin.error("Join", request)
        assert (error.code, str(error)) == (INVALID, text)


def test_a_server_that_cannot_be_reached_may_not_join(admin: RunningAdmin) -> None:
    request = admin_pb2.JoinRequest(
        address="127.0.0.1:1", model_server=admin_pb2.ModelServer(servable_model_paths=["p.Lm"])
    )
    error = admin.error("Join", request)
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert str(error) == (
        "failed to start a connection with 127.0.0.1:1: Start failed to create a client for model "
        "server 127.0.0.1:1: context deadline exceeded"
    )
