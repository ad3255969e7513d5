"""state.proto: what is published, kept in the cell's fs_root, and fenced by terms.

Two things keep an admin server that was deposed from undoing what its successor did, whatever
clocks, pauses and lost replies do:

- Every write is conditional on the generation that was read or written last.
- Every write says for which term it was made (StateTerm, behind the bytes of State), and a file of
  a later term is not taken over for an earlier one: load() refuses it.

So a write is accepted only on top of a file of the same term or an earlier one, that is, terms in
the file never go down. A new leader reads the file and writes it again before it acknowledges
anything, which moves the generation: a write of its predecessor that is still on its way either
came before, and was read, or is refused. The same check finds a lease that has lost its count
(somebody removed it): the term in the file says where to go on.
"""

from collections.abc import Sequence
from typing import Protocol

from google.protobuf.message import DecodeError

from saxml.admin import validate
from saxml.common.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from saxml.common.names import CellId
from saxml.proto import admin_pb2, internal_pb2
from saxml.storage.base import Store, open_store


class Tenure(Protocol):
    """The term for which the file is written; election.Tenure is one."""

    term: int
    server_id: str

    def check(self) -> None:
        """Raises SaxError if the term is over."""

    def outgrow(self, term: int) -> None:
        """Ends the term because another one, as high or higher, has written the file."""


class LaterTermError(UnavailableError):
    """The file was written for a term that comes after ours, or for ours by another process."""


class StateFile:
    """The file of one cell; one owner, one call at a time."""

    def __init__(
        self,
        fs_root: str,
        cell: CellId,
        tenure: Tenure | None = None,
        *,
        store: Store | None = None,
    ) -> None:
        """tenure: None reads and writes without regard to terms. store: default open_store()."""
        self._store: Store = store if store is not None else open_store(fs_root)
        self._cell = cell
        self._dir = cell.full.lstrip("/")
        self._name = f"{self._dir}/state.proto"
        self._generation = 0
        self._tenure = tenure
        self._suffix = b""
        if tenure is not None:
            mark = internal_pb2.StateTerm(term=tenure.term, server_id=tenure.server_id)
            self._suffix = mark.SerializeToString(deterministic=True)

    @property
    def path(self) -> str:
        """Where the file lies, for messages."""
        return f"{self._store.root}/{self._name}"

    def load(self) -> list[admin_pb2.Model]:
        """The published models; makes the folder where it is missing.

        Raises FailedPreconditionError, and changes nothing, if the file cannot be understood;
        LaterTermError, after telling the tenure, if it belongs to a term after ours.
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
        if self._tenure is not None:
            self._check_term(self._tenure, internal_pb2.StateTerm.FromString(stored.data))
        self._generation = stored.generation
        return list(state.models)

    def save(self, models: Sequence[admin_pb2.Model]) -> None:
        """Replaces the published models, durably.

        Raises ConflictError if the file is not as this object has read or written it last, and
        whatever the tenure raises when it is over.
        """
        data = admin_pb2.State(models=models).SerializeToString(deterministic=True) + self._suffix
        if self._tenure is not None:
            self._tenure.check()
        self._generation = self._store.write(self._name, data, if_generation=self._generation)

    def _check_id(self, model_id: str) -> None:
        try:
            validate.model_of(self._cell, model_id)
        except InvalidArgumentError as error:
            raise FailedPreconditionError(
                f"{self.path} holds a model that cannot be in this cell: {error}. It was left as "
                "it is. Restore it from a backup, or move it away to start with nothing published"
            ) from error

    def _check_term(self, tenure: Tenure, found: internal_pb2.StateTerm) -> None:
        if found.term > tenure.term or (
            found.term == tenure.term and found.server_id != tenure.server_id
        ):
            tenure.outgrow(found.term)
            raise LaterTermError(
                f"{self.path} was written for term {found.term}, which comes after term "
                f"{tenure.term} of this admin server"
            )
