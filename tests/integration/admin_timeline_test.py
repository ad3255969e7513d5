"""The life of a cell over real gRPC, with stubs for model servers and periods of 0.2 s.

What stubs see, in which order, is what model servers have always seen from an admin server; only
the waiting is shorter, because this one acts at once instead of at its next round.
"""

import pathlib
import threading

import grpc
import pytest

from saxml.proto import admin_pb2, common_pb2, modelet_pb2
from tests.integration import admin_cell
from tests.integration.admin_cell import RunningAdmin
from tests.integration.admin_fixtures import admin, root, stubs
from tests.integration.stub_modelet import StubModelet, until

__all__ = ["admin", "root", "stubs"]


def test_a_model_lives_and_moves(admin: RunningAdmin, stubs: list[StubModelet]) -> None:
    one, two = stubs
    one.may_load.clear()
    admin.publish(overrides={"BATCH_SIZE": "2"})
    with pytest.raises(grpc.RpcError) as blocked:
        admin.watch(0, timeout=0.3)
    assert blocked.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    # A server joins and is given the model, which is visible before it is loaded.
    admin.join(one.join_request())
    one.wait_for_calls("Load")
    load = one.last("Load")
    assert load == modelet_pb2.LoadRequest(
        model_key="/sax/test/lm",
        model_path="p.Lm",
        checkpoint_path="None",
        acls=common_pb2.AccessControlLists(),
        overrides={"BATCH_SIZE": "2"},
    )
    assert load.HasField("acls")
    assert next(left for name, _, left in one.calls if name == "Load") is None, "no deadline"
    assert one.calls[0][0] == "GetStatus", "a server is asked before it is told anything"
    assert one.calls[0][1].include_method_stats
    # 5 s; shorter here. What is left is told in gRPC's coarse units.
    assert one.calls[0][2] == pytest.approx(admin_cell.SHORT.join_status, abs=0.5)
    first = admin.watch(0)
    addition = admin_pb2.Mutation(addition=one.address)
    assert first.result == admin_pb2.WatchResult(next_seqno=1, changelog=[addition])
    server_id = first.admin_server_id
    host_port, _, token = server_id.rpartition("_")
    assert host_port.endswith(admin.address.rpartition(":")[2])
    assert len(token) == 16
    assert admin.watch(0, server_id).result == first.result
    assert admin.watch(1, "another").result == first.result
    assert admin.watch(7, server_id) == admin_pb2.WatchLocResponse(
        result=admin_pb2.WatchResult(next_seqno=1), admin_server_id=server_id
    )
    with pytest.raises(grpc.RpcError) as blocked:
        admin.watch(1, server_id, timeout=0.3)
    assert blocked.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED, "nothing is new"
    with pytest.raises(grpc.RpcError):
        admin.wait_for_ready(1, timeout=0.3)
    admin.wait_for_ready(0)

    # It loads; the methods are known after the next report.
    one.may_load.set()
    admin.wait_for_ready(1)
    until(lambda: list(admin.listed()[0].model.method_names) == ["lm.generate", "lm.score"])
    assert admin.listed()[0].model.uuid == b""

    # More replicas; a second server with a data address; the first one is left in peace.
    admin.update(replicas=2)
    admin.join(two.join_request(data_address="127.0.0.1:31012"))
    admin.wait_for_ready(2)
    two.wait_for_calls("Load")
    assert two.last("Load").overrides == {"BATCH_SIZE": "2"}, "an Update without keeps them"
    assert sorted(admin.homes()) == sorted([one.address, two.address])
    assert admin.watch(0, server_id).result == admin_pb2.WatchResult(
        next_seqno=2,
        has_fullset=True,
        values=[one.address],
        changelog=[admin_pb2.Mutation(addition="127.0.0.1:31012")],
    )
    assert admin.watch(1, server_id).result == admin_pb2.WatchResult(
        next_seqno=2, changelog=[admin_pb2.Mutation(addition="127.0.0.1:31012")]
    )
    one.wait_for_calls("Load")

    # A new checkpoint reaches both, one after the other (SAX: both at once): each leaves the
    # clients' sets, loads and comes back. Access lists reach them without it.
    admin.update(replicas=2, checkpoint_path="/new")
    for stub in stubs:
        stub.wait_for_calls("Load", "UpdateLoaded")
        assert stub.last("UpdateLoaded").checkpoint_path == "/new"
        assert stub.last("UpdateLoaded").HasField("acls")
    until(lambda: admin.watch(0, server_id).result.next_seqno == 6)
    rolled = admin.watch(2, server_id).result.changelog[-4:]
    assert [m.WhichOneof("kind") for m in rolled] == ["deletion", "addition"] * 2
    assert rolled[0].deletion == rolled[1].addition != rolled[2].deletion
    admin.update(replicas=2, checkpoint_path="/new", acls={"items": {"lm.score": ""}})
    for stub in stubs:
        stub.wait_for_calls("Load", "UpdateLoaded", "UpdateLoaded")
        assert stub.last("UpdateLoaded").checkpoint_path == ""

    # Fewer replicas: clients are told, and one server forgets it.
    admin.update(replicas=1, checkpoint_path="/new", acls={"items": {"lm.score": ""}})
    until(lambda: sorted(one.names() + two.names()).count("Unload") == 1)
    change = admin.watch(6, server_id).result.changelog
    assert [m.WhichOneof("kind") for m in change] == ["deletion"]
    # Names are sorted, whoever was told first; addresses in the list, data addresses to clients.
    assert list(admin.listed()[0].model.method_names) == ["lm.generate", "lm.score"]

    # The server that is left dies: out of the clients' sets, then the other one takes over.
    survivor, dead = (two, one) if "Unload" in two.names() else (one, two)
    if dead is two:
        change_address, survivor_address = "127.0.0.1:31012", one.address
    else:
        change_address, survivor_address = one.address, "127.0.0.1:31012"
    dead.stop()
    until(lambda: admin.homes() == [survivor.address])
    seen: list[admin_pb2.Mutation] = []
    seqno = 7
    while len(seen) < 2:
        answer = admin.watch(seqno, server_id).result
        seen += answer.changelog[-(answer.next_seqno - seqno) :]
        seqno = answer.next_seqno
    assert seen == [
        admin_pb2.Mutation(deletion=change_address),
        admin_pb2.Mutation(addition=survivor_address),
    ]
    until(lambda: survivor.names()[-1] == "Load")
    assert survivor.last("Load").checkpoint_path == "/new"


