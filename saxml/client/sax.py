# ruff: noqa: N802 (the names of the Python module that SAX users know)
"""The Python API of SAX, for programs that use published models.

    import sax

    with sax.Model("/sax/test/lm") as model:
        for text, score in model.LM().Generate("Q: ..."):
            print(score, text)
    sax.Publish("/sax/test/lm", "saxml.server.pax.lm.params.gptj.GPTJ", "gs://bucket/ckpt", 1)

The root of all cells is SAX_ROOT, unless Options or AdminOptions name another. Errors are
SaxError (saxml.common.errors): a class for each status, `code` and a message. The same for asyncio
is sax.aio.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from types import TracebackType

from saxml.client.admin_client import AdminClient, new_model
from saxml.client.cells import cell_config, set_cell_acl
from saxml.client.language_core import Generated, Generation, ScoredToken, TokenLogProb
from saxml.client.language_model import LanguageModel as _LanguageModel
from saxml.client.model_client import ClientOptions, ModelClient
from saxml.client.sax_options import AdminOptions, ModelOptions, Options
from saxml.client.sax_types import (
    Chunk,
    ModelDetail,
    ModelServerTypeStat,
    cell_of,
    detail_of,
    type_stats,
)
from saxml.common.errors import InvalidArgumentError, SaxError
from saxml.proto import admin_pb2
from saxml.storage.cell import sax_root

__all__ = [
    "Admin",
    "AdminOptions",
    "Generated",
    "Generation",
    "GetACL",
    "LanguageModel",
    "List",
    "ListAll",
    "ListDetail",
    "Model",
    "ModelDetail",
    "ModelOptions",
    "ModelServerTypeStat",
    "Options",
    "Publish",
    "SaxError",
    "ScoredToken",
    "SetACL",
    "Stats",
    "TokenLogProb",
    "Unpublish",
    "Update",
    "WaitForReady",
]

StreamCallback = Callable[[bool, Chunk], None]


class LanguageModel:
    """Text in, text and numbers out; made by Model.LM()."""

    def __init__(self, model: "Model", lm: _LanguageModel) -> None:
        self._model = model  # keeps the connection
        self._lm = lm

    def Score(
        self, prefix: str, suffix: Sequence[str], options: ModelOptions | None = None
    ) -> list[float]:
        """Sum of log p(token) over each suffix, given the prefix."""
        if isinstance(suffix, str):
            raise InvalidArgumentError("suffix must be a list of texts, not one text")
        options = options or ModelOptions()
        return self._lm.score(prefix, suffix, options.ToProto(), options.timeout_s)

    def Generate(self, text: str, options: ModelOptions | None = None) -> list[tuple[str, float]]:
        """Pairs of text and score, best first."""
        options = options or ModelOptions()
        answers = self._lm.generate(text, options.ToProto(), options.timeout_s)
        return [(answer.text, answer.score) for answer in answers]

    def GenerateDetail(self, text: str, options: ModelOptions | None = None) -> Generation:
        """The same, with the tokens of answers and prompt and their log-probabilities, as far as
        extra inputs logprobs and prompt_logprobs ask for them."""
        options = options or ModelOptions()
        return self._lm.generate_detail(text, options.ToProto(), options.timeout_s)

    def GenerateStream(
        self, text: str, callback: StreamCallback, options: ModelOptions | None = None
    ) -> None:
        """Calls callback(last, [(text, prefix_len, scores), ...]) for each chunk, then returns.

        prefix_len counts the characters of the sample's text so far that stay before `text`. The
        final call has last = True and no items.
        """
        options = options or ModelOptions()
        chunks = self._lm.generate_stream(text, options.ToProto(), options.timeout_s)
        with closing(chunks):
            for items in chunks:
                callback(False, [(i.text, i.prefix_len, [*i.scores]) for i in items])
        callback(True, [])

    def Embed(self, text: str, options: ModelOptions | None = None) -> list[float]:
        """The embedding of a text."""
        options = options or ModelOptions()
        return self._lm.embed(text, options.ToProto(), options.timeout_s)

    def Gradient(
        self, prefix: str, suffix: str, options: ModelOptions | None = None
    ) -> tuple[list[float], dict[str, list[float]]]:
        """The score of a suffix and its gradients by tensor name."""
        options = options or ModelOptions()
        return self._lm.gradient(prefix, suffix, options.ToProto(), options.timeout_s)


class Model:
    """A published model, opened by name; nothing is contacted before the first call."""

    def __init__(self, id: str, options: Options | None = None) -> None:
        options = options or Options()
        root = options.sax_root
        self._client = ModelClient(
            id,
            lambda: sax_root(root),
            ClientOptions(options.num_conn, options.proxy_addr, options.fail_fast),
        )

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.Close()

    def LM(self) -> LanguageModel:
        """Its language model methods."""
        return LanguageModel(self, _LanguageModel(self._client))

    def Close(self) -> None:
        """Ends calls under way, connections and threads; also done when the model is collected."""
        self._client.close()


class Admin:
    """The admin server of a cell, or of a model's cell: Admin("/sax/test")."""

    def __init__(self, id: str, options: AdminOptions | None = None) -> None:
        self._options = options or AdminOptions()
        self._cell = cell_of(id)
        self._root = sax_root(self._options.sax_root)
        self._client = AdminClient(self._root, self._cell)

    def __enter__(self) -> "Admin":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.Close()

    def Close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def Publish(
        self,
        id: str,
        model_path: str,
        checkpoint_path: str,
        num_replicas: int,
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        """Publishes a model; overrides are JSON values by the name of a decode constant."""
        model = new_model(id, model_path, checkpoint_path, num_replicas, overrides)
        self._client.publish(model, self._options.timeout_s)

    def Update(self, id: str, model_path: str, checkpoint_path: str, num_replicas: int) -> None:
        """Changes checkpoint and replicas of a model; its overrides and ACLs stay."""
        self._client.change(
            id,
            self._options.timeout_s,
            model_path=model_path,
            checkpoint_path=checkpoint_path,
            num_replicas=num_replicas,
        )

    def Unpublish(self, id: str) -> None:
        """Takes a model away from its servers."""
        self._client.unpublish(id, self._options.timeout_s)

    def List(self, id: str) -> tuple[str, str, int]:
        """Model path, checkpoint path and number of replicas asked for."""
        model = self._get(id).model
        return model.model_path, model.checkpoint_path, model.requested_num_replicas

    def ListDetail(self, id: str) -> ModelDetail:
        """The same, with the replicas there are, and the overrides."""
        return detail_of(self._get(id))

    def ListAll(self) -> list[str]:
        """Ids of all published models."""
        return [m.model.model_id for m in self._client.list_models(self._options.timeout_s)]

    def Stats(self, id: str = "") -> list[ModelServerTypeStat]:
        """Model servers by chip and topology, of the whole cell or of one model."""
        return type_stats(self._client.stats(id, self._options.timeout_s))

    def WaitForReady(self, id: str, num_replicas: int) -> None:
        """Waits until so many replicas are loaded."""
        self._client.wait_for_ready(id, num_replicas, self._options.timeout_s)

    def GetACL(self, id: str, method: str = "") -> str:
        """The ACL of a model's method, or, without one, that for administering a model or cell."""
        if id == self._cell.full:
            return cell_config(self._root, self._cell).admin_acl
        admin_acl, acls = self._client.get_acls(id, self._options.timeout_s)
        return (acls or {}).get(method, "") if method else admin_acl

    def SetACL(self, id: str, acl: str, method: str = "") -> None:
        """Sets it; "" removes that of a method."""
        if id == self._cell.full:
            set_cell_acl(self._root, self._cell, acl)
        else:
            self._client.set_acl(id, acl, method or None, self._options.timeout_s)

    def _get(self, id: str) -> admin_pb2.PublishedModel:
        return self._client.list_model(id, self._options.timeout_s)


def Publish(
    id: str,
    model_path: str,
    checkpoint_path: str,
    num_replicas: int,
    overrides: Mapping[str, str] | None = None,
    options: AdminOptions | None = None,
) -> None:
    """Admin(id).Publish."""
    with Admin(id, options) as admin:
        admin.Publish(id, model_path, checkpoint_path, num_replicas, overrides)


def Update(
    id: str,
    model_path: str,
    checkpoint_path: str,
    num_replicas: int,
    options: AdminOptions | None = None,
) -> None:
    """Admin(id).Update."""
    with Admin(id, options) as admin:
        admin.Update(id, model_path, checkpoint_path, num_replicas)


def Unpublish(id: str, options: AdminOptions | None = None) -> None:
    """Admin(id).Unpublish."""
    with Admin(id, options) as admin:
        admin.Unpublish(id)


def List(id: str, options: AdminOptions | None = None) -> tuple[str, str, int]:
    """Admin(id).List."""
    with Admin(id, options) as admin:
        return admin.List(id)


def ListDetail(id: str, options: AdminOptions | None = None) -> ModelDetail:
    """Admin(id).ListDetail."""
    with Admin(id, options) as admin:
        return admin.ListDetail(id)


def ListAll(id: str, options: AdminOptions | None = None) -> list[str]:
    """Admin(id).ListAll."""
    with Admin(id, options) as admin:
        return admin.ListAll()


def Stats(id: str, options: AdminOptions | None = None) -> list[ModelServerTypeStat]:
    """Admin(id).Stats, of the cell or of a model."""
    with Admin(id, options) as admin:
        return admin.Stats("" if id.count("/") == 2 else id)


def WaitForReady(id: str, num_replicas: int, options: AdminOptions | None = None) -> None:
    """Admin(id).WaitForReady."""
    with Admin(id, options) as admin:
        admin.WaitForReady(id, num_replicas)


def GetACL(id: str, method: str = "", options: AdminOptions | None = None) -> str:
    """Admin(id).GetACL."""
    with Admin(id, options) as admin:
        return admin.GetACL(id, method)


def SetACL(id: str, acl: str, method: str = "", options: AdminOptions | None = None) -> None:
    """Admin(id).SetACL."""
    with Admin(id, options) as admin:
        admin.SetACL(id, acl, method)
