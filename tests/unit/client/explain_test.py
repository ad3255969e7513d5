import pytest

from saxml.client.explain import why_no_replica
from saxml.proto import admin_pb2


def published(want: int, have: int = 0) -> admin_pb2.PublishedModel:
    model = admin_pb2.Model(model_id="/sax/test/lm", model_path="p.M", requested_num_replicas=want)
    return admin_pb2.PublishedModel(model=model, modelet_addresses=[f"a:{i}" for i in range(have)])


def stats(servers: int = 0, **paths: int) -> admin_pb2.StatsResponse:
    return admin_pb2.StatsResponse(
        model_server_type_stats=[admin_pb2.ModelServerTypeStat(num_replicas=servers)],
        num_servers_by_servable_model_path={k.replace("_", "."): v for k, v in paths.items()},
    )


@pytest.mark.parametrize(
    ("model", "cell", "reason"),
    [
        (published(1), admin_pb2.StatsResponse(), "0 of 1 replicas: no model server has joined"),
        (published(0), stats(1, p_M=1), "none is asked for"),
        (
            published(1),
            stats(2, p_A=1, p_B=2),
            "none of the 2 model servers in the cell can serve p.M; they serve p.A, p.B",
        ),
        (published(3, 1), stats(2, p_M=1), "1 of 3 replicas: 1 of the 2 model servers"),
    ],
)
def test_reason(
    model: admin_pb2.PublishedModel, cell: admin_pb2.StatsResponse, reason: str
) -> None:
    assert reason in (why_no_replica(model, cell) or "")


def test_no_reason_where_all_replicas_are_there() -> None:
    assert why_no_replica(published(2, 2), stats(2, p_M=2)) is None


def test_long_lists_of_paths_are_cut() -> None:
    text = why_no_replica(published(1), stats(1, **{f"p_A{i}": 1 for i in range(40)}))
    assert text
    assert "and 35 more" in text
