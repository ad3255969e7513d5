"""The admin server under requests that nobody means: it answers, never with a defect, and lives."""

import pathlib
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saxml.proto import admin_pb2, admin_pb2_grpc
from tests.integration import admin_cell
from tests.integration.processes import Process

_TIMEOUT_S = 10.0
_METHODS = tuple(admin_pb2.DESCRIPTOR.services_by_name["Admin"].methods)
# These wait for something by design, Join for the server that it names.
_WAITING = {"WatchLoc", "WaitForReady", "Join"}
_DEFECTS = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
}
# What a field holds in a request that is meant; else it holds anything.
_USUAL = {
    "model_id": ["/sax/test/lm", "/sax/test/x", "/sax/other/lm"],
    "model_path": ["p.Lm", "saxml.server.pax.lm.params.gptj.GPTJ"],
    "checkpoint_path": ["None", "/no/such/checkpoint"],
    "admin_acl": [""],
    "address": ["127.0.0.1:1", "[::1]:99999", "unix:/tmp/none", "dns:///none.invalid:1"],
    "key": ["lm.generate", "ram", "constraints"],
    "value": ["", "4000000", '{"a": [1]}', "acl/all"],
}
_any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_numbers = st.one_of(st.integers(-3, 5), st.sampled_from([2**31 - 1, -(2**31)]))


def _scalar(field: Any) -> st.SearchStrategy[Any]:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return st.binary(max_size=40)
            usual = _USUAL.get(field.name)
            return st.one_of(*[st.sampled_from(usual)] * 6, _any_text) if usual else _any_text
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return st.floats(width=32)
        case FieldDescriptor.CPPTYPE_ENUM:
            return st.integers(-1, 30)
        case FieldDescriptor.CPPTYPE_UINT32 | FieldDescriptor.CPPTYPE_UINT64:
            return st.integers(0, 2**32 - 1)
        case _:
            return _numbers


@st.composite
def _messages(draw: Any, kind: Descriptor) -> bytes:
    """The bytes of a message of this kind, with any of its fields."""
    message = _new(kind)
    _fill(draw, message)
    return bytes(message.SerializeToString())


def _new(kind: Descriptor) -> Message:
    return getattr(admin_pb2, kind.name)()  # type: ignore[no-any-return]


def _fill(draw: Any, message: Message) -> None:
    for field in message.DESCRIPTOR.fields:
        if not draw(st.integers(0, 7)):
            continue
        holder = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            entries = draw(st.dictionaries(_scalar(key), st.just(None), max_size=2))
            for name in entries:
                if value.message_type is not None:
                    _fill(draw, holder[name])
                else:
                    holder[name] = draw(_scalar(value))
        elif field.message_type is not None:
            if field.is_repeated:
                for _ in range(draw(st.integers(0, 2))):
                    _fill(draw, holder.add())
            else:
                holder.SetInParent()
                _fill(draw, holder)
        elif field.is_repeated:
            holder.extend(draw(st.lists(_scalar(field), max_size=3)))
        else:
            setattr(message, field.name, draw(_scalar(field)))


@st.composite
def _mutated(draw: Any, kind: Descriptor) -> bytes:
    """Such bytes with some of them overwritten, left out or doubled."""
    data = bytearray(draw(_messages(kind)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(data)


# Requests that are meant, so that the others find models to change.
_MEANT = {
    "Publish": admin_pb2.PublishRequest(
        model=admin_pb2.Model(
            model_id="/sax/test/lm",
            model_path="p.Lm",
            checkpoint_path="None",
            requested_num_replicas=1,
        )
    ),
    "Unpublish": admin_pb2.UnpublishRequest(model_id="/sax/test/lm"),
}


def _requests(method: Any) -> st.SearchStrategy[tuple[str, bytes]]:
    kinds = [_messages(method.input_type), _mutated(method.input_type)]
    if (meant := _MEANT.get(method.name)) is not None:
        kinds.append(st.just(meant.SerializeToString()))
    return st.tuples(st.just(method.name), st.one_of(kinds))


_calls = st.sampled_from(_METHODS).flatmap(_requests)


def _start(root: str) -> tuple[Process, grpc.Channel]:
    """An admin server in a process of its own that leads, and a line to it."""
    flags = ("--sax_cell=/sax/test", f"--sax_root={root}", "--port=0", "--http_port=0")
    server = Process("saxml.admin.admin_server", *flags)
    port = server.wait_for(r"Starting the server on port (\d+)")[1]
    server.wait_for("Refreshing manager state")
    return server, grpc.insecure_channel(f"127.0.0.1:{port}")


def _listed(channel: grpc.Channel) -> list[admin_pb2.Model]:
    stub: Any = admin_pb2_grpc.AdminStub(channel)
    response = stub.List(admin_pb2.ListRequest(), timeout=_TIMEOUT_S, wait_for_ready=True)
    return [p.model for p in response.published_models]


def test_no_request_is_answered_with_a_defect(tmp_path: pathlib.Path) -> None:
    root = str(tmp_path / "root")
    admin_cell.create_cell(root, str(tmp_path / "fs"))
    codes: set[tuple[str, grpc.StatusCode]] = set()

    server, channel = _start(root)
    with server, channel:
        _listed(channel)

        @given(_calls)
        @settings(
            max_examples=1000,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def send(call: tuple[str, bytes]) -> None:
            method, data = call
            rpc: Any = channel.unary_unary(f"/sax.Admin/{method}", None, None)
            code, details = grpc.StatusCode.OK, ""
            try:
                rpc(data, timeout=0.05 if method in _WAITING else _TIMEOUT_S)
            except grpc.RpcError as error:
                code, details = error.code(), error.details() or ""
            assert code not in _DEFECTS, f"{method}: {details}"
            late = code == grpc.StatusCode.DEADLINE_EXCEEDED
            assert not late or method in _WAITING, f"{method}: {details}"
            codes.add((method, code))

        send()
        # Both sides of the checks were seen, so the requests were worth sending.
        for method in ("Publish", "List", "Stats"):
            assert (method, grpc.StatusCode.OK) in codes
            assert (method, grpc.StatusCode.INVALID_ARGUMENT) in codes
        published = _listed(channel)
        server.terminate()
        assert server.wait() == 0, server.output
    server, channel = _start(root)
    with server, channel:
        # What was acknowledged can be read again, whatever it is.
        assert _listed(channel) == published