def test_unpublishing_tells_everybody_at_once(
    admin: RunningAdmin, stubs: list[StubModelet]
) -> None:
    one = stubs[0]
    admin.publish()
    admin.join(one.join_request())
    admin.wait_for_ready(1)
    server_id = admin.watch(0).admin_server_id
    answers: list[object] = []

    def watch() -> None:
        answers.append(admin.watch(1, server_id))

    def wait() -> None:
        try:
            admin.wait_for_ready(2)
        except grpc.RpcError as error:
            answers.append((error.code(), error.details()))

    threads = [threading.Thread(target=watch), threading.Thread(target=wait)]
    for thread in threads:
        thread.start()
    admin.unpublish()
    for thread in threads:
        thread.join()
    expected = admin_pb2.WatchLocResponse(
        result=admin_pb2.WatchResult(has_fullset=True), admin_server_id=server_id
    )
    assert expected in answers
    assert (grpc.StatusCode.CANCELLED, "Canceled") in answers
    assert admin.listed() == []
    one.wait_for_calls("Load", "Unload")
    assert admin.error("WatchLoc", admin_pb2.WatchLocRequest(model_id="/sax/test/lm")).code is (
        grpc.StatusCode.NOT_FOUND
    )


def test_a_model_is_unloaded_before_another_is_loaded_in_its_place(
    admin: RunningAdmin, stubs: list[StubModelet]
) -> None:
    one = stubs[0]
    admin.publish("/sax/test/old")
    admin.join(one.join_request())
    one.wait_for_calls("Load")
    one.may_load.clear()  # keeps nothing but the next Load waiting
    admin.unpublish("/sax/test/old")
    admin.publish("/sax/test/new")
    one.wait_for_calls("Load", "Unload", "Load")
    assert one.last("Load").model_key == "/sax/test/new"


def test_publishing_again_waits_for_the_unload(
    admin: RunningAdmin, stubs: list[StubModelet]
) -> None:
    one = stubs[0]
    one.may_load.clear()
    admin.publish()
    admin.join(one.join_request())
    one.wait_for_calls("Load")
    server_id = admin.watch(0).admin_server_id
    admin.unpublish()
    model = admin_pb2.Model(model_id="/sax/test/lm", model_path="p.Lm", checkpoint_path="None")
    request = admin_pb2.PublishRequest(model=model)
    error = admin.error("Publish", request)
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert str(error) == "model {test lm} is being unpublished, please retry later"
    one.may_load.set()
    one.wait_for_calls("Load", "Unload")
    until(lambda: one.models == {})

    def published() -> bool:
        try:
            admin.publish(replicas=0)
        except grpc.RpcError:
            return False
        return True

    until(published)
    # A watcher of the former model of this name is not left with its addresses.
    assert admin.watch(1, server_id).result.has_fullset
    assert list(admin.watch(1, server_id).result.values) == []


