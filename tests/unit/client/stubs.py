# ruff: noqa: N802 (names of remote procedures)
"""An admin server and a model server that do what a test says, on real ports."""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from saxml.common import list_detail
from saxml.common.names import SERVERS_TRAILER, parse_cell
from saxml.proto import (
    admin_pb2,
    admin_pb2_grpc,
    common_pb2,
    internal_pb2,
    lm_pb2,
    lm_pb2_grpc,
    modelet_pb2,
    modelet_pb2_grpc,
)
from saxml.storage.cell import CellStore


class _Scripted:
    """Records requests; answers the next calls of a method with the errors a test asks for."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.time_left: list[float | None] = []
        self._errors: defaultdict[str, deque[tuple[grpc.StatusCode, str]]] = defaultdict(deque)
        self._lock = threading.Lock()
        self.silent = threading.Event()

    def fail(self, method: str, *codes: grpc.StatusCode, text: str = "scripted") -> None:
        self._errors[method].extend((code, text) for code in codes)

    def seen(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        with self._lock:
            self.requests.append(request)
            self.time_left.append(context.time_remaining())
            error = self._errors[method].popleft() if self._errors[method] else None
        while self.silent.is_set() and context.is_active():
            time.sleep(0.01)
        if error:
            context.abort(*error)

    def count(self, kind: type) -> int:
        return sum(isinstance(request, kind) for request in self.requests)


class StubAdmin(_Scripted, admin_pb2_grpc.AdminServicer):
    """Keeps models and their addresses; WatchLoc waits as the real one does."""

    def __init__(self, server_id: str = "admin_1") -> None:
        super().__init__()
        self.server_id = server_id
        self.models: dict[str, admin_pb2.PublishedModel] = {}
        self.stats = admin_pb2.StatsResponse()
        self.states = ""
        # Replicas that serve, and those of the published checkpoint where they are fewer.
        self.ready: dict[str, int] = {}
        self.current: dict[str, int] = {}
        self.why: dict[str, str] = {}
        self._leader = ""
        self._logs: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        self._changed = threading.Condition()
        self._server: grpc.Server | None = None
        self.address = ""

    def start(self, root: Path | str, cell: str = "/sax/test", port: int = 0) -> "StubAdmin":
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        admin_pb2_grpc.add_AdminServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()
        self.address = f"127.0.0.1:{port}"
        store = CellStore(str(root), parse_cell(cell))
        store.create()
        store.write_config(admin_pb2.Config(fs_root=str(root), admin_acl="acl/all"))
        store.write_location(self.address)
        return self

    def stop(self) -> None:
        assert self._server
        self._server.stop(0).wait()
        with self._changed:
            self._changed.notify_all()

    def stand_by(self, leader: str) -> None:
        """Refuses every call from now on, and those that wait."""
        with self._changed:
            self._leader = leader
            self._changed.notify_all()

    def seen(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        super().seen(method, request, context)
        self._check_leads(context)

    def _check_leads(self, context: grpc.ServicerContext) -> None:
        if self._leader:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this admin server stands by; the leader of /sax/test is {self._leader}",
            )

    def add_model(self, model_id: str, *addresses: str, **fields: Any) -> None:
        fields.setdefault("model_path", "p.M")
        with self._changed:
            self.models[model_id] = admin_pb2.PublishedModel(
                model=admin_pb2.Model(model_id=model_id, **fields)
            )
        for address in addresses:
            self.change(model_id, "+", address)

    def change(self, model_id: str, sign: str, address: str) -> None:
        with self._changed:
            self._logs[model_id].append((sign, address))
            known = self.models[model_id].modelet_addresses
            if sign == "+":
                known.append(address)
            else:
                known.remove(address)
            self._changed.notify_all()

    def remove_model(self, model_id: str) -> None:
        with self._changed:
            del self.models[model_id]
            self._logs.pop(model_id, None)
            self._changed.notify_all()

    def _check(self, model_id: str, context: grpc.ServicerContext) -> None:
        if model_id not in self.models:
            context.abort(grpc.StatusCode.NOT_FOUND, f"model {model_id} not found")

    def Publish(self, request: Any, context: grpc.ServicerContext) -> admin_pb2.PublishResponse:
        self.seen("Publish", request, context)
        if request.model.model_id in self.models:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "model already exists")
        self.models[request.model.model_id] = admin_pb2.PublishedModel(model=request.model)
        return admin_pb2.PublishResponse()

    def Update(self, request: Any, context: grpc.ServicerContext) -> admin_pb2.UpdateResponse:
        self.seen("Update", request, context)
        self._check(request.model.model_id, context)
        self.models[request.model.model_id].model.CopyFrom(request.model)
        return admin_pb2.UpdateResponse()

    def Unpublish(self, request: Any, context: grpc.ServicerContext) -> admin_pb2.UnpublishResponse:
        self.seen("Unpublish", request, context)
        self._check(request.model_id, context)
        self.remove_model(request.model_id)
        return admin_pb2.UnpublishResponse()

    def List(self, request: Any, context: grpc.ServicerContext) -> admin_pb2.ListResponse:
        self.seen("List", request, context)
        if request.model_id:
            self._check(request.model_id, context)
        names = [request.model_id] if request.model_id else [*self.models]
        response = admin_pb2.ListResponse(published_models=[self.models[n] for n in names])
        details = [self._detail(n) for n in names if n in self.ready or n in self.why]
        list_detail.add(response, details)
        return response

    def _detail(self, name: str) -> internal_pb2.ModelDetail:
        ready = self.ready.get(name, 0)
        return internal_pb2.ModelDetail(
            model_id=name,
            ready=ready,
            current=self.current.get(name, ready),
            why=self.why.get(name, ""),
        )

    def Stats(self, request: Any, context: grpc.ServicerContext) -> admin_pb2.StatsResponse:
        self.seen("Stats", request, context)
        if self.states:
            context.set_trailing_metadata(((SERVERS_TRAILER, self.states),))
        return self.stats

    def WaitForReady(
        self, request: Any, context: grpc.ServicerContext
    ) -> admin_pb2.WaitForReadyResponse:
        self.seen("WaitForReady", request, context)
        while self.ready.get(request.model_id, request.num_replicas) < request.num_replicas:
            if not context.is_active():
                context.abort(grpc.StatusCode.CANCELLED, "gone")
            time.sleep(0.02)
        return admin_pb2.WaitForReadyResponse()

    def WatchLoc(self, request: Any, context: grpc.ServicerContext) -> admin_pb2.WatchLocResponse:
        self.seen("WatchLoc", request, context)
        self._check(request.model_id, context)
        seqno = request.seqno if request.admin_server_id == self.server_id else 0
        with self._changed:
            while request.model_id in self.models and len(self._logs[request.model_id]) <= seqno:
                if not context.is_active():
                    context.abort(grpc.StatusCode.CANCELLED, "gone")
                self._changed.wait(0.05)
                self._check_leads(context)
            result = admin_pb2.WatchResult()
            if request.model_id not in self.models:
                result.has_fullset = True
            else:
                log = self._logs[request.model_id]
                result.next_seqno = len(log)
                # From two mutations on the first becomes the base set, as in the Go server.
                if seqno == 0 and len(log) > 1:
                    result.has_fullset = True
                    result.values.append(log[0][1])
                    seqno = 1
                for sign, address in log[seqno:]:
                    kind = "addition" if sign == "+" else "deletion"
                    result.changelog.add(**{kind: address})
        return admin_pb2.WatchLocResponse(result=result, admin_server_id=self.server_id)


class StubServer(_Scripted, lm_pb2_grpc.LMServiceServicer, modelet_pb2_grpc.ModeletServicer):
    """A model server whose every answer names it."""

    def __init__(self, name: str = "one") -> None:
        super().__init__()
        self.name = name
        self.chunks: list[lm_pb2.GenerateStreamResponse] = []
        self.stream_error: grpc.StatusCode | None = None
        self.answers = [lm_pb2.DecodedText(text=name, score=-0.5)]
        self.prompt_tokens: list[lm_pb2.ScoredToken] = []
        self.scores: list[float] = [-1.5]
        self.loaded: set[str] = set()
        self.release = threading.Event()
        self.release.set()
        self.stream_ended = threading.Event()
        self._server: grpc.Server | None = None
        self.address = ""

    def start(self, port: int = 0) -> "StubServer":
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        lm_pb2_grpc.add_LMServiceServicer_to_server(self, self._server)
        modelet_pb2_grpc.add_ModeletServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()
        self.address = f"127.0.0.1:{port}"
        return self

    def stop(self) -> None:
        self.release.set()
        assert self._server
        self._server.stop(0).wait()

    def Generate(self, request: Any, context: grpc.ServicerContext) -> lm_pb2.GenerateResponse:
        self.seen("Generate", request, context)
        self.release.wait(20)
        return lm_pb2.GenerateResponse(texts=self.answers, prompt_tokens=self.prompt_tokens)

    def GenerateStream(
        self, request: Any, context: grpc.ServicerContext
    ) -> Iterator[lm_pb2.GenerateStreamResponse]:
        context.add_callback(self.stream_ended.set)
        self.seen("GenerateStream", request, context)
        for chunk in self.chunks:
            yield chunk
            self.release.wait(20)
        if self.stream_error:
            context.abort(self.stream_error, "scripted mid-stream")

    def Score(self, request: Any, context: grpc.ServicerContext) -> lm_pb2.ScoreResponse:
        self.seen("Score", request, context)
        return lm_pb2.ScoreResponse(logp=self.scores)

    def Embed(self, request: Any, context: grpc.ServicerContext) -> lm_pb2.EmbedResponse:
        self.seen("Embed", request, context)
        return lm_pb2.EmbedResponse(embedding=[0.125, -0.000012345678, 3])

    def Gradient(self, request: Any, context: grpc.ServicerContext) -> lm_pb2.GradientResponse:
        self.seen("Gradient", request, context)
        gradient = lm_pb2.GradientResponse.Gradient(values=[i / 4 for i in range(10)])
        return lm_pb2.GradientResponse(score=[-2.5], gradients={"params.lm.w_x": gradient})

    def Load(self, request: Any, context: grpc.ServicerContext) -> modelet_pb2.LoadResponse:
        self.seen("Load", request, context)
        self.loaded.add(request.model_key)
        return modelet_pb2.LoadResponse()

    def UpdateLoaded(
        self, request: Any, context: grpc.ServicerContext
    ) -> modelet_pb2.UpdateLoadedResponse:
        self.seen("UpdateLoaded", request, context)
        return modelet_pb2.UpdateLoadedResponse()

    def Unload(self, request: Any, context: grpc.ServicerContext) -> modelet_pb2.UnloadResponse:
        self.seen("Unload", request, context)
        self.loaded.discard(request.model_key)
        return modelet_pb2.UnloadResponse()

    def GetStatus(
        self, request: Any, context: grpc.ServicerContext
    ) -> modelet_pb2.GetStatusResponse:
        models = [
            modelet_pb2.GetStatusResponse.ModelWithStatus(
                model_key=key, model_status=common_pb2.LOADED
            )
            for key in sorted(self.loaded)
        ]
        return modelet_pb2.GetStatusResponse(models=models)

    def Save(self, request: Any, context: grpc.ServicerContext) -> modelet_pb2.SaveResponse:
        self.seen("Save", request, context)
        return modelet_pb2.SaveResponse()

    def Export(self, request: Any, context: grpc.ServicerContext) -> modelet_pb2.ExportResponse:
        self.seen("Export", request, context)
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "export is not implemented")
        raise AssertionError


def chunk(*items: tuple[str, int, list[float]]) -> lm_pb2.GenerateStreamResponse:
    return lm_pb2.GenerateStreamResponse(
        items=[
            lm_pb2.GenerateStreamItem(text=text, prefix_len=prefix_len, scores=scores)
            for text, prefix_len, scores in items
        ]
    )
