from saxml.client.address_set import AddressSet
from saxml.proto import admin_pb2


def answer(
    seqno: int,
    *steps: str,
    values: tuple[str, ...] = (),
    full: bool = False,
    server: str = "admin_1",
) -> admin_pb2.WatchLocResponse:
    result = admin_pb2.WatchResult(next_seqno=seqno, has_fullset=full, values=values)
    for step in steps:
        if step[0] == "+":
            result.changelog.add(addition=step[1:])
        else:
            result.changelog.add(deletion=step[1:])
    return admin_pb2.WatchLocResponse(result=result, admin_server_id=server)


def test_first_question_knows_nothing() -> None:
    request = AddressSet().request("/sax/test/lm")
    assert request == admin_pb2.WatchLocRequest(model_id="/sax/test/lm")


def test_single_mutation_comes_without_full_set() -> None:
    known = AddressSet()
    change = known.apply(answer(1, "+A"))
    assert known.addresses == {"A"}
    assert not change.reset
    assert change.steps == (("+", "A"),)
    request = known.request("m")
    assert (request.seqno, request.admin_server_id) == (1, "admin_1")


def test_full_set_then_its_change_log() -> None:
    known = AddressSet()
    known.apply(answer(1, "+X"))
    change = known.apply(answer(3, "+B", "-A", values=("C", "A"), full=True))
    assert known.addresses == {"B", "C"}
    assert change.reset
    assert change.steps == (("+", "A"), ("+", "C"), ("+", "B"), ("-", "A"))


def test_change_log_adds_to_what_is_known() -> None:
    known = AddressSet()
    known.apply(answer(2, "+B", values=("A",), full=True))
    known.apply(answer(4, "-A", "+C"))
    assert known.addresses == {"B", "C"}


def test_address_that_comes_back_in_one_answer_stays() -> None:
    known = AddressSet()
    known.apply(answer(1, "+A"))
    known.apply(answer(3, "-A", "+A"))
    assert known.addresses == {"A"}


def test_new_admin_server_replaces_the_set_even_without_full_set() -> None:
    known = AddressSet()
    known.apply(answer(2, "+A", "+B"))
    change = known.apply(answer(1, "+C", server="admin_2"))
    assert known.addresses == {"C"}
    assert change.reset
    assert known.request("m").admin_server_id == "admin_2"


def test_unpublish_empties_the_set() -> None:
    known = AddressSet()
    known.apply(answer(1, "+A"))
    known.apply(answer(0, full=True))
    assert known.addresses == frozenset()


def test_deletion_of_an_unknown_address_is_harmless() -> None:
    known = AddressSet()
    known.apply(answer(1, "-A"))
    assert known.addresses == frozenset()
