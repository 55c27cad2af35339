"""The desk: what changes policy is an operator's, whole and understood; what is asked for is what was stored."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from desk_world import DESK_KEY, Desks, command, service

from bus_mesh.control.desk import CHUNK, MOST_HASHES, ChangedMeanwhile, CommandRefused, StoreFailed
from bus_mesh.control.inspection import PolicyRefused
from bus_mesh.control.store import Ack
from bus_mesh.identity.certificate import May
from bus_mesh.policy.manifest import DOCUMENT_LIMIT, hash_of
from bus_mesh.protocol.errors import InvalidArgument, NotFound, Unimplemented


@pytest.fixture
def desks(tmp_path: Path) -> Iterator[Desks]:
    with Desks(tmp_path) as made:
        yield made


def test_documents_are_staged_applied_and_handed_out_by_hash(desks: Desks) -> None:
    said = desks.apply(service("orders"), service("stock"))

    assert said["number"] == 1
    assert said["changed"] == {"Service/orders": "added", "Service/stock": "added"}
    hashes = desks.ask("bundle", number=0)["hashes"]
    got = desks.ask("get", hashes=list(hashes.values()), offset=0)
    assert got["parts"] == [service("orders"), service("stock")]


def test_apply_replaces_by_name_and_prune_removes_the_rest(desks: Desks) -> None:
    desks.apply(service("orders"), service("stock"))

    changed = desks.apply(service("orders", "traffic: {timeout: 2s}"))
    pruned = desks.apply(service("orders", "traffic: {timeout: 2s}"), prune=True)

    assert (changed["number"], changed["changed"]) == (2, {"Service/orders": "changed"})
    assert (pruned["number"], pruned["changed"]) == (3, {"Service/stock": "removed"})
    assert [row["number"] for row in desks.ask("history", most=9)] == [3, 2, 1]


def test_what_changes_nothing_makes_no_bundle(desks: Desks) -> None:
    desks.apply(service("orders"))

    assert desks.apply(service("orders"))["number"] == 1
    assert len(desks.ask("history", most=9)) == 1


def test_a_dry_run_says_what_would_change_and_changes_nothing(desks: Desks) -> None:
    said = desks.apply(service("orders"), dry=True)

    assert said["changed"] == {"Service/orders": "added"}
    assert desks.ask("history", most=9) == []


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("Service/orders", "kind: Service\nname: orders\ntimout: 3\n", "timout"),
        ("Service/orders", "- a list\n", "mapping"),
        ("Service/orders", "a: &x [1]\nb: *x\n", "anchors"),
        ("Service/orders", "kind: Ghost\nname: orders\n", "no document is of kind"),
        ("Service/orders", "kind: Service\nname: stock\n", "just the one of that kind and name"),
        ("Service/orders", "kind: Service\nname: orders\n---\nkind: Service\nname: orders\n", "2 documents"),
        ("Service/orders", "kind: Service\nname: orders\nevents: {}\n", "not yet enforced"),
        ("Service/orders", "\xff", "not"),
    ],
)
def test_a_document_that_agents_would_refuse_gets_no_number(desks: Desks, name: str, text: str, what: str) -> None:
    data = b"\xff\xfe" if text == "\xff" else text.encode()
    desks.apply(service("stock"))

    with pytest.raises(InvalidArgument, match=what):
        desks.apply_as({name: data})
    assert desks.desk.bundle is not None
    assert desks.desk.bundle.number == 1


def test_two_documents_about_the_mesh_are_refused(desks: Desks) -> None:
    with pytest.raises(PolicyRefused, match="stands twice"):
        desks.apply_as({"Mesh/a": b"kind: Mesh\nname: a\n", "Mesh/b": b"kind: Mesh\nname: b\n"})


def test_rolling_back_makes_a_new_number_with_the_old_content(desks: Desks) -> None:
    desks.apply(service("orders"))
    desks.apply(service("orders", "traffic: {timeout: 2s}"))

    said = desks.do("rollback", number=0, expected=0)

    assert (said["number"], said["origin"]) == (3, 1)
    assert desks.ask("bundle", number=3)["hashes"] == desks.ask("bundle", number=1)["hashes"]


def test_a_rollback_to_what_never_was_is_refused_and_says_what_there_is(desks: Desks) -> None:
    with pytest.raises(NotFound, match="no policy was ever applied"):
        desks.do("rollback", number=0, expected=0)
    desks.apply(service("orders"))
    with pytest.raises(NotFound, match="there are 1 to 1"):
        desks.do("rollback", number=9, expected=0)


def test_only_an_operator_who_may_changes_policy(desks: Desks) -> None:
    arguments = {"documents": {}, "prune": True, "dry": False}
    bare = msgpack.packb(arguments)

    with pytest.raises(InvalidArgument, match="command"):
        desks.answer("apply", bare)
    for made in (
        command(desks, "apply", arguments, may=[May.OBSERVE]),
        command(desks, "apply", arguments, target=b"another!"),
        command(desks, "apply", arguments, ago_us=61_000_000),
        command(desks, "rollback", arguments),
    ):
        with pytest.raises(CommandRefused):
            desks.answer("apply", made)
    assert desks.desk.bundle is None


def test_a_command_that_comes_again_is_done_once(desks: Desks) -> None:
    desks.do("stage", documents=[service("orders")])
    desks.do("stage", documents=[service("orders", "traffic: {timeout: 2s}")])
    first = command(desks, "apply", wanted(service("orders")))
    second = command(desks, "apply", wanted(service("orders", "traffic: {timeout: 2s}")))

    answers = [desks.answer("apply", asked) for asked in (first, second, first, second)]

    assert answers[:2] == answers[2:]
    assert desks.desk.bundle is not None
    assert desks.desk.bundle.number == 2


def wanted(data: bytes) -> dict[str, Any]:
    return {"documents": {"Service/orders": hash_of(data)}, "prune": False, "dry": False}


def test_what_was_not_staged_is_not_applied(desks: Desks) -> None:
    with pytest.raises(NotFound, match="was not staged"):
        desks.do("apply", **wanted(service("orders")))


def test_a_document_over_the_limit_is_not_staged(desks: Desks) -> None:
    with pytest.raises(InvalidArgument, match="at most"):
        desks.do("stage", documents=[b"#" * (DOCUMENT_LIMIT + 1)])


def test_what_is_staged_is_bounded(desks: Desks) -> None:
    for number in range(80):
        desks.do("stage", documents=[b"#%d" % number + b"#" * (DOCUMENT_LIMIT - 10)])

    assert sum(map(len, desks.desk._staged.values())) <= 32 * 1024 * 1024


def test_a_large_document_comes_in_pieces(desks: Desks) -> None:
    large = service("orders") + b"#" + b"x" * (CHUNK + 1000) + b"\n"
    desks.apply(large)

    got = [desks.ask("get", hashes=[hash_of(large)], offset=at) for at in (0, CHUNK)]

    assert {one["size"] for one in got} == {len(large)}
    assert b"".join(one["parts"][0] for one in got) == large


@pytest.mark.parametrize("hashes", [[], [7], ["x"] * (MOST_HASHES + 1), "x"])
def test_nonsense_is_asked_for_in_vain(desks: Desks, hashes: Any) -> None:
    with pytest.raises(InvalidArgument):
        desks.ask("get", hashes=hashes, offset=0)


def test_an_unknown_document_or_verb_says_so(desks: Desks) -> None:
    with pytest.raises(NotFound, match="no document"):
        desks.ask("get", hashes=["0" * 64], offset=0)
    with pytest.raises(Unimplemented, match="it has get, history"):
        desks.ask("explode")


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x81\x01\x02", b"\xdd\xff\xff\xff\xff"])
def test_bytes_that_are_no_request_are_refused(desks: Desks, payload: bytes) -> None:
    with pytest.raises(InvalidArgument, match="MessagePack"):
        desks.answer("get", payload)


def test_what_agents_said_last_is_told_with_its_age(desks: Desks) -> None:
    desks.apply(service("orders"))
    desks.desk.acknowledge({"node-a": Ack("node-a", 1, "", 900, desks.now_us - 5)})

    desks.ages_us = {"node-b": 7}
    said = desks.ask("acks")

    assert said["number"] == 1
    rows = [(row["node"], row["number"], row["applied"], row["age_us"], row["live"]) for row in said["acks"]]
    assert rows == [("node-a", 1, True, 5, False), ("node-b", 0, True, 7, True)]


def test_a_store_that_cannot_be_written_is_said_and_nothing_changes(desks: Desks) -> None:
    desks.apply(service("orders"))
    desks.close_store()

    with pytest.raises(StoreFailed):
        desks.apply(service("orders", "traffic: {timeout: 2s}"))
    assert desks.desk.bundle is not None
    assert desks.desk.bundle.number == 1


def test_the_first_bundle_is_made_once(desks: Desks) -> None:
    made = desks.desk.start_with({"Service/orders": service("orders")}, 1)
    again = desks.desk.start_with({"Service/stock": service("stock")}, 2)

    assert made is not None
    assert again is None
    assert desks.ask("bundle", number=0)["number"] == 1
    assert desks.targets[0] == DESK_KEY


def test_a_rollback_of_what_somebody_has_replaced_is_refused(desks: Desks) -> None:
    desks.apply(service("orders"))
    desks.apply(service("stock"))

    with pytest.raises(ChangedMeanwhile, match="bundle 2 is in force, and not 1"):
        desks.do("rollback", number=1, expected=1)
    assert desks.do("rollback", number=1, expected=2)["number"] == 3


@pytest.mark.parametrize("number", [-1, 1 << 63, 1.5, "1", None])
def test_a_number_that_is_none_is_refused(desks: Desks, number: Any) -> None:
    with pytest.raises(InvalidArgument, match="number"):
        desks.ask("bundle", number=number)


def test_nothing_changes_while_nothing_can_be_signed(desks: Desks) -> None:
    desks.trouble = "the delegation has ended"

    with pytest.raises(StoreFailed, match="the delegation has ended"):
        desks.apply(service("orders"))
    assert desks.desk.bundle is None


def test_the_history_names_some_changes_and_counts_the_rest(desks: Desks) -> None:
    desks.apply(*(service(f"s{number}") for number in range(30)))

    row = desks.ask("history", most=1)[0]
    assert (len(row["changed"]), row["changes"]) == (20, 30)
