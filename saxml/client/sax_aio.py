# ruff: noqa: N802 (the names of the Python module that SAX users know)
"""The Python API of SAX for asyncio: the names of module sax, to be awaited.

    async with sax.aio.Model("/sax/test/lm") as model:
        answers = await model.LM().Generate("Q: ...")
        async for chunk in model.LM().GenerateStream("Q: ..."):
            ...
    await sax.aio.Publish("/sax/test/lm", "saxml.server.pax.lm.params.gptj.GPTJ", "gs://b/ckpt", 1)

Finding servers, choosing and trying again are the very code that sax runs: it is written once, over
a driver that says how to wait. Here that is gRPC's asyncio, so a call costs no thread, however many
are under way, and cancelling the task that awaits (or asyncio.timeout around it) cancels the call
at the server. The price: channels belong to an event loop. A Model or Admin belongs to the one in
which it is first used, and an error says so when another uses it. Two things are still done by
threads, for they block: one thread for each Model keeps its addresses up to date, as in sax, and
the cell's files, in a folder or a bucket, are read in the loop's executor, when an admin server is
looked for.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from types import TracebackType

from saxml.client.admin_core import AdminCore, new_model
from saxml.client.aio_driver import AioDriver
from saxml.client.cells import cell_config, set_cell_acl
from saxml.client.language_core import Generation, LanguageModelCore
from saxml.client.model_core import ClientOptions, ModelCore
from saxml.client.sax_options import AdminOptions, ModelOptions, Options
from saxml.client.sax_types import (
    Chunk,
    ModelDetail,
    ModelServerTypeStat,
    cell_of,
    detail_of,
    type_stats,
)
from saxml.common.errors import InvalidArgumentError
from saxml.storage.cell import sax_root


class LanguageModel:
    """Text in, text and numbers out; made by Model.LM()."""

    def __init__(self, model: "Model", lm: LanguageModelCore) -> None:
        self._model = model  # keeps the connection
        self._lm = lm

    async def Score(
        self, prefix: str, suffix: Sequence[str], options: ModelOptions | None = None
    ) -> list[float]:
        """Sum of log p(token) over each suffix, given the prefix."""
        if isinstance(suffix, str):
            raise InvalidArgumentError("suffix must be a list of texts, not one text")
        options = options or ModelOptions()
        return await self._lm.score(prefix, suffix, options.ToProto(), options.timeout_s)

    async def Generate(
        self, text: str, options: ModelOptions | None = None
    ) -> list[tuple[str, float]]:
        """Pairs of text and score, best first."""
        options = options or ModelOptions()
        answers = await self._lm.generate(text, options.ToProto(), options.timeout_s)
        return [(answer.text, answer.score) for answer in answers]

    async def GenerateDetail(self, text: str, options: ModelOptions | None = None) -> Generation:
        """The same, with the tokens of answers and prompt and their log-probabilities, as far as
        extra inputs logprobs and prompt_logprobs ask for them."""
        options = options or ModelOptions()
        return await self._lm.generate_detail(text, options.ToProto(), options.timeout_s)

    async def GenerateStream(
        self, text: str, options: ModelOptions | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Yields [(text, prefix_len, scores), ...] for each chunk, an item a sample.

        prefix_len counts the characters of the sample's text so far that stay before `text`. Who
        leaves the loop early ends the call by closing the generator: contextlib.aclosing does that.
        """
        options = options or ModelOptions()
        chunks = self._lm.generate_stream(text, options.ToProto(), options.timeout_s)
        async with contextlib.aclosing(chunks):
            async for items in chunks:
                yield [(i.text, i.prefix_len, [*i.scores]) for i in items]

    async def Embed(self, text: str, options: ModelOptions | None = None) -> list[float]:
        """The embedding of a text."""
        options = options or ModelOptions()
        return await self._lm.embed(text, options.ToProto(), options.timeout_s)

    async def Gradient(
        self, prefix: str, suffix: str, options: ModelOptions | None = None
    ) -> tuple[list[float], dict[str, list[float]]]:
        """The score of a suffix and its gradients by tensor name."""
        options = options or ModelOptions()
        return await self._lm.gradient(prefix, suffix, options.ToProto(), options.timeout_s)


class Model:
    """A published model, opened by name; nothing is contacted before the first call."""

    def __init__(self, id: str, options: Options | None = None) -> None:
        options = options or Options()
        root = options.sax_root
        self._driver = AioDriver()
        self._core = ModelCore(
            id,
            lambda: sax_root(root),
            self._driver,
            ClientOptions(options.num_conn, options.proxy_addr, options.fail_fast),
        )

    async def __aenter__(self) -> "Model":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.Close()

    def LM(self) -> LanguageModel:
        """Its language model methods."""
        return LanguageModel(self, LanguageModelCore(self._core))

    async def Close(self) -> None:
        """Ends calls under way, connections and the thread."""
        await self._driver.blocking(self._core.close)
        await self._driver.closed()