def test_a_join_that_repeats_itself_is_a_sign_of_life(
    admin: RunningAdmin, stubs: list[StubModelet]
) -> None:
    one = stubs[0]
    admin.publish()
    admin.join(one.join_request())
    admin.wait_for_ready(1)
    for _ in range(3):
        admin.join(one.join_request())
    one.wait_for_calls("Load")
    stats = admin.stub.Stats(admin_pb2.StatsRequest(model_id="/sax/test/lm"))
    assert [s.num_replicas for s in stats.model_server_type_stats] == [1]
    # A Join that says something else is a new server at the old address.
    one.paths = ("p.Lm", "p.Other")
    admin.join(one.join_request())
    one.wait_for_calls("Load", "UpdateLoaded")
    stats = admin.stub.Stats(admin_pb2.StatsRequest())
    assert stats.num_servers_by_servable_model_path == {"p.Lm": 1, "p.Other": 1}
    assert admin.homes() == [one.address]


def test_a_restarted_model_server_is_given_its_model_again(
    admin: RunningAdmin, stubs: list[StubModelet]
) -> None:
    one = stubs[0]
    admin.publish()
    admin.join(one.join_request())
    admin.wait_for_ready(1)
    one.stop()
    again = StubModelet(one.port)
    stubs.append(again)
    admin.join(again.join_request())
    again.wait_for_calls("Load")
    until(lambda: again.models.get("/sax/test/lm") == common_pb2.LOADED)
    admin.wait_for_ready(1)
    assert admin.homes() == [again.address]


def test_a_server_that_was_taken_out_comes_back_with_its_next_join(
    admin: RunningAdmin, stubs: list[StubModelet]
) -> None:
    one = stubs[0]
    admin.publish()
    admin.join(one.join_request())
    admin.wait_for_ready(1)
    one.stop()
    until(lambda: admin.homes() == [])
    again = StubModelet(one.port)
    stubs.append(again)
    admin.join(again.join_request())
    admin.wait_for_ready(1)


def test_a_restarted_admin_server_knows_what_is_published_and_finds_it_again(
    root: str, stubs: list[StubModelet]
) -> None:
    one, idle = stubs
    with admin_cell.running(root) as admin:
        admin.publish(overrides={"K": "1"})
        admin.publish("/sax/test/other", 0)
        admin.join(one.join_request())
        admin.wait_for_ready(1)
        old_id = admin.watch(0).admin_server_id
    with admin_cell.running(root) as admin:
        (lm, other) = admin.listed()
        assert (lm.model.model_id, other.model.model_id) == ("/sax/test/lm", "/sax/test/other")
        assert lm.model.overrides == {"K": "1"}
        assert list(lm.modelet_addresses) == []
        # An idle server that is quicker than the one that has the model is not given it.
        admin.join(idle.join_request())
        admin.join(one.join_request())
        answer = admin.watch(1, old_id)
        assert answer.admin_server_id != old_id
        addition = admin_pb2.Mutation(addition=one.address)
        assert answer.result == admin_pb2.WatchResult(next_seqno=1, changelog=[addition])
        one.wait_for_calls("Load", "UpdateLoaded")
        assert one.last("UpdateLoaded") == modelet_pb2.UpdateLoadedRequest(
            model_key="/sax/test/lm",
            acls=common_pb2.AccessControlLists(),
            checkpoint_path="None",
        )
        admin.wait_for_ready(1)
        assert idle.names() == []


def test_a_restarted_admin_server_loads_what_nobody_brings_back(
    root: str, stubs: list[StubModelet]
) -> None:
    with admin_cell.running(root) as admin:
        admin.publish()
    with admin_cell.running(root) as admin:
        admin.join(stubs[0].join_request())
        admin.wait_for_ready(1)


def test_a_second_writer_of_the_state_is_noticed(
    admin: RunningAdmin, tmp_path: pathlib.Path
) -> None:
    admin.publish("/sax/test/mine")
    state = tmp_path / "fs/sax/test/state.proto"
    theirs = admin_pb2.Model(
        model_id="/sax/test/theirs", model_path="p.Lm", checkpoint_path="None", uuid=b"0" * 16
    )
    state.write_bytes(admin_pb2.State(models=[theirs]).SerializeToString())
    model = admin_pb2.Model(model_id="/sax/test/lm", model_path="p.Lm", checkpoint_path="None")
    error = admin.error("Publish", admin_pb2.PublishRequest(model=model))
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert "changed by another admin server, please retry" in str(error)
    assert [m.model.model_id for m in admin.listed()] == ["/sax/test/theirs"]
    admin.publish()
    stored = admin_pb2.State.FromString(state.read_bytes())
    assert [m.model_id for m in stored.models] == ["/sax/test/theirs", "/sax/test/lm"]


def test_a_store_that_fails_is_outlived(admin: RunningAdmin, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "fs/sax/test"
    folder.rename(tmp_path / "away")
    model = admin_pb2.Model(model_id="/sax/test/lm", model_path="p.Lm", checkpoint_path="None")
    error = admin.error("Publish", admin_pb2.PublishRequest(model=model))
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert str(error).startswith("cannot save the state of the cell: cannot write ")
    assert admin.listed() == []
    (tmp_path / "away").rename(folder)
    admin.publish()
    assert [m.model.model_id for m in admin.listed()] == ["/sax/test/lm"]
