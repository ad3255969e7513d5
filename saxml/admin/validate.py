"""What an admin request must look like; each check raises the error that SAX users know."""

from saxml.common import names
from saxml.common.errors import InvalidArgumentError, UnimplementedError
from saxml.common.names import CellId, ModelId
from saxml.proto import admin_pb2

METHODS = (
    "am.recognize",
    "lm.embed",
    "lm.generate",
    "lm.generate_stream",
    "lm.gradient",
    "lm.score",
    "mm.generate",
    "vm.classify",
    "vm.detect",
    "vm.embed",
    "vm.generate",
    "vm.image_to_image",
    "vm.image_to_text",
    "vm.text_and_image_to_text",
    "vm.video_to_text",
)
_ACL_PREFIX = "acl/"


def braced(model_id: ModelId) -> str:
    """How admin messages name a model: {test lm}."""
    return f"{{{model_id.cell} {model_id.model}}}"


def model_of(cell: CellId, text: str) -> ModelId:
    """The model called `text`, which must be of this cell."""
    model_id = names.parse_model(text)
    if model_id.cell_id != cell:
        raise InvalidArgumentError(f"model {text} must be within SAX cell {names.quote(cell.full)}")
    return model_id


def check_model(cell: CellId, model: admin_pb2.Model) -> ModelId:
    """A model as Publish and Update take it."""
    model_id = model_of(cell, model.model_id)
    names.check_model_path(model.model_path)
    names.check_checkpoint(model.checkpoint_path)
    if model.requested_num_replicas < 0:
        raise InvalidArgumentError(
            f"number of replicas {model.requested_num_replicas} must be non-negative"
        )
    _check_acl(model.admin_acl)
    for method, acl in sorted(model.acls.items.items()):
        if method not in METHODS:
            known = " ".join(f"{m}:{{}}" for m in METHODS)
            raise InvalidArgumentError(f"{method} is not a valid method name (map[{known}])")
        _check_acl(acl)
    return model_id


def check_update(old: admin_pb2.Model, new: admin_pb2.Model) -> None:
    """What Update may not change."""
    if old.model_path != new.model_path:
        raise InvalidArgumentError("invalid model update: model path can't be changed")


def check_join(request: admin_pb2.JoinRequest) -> None:
    """A model server as it joins."""
    if not request.address:
        raise InvalidArgumentError("JoinRequest.modelet_address cannot be empty")
    if not request.HasField("model_server"):
        raise InvalidArgumentError("JoinRequest.modelet missing")


def _check_acl(name: str) -> None:
    if not name:
        return
    if not name.startswith(_ACL_PREFIX):
        raise InvalidArgumentError(
            f"{name} is not a valid ACL name (must start with one of [{_ACL_PREFIX}])"
        )
    raise UnimplementedError("ACL check is not supported")
