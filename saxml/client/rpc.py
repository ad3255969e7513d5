"""The remote procedures a client calls, by name and types."""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

import grpc
from google.protobuf.message import Message

from saxml.proto import admin_pb2, lm_pb2, modelet_pb2

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_Item = TypeVar("_Item", covariant=True)

_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # A new channel dials at once, whatever an earlier one to the same address went through.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A server that stopped answering, while its machine goes on, loses its calls after 20 s. gRPC
    # sends two pings and then rarely, so that servers with default settings do not mind.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Without this one gRPC waits a minute for the answer to a ping.
    ("grpc.http2.ping_timeout_ms", 5_000),
]


def channel_options(timeout_s: float) -> list[tuple[str, int]]:
    """For a channel whose calls fail with UNAVAILABLE if it takes longer to connect."""
    return [*_CHANNEL_OPTIONS, ("grpc.min_reconnect_backoff_ms", int(timeout_s * 1000))]


def dial(address: str, timeout_s: float) -> grpc.Channel:
    """A channel to `address`; calls fail with UNAVAILABLE if it takes longer to connect."""
    return grpc.insecure_channel(address, options=channel_options(timeout_s))


class Responses(Protocol[_Item]):
    """A stream under way."""

    def __iter__(self) -> "Responses[_Item]": ...

    def __next__(self) -> _Item: ...

    def cancel(self) -> bool:
        """Ends the call; no effect on one that has ended."""


@dataclass(frozen=True, slots=True)
class Procedure(Generic[_Request, _Response]):
    """One remote procedure, such as /sax.Admin/List."""

    path: str
    request: type[_Request]
    response: type[_Response]

    def call(
        self, channel: grpc.Channel, request: _Request, timeout_s: float
    ) -> tuple[_Response, dict[str, str | bytes]]:
        """Waits for the answer and its trailers; raises grpc.RpcError."""
        method = channel.unary_unary(
            self.path,
            request_serializer=self.request.SerializeToString,
            response_deserializer=self.response.FromString,
        )
        response, call = method.with_call(request, timeout=timeout_s)
        return response, dict(call.trailing_metadata() or ())

    def stream(
        self, channel: grpc.Channel, request: _Request, timeout_s: float
    ) -> Responses[_Response]:
        """Starts the call; iterating raises grpc.RpcError."""
        method = channel.unary_stream(
            self.path,
            request_serializer=self.request.SerializeToString,
            response_deserializer=self.response.FromString,
        )
        return cast(Responses[_Response], method(request, timeout=timeout_s))


PUBLISH = Procedure("/sax.Admin/Publish", admin_pb2.PublishRequest, admin_pb2.PublishResponse)
UPDATE = Procedure("/sax.Admin/Update", admin_pb2.UpdateRequest, admin_pb2.UpdateResponse)
UNPUBLISH = Procedure(
    "/sax.Admin/Unpublish", admin_pb2.UnpublishRequest, admin_pb2.UnpublishResponse
)
LIST = Procedure("/sax.Admin/List", admin_pb2.ListRequest, admin_pb2.ListResponse)
STATS = Procedure("/sax.Admin/Stats", admin_pb2.StatsRequest, admin_pb2.StatsResponse)
WATCH_LOC = Procedure("/sax.Admin/WatchLoc", admin_pb2.WatchLocRequest, admin_pb2.WatchLocResponse)
WAIT_FOR_READY = Procedure(
    "/sax.Admin/WaitForReady", admin_pb2.WaitForReadyRequest, admin_pb2.WaitForReadyResponse
)

SAVE = Procedure("/sax.Modelet/Save", modelet_pb2.SaveRequest, modelet_pb2.SaveResponse)
EXPORT = Procedure("/sax.Modelet/Export", modelet_pb2.ExportRequest, modelet_pb2.ExportResponse)

_LM = "/sax.server.lm.LMService"
SCORE = Procedure(f"{_LM}/Score", lm_pb2.ScoreRequest, lm_pb2.ScoreResponse)
GENERATE = Procedure(f"{_LM}/Generate", lm_pb2.GenerateRequest, lm_pb2.GenerateResponse)
GENERATE_STREAM = Procedure(
    f"{_LM}/GenerateStream", lm_pb2.GenerateRequest, lm_pb2.GenerateStreamResponse
)
EMBED = Procedure(f"{_LM}/Embed", lm_pb2.EmbedRequest, lm_pb2.EmbedResponse)
GRADIENT = Procedure(f"{_LM}/Gradient", lm_pb2.GradientRequest, lm_pb2.GradientResponse)