class Admin:
    """The admin server of a cell, or of a model's cell: Admin("/sax/test")."""

    def __init__(self, id: str, options: AdminOptions | None = None) -> None:
        options = options or AdminOptions()
        self._timeout_s = options.timeout_s
        self._cell = cell_of(id)
        self._root = sax_root(options.sax_root)
        self._driver = AioDriver()
        self._core = AdminCore(self._root, self._cell, self._driver)

    async def __aenter__(self) -> "Admin":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.Close()

    async def Close(self) -> None:
        """Ends calls under way and the connection."""
        self._core.close()
        await self._driver.closed()

    async def Publish(
        self,
        id: str,
        model_path: str,
        checkpoint_path: str,
        num_replicas: int,
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        """Publishes a model; overrides are JSON values by the name of a decode constant."""
        model = new_model(id, model_path, checkpoint_path, num_replicas, overrides)
        await self._core.publish(model, self._timeout_s)

    async def Update(
        self, id: str, model_path: str, checkpoint_path: str, num_replicas: int
    ) -> None:
        """Changes checkpoint and replicas of a model; its overrides and ACLs stay."""
        await self._core.change(
            id,
            self._timeout_s,
            model_path=model_path,
            checkpoint_path=checkpoint_path,
            num_replicas=num_replicas,
        )

    async def Unpublish(self, id: str) -> None:
        """Takes a model away from its servers."""
        await self._core.unpublish(id, self._timeout_s)

    async def List(self, id: str) -> tuple[str, str, int]:
        """Model path, checkpoint path and number of replicas asked for."""
        detail = await self.ListDetail(id)
        return detail.model, detail.ckpt, detail.max_replicas

    async def ListDetail(self, id: str) -> ModelDetail:
        """The same, with the replicas there are, and the overrides."""
        return detail_of(await self._core.list_model(id, self._timeout_s))

    async def ListAll(self) -> list[str]:
        """Ids of all published models."""
        return [m.model.model_id for m in await self._core.list_models(self._timeout_s)]

    async def Stats(self, id: str = "") -> list[ModelServerTypeStat]:
        """Model servers by chip and topology, of the whole cell or of one model."""
        return type_stats(await self._core.stats(id, self._timeout_s))

    async def WaitForReady(self, id: str, num_replicas: int) -> None:
        """Waits until so many replicas are loaded."""
        await self._core.wait_for_ready(id, num_replicas, self._timeout_s)

    async def GetACL(self, id: str, method: str = "") -> str:
        """The ACL of a model's method, or, without one, that for administering a model or cell."""
        if id == self._cell.full:
            config = await self._driver.blocking(lambda: cell_config(self._root, self._cell))
            return config.admin_acl
        admin_acl, acls = await self._core.get_acls(id, self._timeout_s)
        return (acls or {}).get(method, "") if method else admin_acl

    async def SetACL(self, id: str, acl: str, method: str = "") -> None:
        """Sets it; "" removes that of a method."""
        if id == self._cell.full:
            await self._driver.blocking(lambda: set_cell_acl(self._root, self._cell, acl))
        else:
            await self._core.set_acl(id, acl, method or None, self._timeout_s)

    async def Watch(self, id: str) -> AsyncIterator[frozenset[str]]:
        """The addresses that serve a model, now and whenever they change.

        Ends with an error: NotFoundError once the model is not published (any more), or when the
        admin server has been away for the timeout of the options.
        """
        addresses: set[str] = set()
        changes = self._core.watch(id, self._timeout_s)
        async with contextlib.aclosing(changes):
            async for change in changes:
                if change.reset:
                    addresses.clear()
                for sign, address in change.steps:
                    (addresses.add if sign == "+" else addresses.discard)(address)
                yield frozenset(addresses)


async def Publish(
    id: str,
    model_path: str,
    checkpoint_path: str,
    num_replicas: int,
    overrides: Mapping[str, str] | None = None,
    options: AdminOptions | None = None,
) -> None:
    """Admin(id).Publish."""
    async with Admin(id, options) as admin:
        await admin.Publish(id, model_path, checkpoint_path, num_replicas, overrides)


async def Update(
    id: str,
    model_path: str,
    checkpoint_path: str,
    num_replicas: int,
    options: AdminOptions | None = None,
) -> None:
    """Admin(id).Update."""
    async with Admin(id, options) as admin:
        await admin.Update(id, model_path, checkpoint_path, num_replicas)


async def Unpublish(id: str, options: AdminOptions | None = None) -> None:
    """Admin(id).Unpublish."""
    async with Admin(id, options) as admin:
        await admin.Unpublish(id)


async def List(id: str, options: AdminOptions | None = None) -> tuple[str, str, int]:
    """Admin(id).List."""
    async with Admin(id, options) as admin:
        return await admin.List(id)


async def ListDetail(id: str, options: AdminOptions | None = None) -> ModelDetail:
    """Admin(id).ListDetail."""
    async with Admin(id, options) as admin:
        return await admin.ListDetail(id)


async def ListAll(id: str, options: AdminOptions | None = None) -> list[str]:
    """Admin(id).ListAll."""
    async with Admin(id, options) as admin:
        return await admin.ListAll()


async def Stats(id: str, options: AdminOptions | None = None) -> list[ModelServerTypeStat]:
    """Admin(id).Stats, of the cell or of a model."""
    async with Admin(id, options) as admin:
        return await admin.Stats("" if id.count("/") == 2 else id)


async def WaitForReady(id: str, num_replicas: int, options: AdminOptions | None = None) -> None:
    """Admin(id).WaitForReady."""
    async with Admin(id, options) as admin:
        await admin.WaitForReady(id, num_replicas)


async def GetACL(id: str, method: str = "", options: AdminOptions | None = None) -> str:
    """Admin(id).GetACL."""
    async with Admin(id, options) as admin:
        return await admin.GetACL(id, method)


async def SetACL(id: str, acl: str, method: str = "", options: AdminOptions | None = None) -> None:
    """Admin(id).SetACL."""
    async with Admin(id, options) as admin:
        await admin.SetACL(id, acl, method)
