"""Where replicas go, over real gRPC: failures, rollouts, lost servers, what nobody can serve."""

import grpc
import pytest

from saxml.admin.periods import Periods
from saxml.common import list_detail
from saxml.common.errors import InternalError, InvalidArgumentError, UnavailableError
from saxml.proto import admin_pb2, common_pb2
from tests.integration import admin_cell
from tests.integration.admin_cell import RunningAdmin
from tests.integration.admin_fixtures import admin, root, stubs
from tests.integration.stub_modelet import StubModelet, until

__all__ = ["admin", "root", "stubs"]


def test_a_failed_load_moves_on_and_says_why(admin: RunningAdmin, stubs: list[StubModelet]) -> None:
    one, two = sorted(stubs, key=lambda s: s.address)
    one.load_errors["/sax/test/lm"] = InternalError("Loading error: no memory")
    admin.join(one.join_request())
    admin.join(two.join_request())
    admin.publish()
    admin.wait_for_ready(1)
    one.wait_for_calls("Load", "Unload")
    assert admin.homes() == [two.address]
    answer = admin.watch(0).result
    assert answer.changelog[-1].addition == two.address


def test_a_model_that_fails_everywhere_is_not_tried_in_circles(
    admin: RunningAdmin, stubs: list[StubModelet]
) -> None:
    for stub in stubs:
        stub.load_errors["/sax/test/lm"] = InvalidArgumentError("no such checkpoint")
        admin.join(stub.join_request())
    admin.publish()
    for stub in stubs:
        stub.wait_for_calls("Load", "Unload")
    assert admin.homes() == []
    # Whoever changes the model need not wait.
    for stub in stubs:
        stub.load_errors.clear()
    admin.update(checkpoint_path="/right")
    admin.wait_for_ready(1)
    loads = sorted(len(stub.names()) for stub in stubs)
    assert loads == [2, 3]


def test_a_failure_that_only_a_report_tells_counts_as_well(
    admin: RunningAdmin, stubs: list[StubModelet]
) -> None:
    one, two = sorted(stubs, key=lambda s: s.address)
    admin.join(one.join_request())
    admin.join(two.join_request())
    admin.publish()
    admin.wait_for_ready(1)
    one.models["/sax/test/lm"] = common_pb2.FAILED
    until(lambda: admin.homes() == [two.address])
    one.wait_for_calls("Load", "Unload")


def test_an_unload_that_fails_is_tried_again_and_another_server_is_used_meanwhile(
    admin: RunningAdmin, stubs: list[StubModelet]
) -> None:
    one, two = sorted(stubs, key=lambda s: s.address)
    one.unload_errors["/sax/test/lm"] = UnavailableError("keeps it")
    admin.join(one.join_request())
    admin.join(two.join_request())
    admin.publish()
    admin.wait_for_ready(1)
    admin.unpublish()
    one.wait_for_calls("Load", "Unload")

    def published() -> bool:
        try:
            admin.publish()
        except grpc.RpcError:
            return False
        return True

    until(published)
    admin.wait_for_ready(1)
    assert admin.homes() == [two.address]


def test_two_models_share_the_only_server(admin: RunningAdmin, stubs: list[StubModelet]) -> None:
    one = stubs[0]
    admin.join(one.join_request())
    admin.publish("/sax/test/a", overrides={"ram": "30"})
    admin.publish("/sax/test/b", overrides={"ram": "30"})
    one.wait_for_calls("Load", "Load")
    until(lambda: len(one.models) == 2)


def test_a_new_checkpoint_is_ready_elsewhere_before_the_old_one_goes(
    admin: RunningAdmin, stubs: list[StubModelet]
) -> None:
    one, two = stubs
    admin.publish()
    admin.join(one.join_request())
    admin.wait_for_ready(1)
    admin.join(two.join_request())
    two.may_load.clear()
    admin.update(checkpoint_path="/new")
    two.wait_for_calls("Load")
    assert two.last("Load").checkpoint_path == "/new"
    server_id = admin.watch(0).admin_server_id
    with pytest.raises(grpc.RpcError):
        admin.watch(1, server_id, timeout=0.3)
    two.may_load.set()
    one.wait_for_calls("Load", "Unload")
    assert admin.watch(0, server_id).result == admin_pb2.WatchResult(
        next_seqno=3,
        has_fullset=True,
        values=[one.address],
        changelog=[
            admin_pb2.Mutation(deletion=one.address),
            admin_pb2.Mutation(addition=two.address),
        ],
    )


def test_a_server_that_dies_leaves_the_clients_before_it_is_taken_out(
    root: str, stubs: list[StubModelet]
) -> None:
    # Nothing here waits for a poll: the line breaks.
    periods = Periods(poll_silent=0.1, rejoin=0.0)
    with admin_cell.running(root, periods=periods) as admin:
        one = stubs[0]
        admin.publish()
        admin.join(one.join_request())
        admin.wait_for_ready(1)
        server_id = admin.watch(0).admin_server_id
        one.stop()
        change = admin.watch(1, server_id, timeout=3).result.changelog
        assert change[-1] == admin_pb2.Mutation(deletion=one.address)
        assert admin.homes() == [one.address], "its replica is not given away yet"
        again = StubModelet(one.port)
        stubs.append(again)
        again.models["/sax/test/lm"] = common_pb2.LOADED
        change = admin.watch(2, server_id, timeout=5).result.changelog
        assert change[-1] == admin_pb2.Mutation(addition=one.address)


def test_what_no_server_can_serve_is_published_and_told(
    admin: RunningAdmin, stubs: list[StubModelet]
) -> None:
    admin.join(stubs[0].join_request())
    admin.publish(overrides={"ram": "100"})
    until(lambda: "needs 100.0 GB a chip" in _unplaced(admin))
    assert _unplaced(admin).endswith("has 64.0 GB")
    admin.update(overrides={"ram4": "8"})
    until(lambda: "needs at least 4 chips" in _unplaced(admin))
    assert _unplaced(admin).endswith(f"needs at least 4 chips; {stubs[0].address} has 1 chip")
    admin.update(overrides={"ram": "8"})
    admin.wait_for_ready(1)


def _unplaced(admin: RunningAdmin) -> str:
    request = admin_pb2.ListRequest(model_id="/sax/test/lm")
    return list_detail.found(admin.stub.List(request, timeout=10))["/sax/test/lm"].why
