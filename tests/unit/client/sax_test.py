import asyncio
import copy
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import sax
from saxml.common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from saxml.proto import admin_pb2, lm_pb2
from tests.unit.client.stubs import StubServer, chunk
from tests.unit.client.world import MODEL, World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("SAX_ROOT", str(tmp_path))
    with ExitStack() as stack:
        yield World(tmp_path, stack)


@pytest.fixture
def server(world: World) -> StubServer:
    server = world.server()
    world.admin.add_model(MODEL, server.address)
    return server


def test_language_model(server: StubServer) -> None:
    server.answers = [
        lm_pb2.DecodedText(text="a", score=-1),
        lm_pb2.DecodedText(text="b", score=-2),
    ]
    server.scores = [-1.0, -2.0]
    options = sax.ModelOptions()
    options.SetExtraInput("temperature", 0.5)
    options.SetExtraInputTensor("bias", [1, 2])
    options.SetExtraInputString("stop", "x")
    options.SetTimeout(7)
    with sax.Model(MODEL) as model:
        lm = model.LM()
        assert lm.Generate("hi", options) == [("a", -1.0), ("b", -2.0)]
        extra = server.requests[0].extra_inputs
        assert dict(extra.items) == {"temperature": 0.5}
        assert [*extra.tensors["bias"].values] == [1, 2]
        assert dict(extra.strings) == {"stop": "x"}
        assert 4 < (server.time_left[0] or 0) < 8
        assert lm.Score("p", ["s", "t"]) == [-1.0, -2.0]
        assert lm.Embed("e") == [0.125, -0.000012345678, 3]
        scores, gradients = lm.Gradient("p", "s")
        assert scores == [-2.5]
        assert len(gradients["params.lm.w_x"]) == 10


def test_score_wants_a_list_of_suffixes(server: StubServer) -> None:
    with sax.Model(MODEL) as model, pytest.raises(InvalidArgumentError, match="list"):
        model.LM().Score("p", "suffix")


def test_stream_calls_back_and_says_which_is_last(server: StubServer) -> None:
    server.chunks = [chunk(("a", 0, [-1.0]), ("b", 0, [-2.0])), chunk(("c", 1, [-3.0]))]
    got: list[tuple[bool, list[tuple[str, int, list[float]]]]] = []
    with sax.Model(MODEL) as model:
        model.LM().GenerateStream("hi", lambda last, items: got.append((last, items)))
    assert got == [
        (False, [("a", 0, [-1.0]), ("b", 0, [-2.0])]),
        (False, [("c", 1, [-3.0])]),
        (True, []),
    ]


def test_tokens_with_their_log_probabilities(server: StubServer) -> None:
    best = [lm_pb2.TokenLogProb(id=7, token=b"\xf0", logp=-0.25)]
    token = lm_pb2.ScoredToken(id=5, token=b"a", logp=-0.5, best=best)
    server.answers = [lm_pb2.DecodedText(text="a", score=-0.5, tokens=[token])]
    server.prompt_tokens = [lm_pb2.ScoredToken(id=3, token=b"hi")]
    known = sax.ScoredToken(5, b"a", -0.5, (sax.TokenLogProb(7, b"\xf0", -0.25),))
    wanted = sax.Generation(
        (sax.Generated("a", -0.5, (known,)),), (sax.ScoredToken(3, b"hi", None, ()),)
    )
    with sax.Model(MODEL) as model:
        assert model.LM().GenerateDetail("hi") == wanted

    async def main() -> None:
        async with sax.aio.Model(MODEL) as model:
            assert await model.LM().GenerateDetail("hi") == wanted

    asyncio.run(main())


def test_language_model_outlives_the_name_of_its_model(server: StubServer) -> None:
    lm = sax.Model(MODEL).LM()
    assert lm.Generate("hi") == [("one", -0.5)]
    assert lm.Generate("hi") == [("one", -0.5)]


def test_proxy_and_root_options(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    server = world.server("proxy")
    monkeypatch.delenv("SAX_ROOT")
    options = sax.Options()
    with (
        sax.Model(MODEL, options) as model,
        pytest.raises(FailedPreconditionError, match="SAX_ROOT"),
    ):
        model.LM().Generate("hi")
    options.proxy_addr = server.address
    with sax.Model(MODEL, options) as model:
        assert model.LM().Generate("hi") == [("proxy", -0.5)]
    with sax.Admin("/sax/test", sax.AdminOptions(sax_root=str(world.root))) as admin:
        assert admin.ListAll() == []


def test_admin(world: World) -> None:
    with sax.Admin("/sax/test") as admin:
        admin.Publish(MODEL, "p.M", "ckpt", 2, {"A": "1"})
        assert admin.List(MODEL) == ("p.M", "ckpt", 2)
        assert admin.ListDetail(MODEL) == sax.ModelDetail("p.M", "ckpt", 2, 0, {"A": "1"})
        admin.Update(MODEL, "p.M", "ckpt2", 1)
        assert admin.List(MODEL) == ("p.M", "ckpt2", 1)
        assert admin.ListDetail(MODEL).overrides == {"A": "1"}
        assert admin.ListAll() == [MODEL]
        admin.WaitForReady(MODEL, 1)
        admin.SetACL(MODEL, "acl/all", "lm.score")
        assert admin.GetACL(MODEL, "lm.score") == "acl/all"
        assert admin.GetACL(MODEL) == ""
        assert admin.GetACL("/sax/test") == "acl/all"
        admin.Unpublish(MODEL)
        with pytest.raises(NotFoundError):
            admin.List(MODEL)


def test_admin_functions_of_the_module(world: World) -> None:
    world.admin.stats = admin_pb2.StatsResponse(
        model_server_type_stats=[
            admin_pb2.ModelServerTypeStat(
                chip_type=admin_pb2.ModelServer.CHIP_TYPE_CPU,
                chip_topology=admin_pb2.ModelServer.CHIP_TOPOLOGY_1,
                num_replicas=3,
            )
        ]
    )
    sax.Publish(MODEL, "p.M", "None", 1)
    sax.Update(MODEL, "p.M", "None", 2)
    assert sax.List(MODEL) == ("p.M", "None", 2)
    assert sax.ListDetail(MODEL).max_replicas == 2
    assert sax.ListAll("/sax/test") == [MODEL]
    sax.WaitForReady(MODEL, 1)
    (stat,) = sax.Stats("/sax/test")
    assert (stat.chip_type, stat.chip_topology) == ("CHIP_TYPE_CPU", "CHIP_TOPOLOGY_1")
    assert stat.num_replicas == 3
    sax.Unpublish(MODEL)
    assert sax.ListAll("/sax/test") == []


def test_model_options() -> None:
    options = sax.ModelOptions()
    options.SetExtraInput("temperature", 0.5)
    assert options.GetExtraInput("temperature") == 0.5
    with pytest.raises(InvalidArgumentError, match="no extra input 'x'"):
        options.GetExtraInput("x")
    other = copy.copy(options)
    other.SetExtraInput("temperature", 1.5)
    other.SetTimeout(5)
    assert options.GetExtraInput("temperature") == 0.5
    assert (other.GetTimeout(), other.timeout_s) == (5, 5)
    assert "temperature" in options.ToDebugString()


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_every_call_has_a_deadline(timeout: float) -> None:
    options = sax.ModelOptions()
    options.SetTimeout(timeout)
    assert options.timeout_s == 60
    assert sax.AdminOptions(timeout).timeout_s == 60
