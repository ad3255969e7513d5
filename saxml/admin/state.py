"""state.proto: what is published, kept in the cell's fs_root.

Every write is conditional on the generation that was read or written last, so that a second admin
server on the same cell is noticed instead of being overwritten.
"""

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from saxml.admin import validate
from saxml.common.errors import FailedPreconditionError, InvalidArgumentError
from saxml.common.names import CellId
from saxml.proto import admin_pb2
from saxml.storage.base import Store, open_store


class StateFile:
    """The file of one cell; one owner, one call at a time."""

    def __init__(self, fs_root: str, cell: CellId) -> None:
        self._store: Store = open_store(fs_root)
        self._cell = cell
        self._dir = cell.full.lstrip("/")
        self._name = f"{self._dir}/state.proto"
        self._generation = 0

    @property
    def path(self) -> str:
        """Where the file lies, for messages."""
        return f"{self._store.root}/{self._name}"

    def load(self) -> list[admin_pb2.Model]:
        """The published models; makes the folder where it is missing.

        Raises FailedPreconditionError, and changes nothing, if the file cannot be understood.
        """
        self._store.make_dir(self._dir)
        stored = self._store.read(self._name)
        if stored is None:
            self._generation = 0
            return []
        try:
            state = admin_pb2.State.FromString(stored.data)
        except DecodeError as error:
            raise FailedPreconditionError(
                f"{self.path} ({len(stored.data)} bytes) is not a state of a SAX cell: {error}. It "
                "was left as it is. Restore it from a backup, or move it away to start with "
                "nothing published"
            ) from error
        for model in state.models:
            self._check_id(model.model_id)
        self._generation = stored.generation
        return list(state.models)

    def _check_id(self, model_id: str) -> None:
        try:
            validate.model_of(self._cell, model_id)
        except InvalidArgumentError as error:
            raise FailedPreconditionError(
                f"{self.path} holds a model that cannot be in this cell: {error}. It was left as "
                "it is. Restore it from a backup, or move it away to start with nothing published"
            ) from error

    def save(self, models: Sequence[admin_pb2.Model]) -> None:
        """Replaces the published models, durably.

        Raises ConflictError if the file is not as this object has read or written it last.
        """
        data = admin_pb2.State(models=models).SerializeToString(deterministic=True)
        self._generation = self._store.write(self._name, data, if_generation=self._generation)
