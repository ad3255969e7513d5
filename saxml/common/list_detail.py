"""How published models are: what our admin server adds to its answer to List.

It follows the bytes of ListResponse (internal.proto), so that one call tells it of all models and
clients of another make pass over it.
"""

from collections.abc import Iterable

from saxml.proto import admin_pb2, internal_pb2


def add(response: admin_pb2.ListResponse, details: Iterable[internal_pb2.ModelDetail]) -> None:
    """Adds the details to the answer."""
    response.MergeFromString(internal_pb2.ListDetail(models=details).SerializeToString())


def found(response: admin_pb2.ListResponse) -> dict[str, internal_pb2.ModelDetail]:
    """The details by model; none from an admin server of another make."""
    detail = internal_pb2.ListDetail.FromString(response.SerializeToString())
    return {model.model_id: model for model in detail.models}
