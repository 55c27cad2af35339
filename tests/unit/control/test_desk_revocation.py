"""The desk puts nodes and operators out for good: by who may admit, in a document that only grows."""

from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from desk_world import DESK_KEY, Desks, command, service

from bus_mesh.control.desk import Asked, CommandRefused, Desk
from bus_mesh.control.inspection import PolicyRefused
from bus_mesh.control.store import Ack
from bus_mesh.identity.certificate import May
from bus_mesh.policy.load import parse_revocation
from bus_mesh.policy.manifest import hash_of
from bus_mesh.policy.models import REVOKED, Revocation
from bus_mesh.protocol.errors import FailedPrecondition, InvalidArgument, NodeRevoked


@pytest.fixture
def desks(tmp_path: Path) -> Iterator[Desks]:
    with Desks(tmp_path) as made:
        yield made


def listed(desks: Desks) -> Revocation:
    """Who is out by the bundle in force, as an agent reads it."""
    hash = desks.ask("bundle", number=0)["hashes"][REVOKED]
    return parse_revocation(desks.ask("get", hashes=[hash], offset=0)["parts"][0], "x")


def test_a_revocation_is_a_numbered_bundle_with_who_made_it(desks: Desks) -> None:
    desks.apply(service("orders"))

    said = desks.do("revoke", node="node-c")
    again = desks.do("revoke", node="node-c")

    assert (said["number"], said["changed"]) == (2, {REVOKED: "added"})
    assert (again["number"], again["changed"]) == (2, {})
    assert listed(desks).nodes == ("node-c",)
    assert desks.ask("history", most=9)[0]["made_by"] == "ops"


def test_nodes_and_operators_are_only_ever_added(desks: Desks) -> None:
    desks.do("revoke", node="no")
    desks.do("revoke_operator", name="eve")
    desks.do("revoke", node="a")

    assert (listed(desks).nodes, listed(desks).operators) == (("a", "no"), ("eve",))
    assert desks.ask("acks")["revoked"] == {"nodes": ["a", "no"], "operators": ["eve"]}


def test_prune_and_rollback_take_nobody_back(desks: Desks) -> None:
    desks.apply(service("orders"))
    desks.apply(service("orders", "traffic: {timeout: 2s}"))
    desks.do("revoke", node="node-c")

    pruned = desks.apply(service("stock"), prune=True)
    back = desks.do("rollback", number=1, expected=0)

    assert pruned["changed"] == {"Service/orders": "removed", "Service/stock": "added"}
    assert back["changed"] == {"Service/orders": "added", "Service/stock": "removed"}
    assert listed(desks).nodes == ("node-c",)


def test_apply_changes_nothing_about_who_is_out(desks: Desks) -> None:
    desks.do("revoke", node="node-c")
    same = Revocation(nodes=("node-c",)).text.encode()

    for fewer in (Revocation(), Revocation(nodes=("node-c", "node-d"))):
        with pytest.raises(PolicyRefused, match="busmesh node revoke"):
            desks.apply(fewer.text.encode())
    assert desks.apply(same)["changed"] == {}


def test_only_who_may_admit_revokes(desks: Desks) -> None:
    for verb, arguments in (("revoke", {"node": "node-c"}), ("revoke_operator", {"name": "bob"})):
        with pytest.raises(CommandRefused, match="may policy"):
            desks.answer(verb, command(desks, verb, arguments, may=[May.POLICY]))
    assert desks.desk.bundle is None

    desks.answer("revoke", command(desks, "revoke", {"node": "node-c"}, may=[May.ADMIT]))
    assert listed(desks).nodes == ("node-c",)


def test_a_revoked_operator_commands_nothing_any_more(desks: Desks) -> None:
    desks.do("revoke_operator", name="eve")

    with pytest.raises(CommandRefused, match="operator eve is revoked"):
        desks.answer("revoke", command(desks, "revoke", {"node": "node-c"}, may=[May.ADMIT]))
    assert listed(desks).nodes == ()


def test_a_revoked_node_is_given_the_proof_of_it_and_nothing_else(desks: Desks) -> None:
    desks.apply(service("orders"))
    desks.do("revoke", node="node-a")  # the node in whose name `desks` asks
    assert desks.desk.bundle is not None
    manifest = desks.desk.bundle.manifest
    proof = [manifest.hash.hex(), manifest.hashes[REVOKED]]

    for verb, arguments in (
        ("history", {"most": 1}),
        ("acks", {}),
        ("get", {"hashes": [manifest.hashes["Service/orders"]], "offset": 0}),
        ("get", {"hashes": [hash_of(service("orders")), *proof], "offset": 0}),
    ):
        with pytest.raises(NodeRevoked):
            desks.ask(verb, **arguments)
    with pytest.raises(NodeRevoked):
        desks.do("revoke", node="node-b")
    got = desks.ask("get", hashes=[*proof, manifest.hashes["Service/orders"]], offset=0)
    assert list(map(hash_of, got["parts"])) == proof


def test_what_a_revoked_node_said_last_is_forgotten_and_not_kept_again(desks: Desks) -> None:
    heard = {node: Ack(node, 1, "", 1, desks.now_us) for node in ("node-b", "node-c")}
    desks.desk.acknowledge(heard)

    desks.do("revoke", node="node-c")
    desks.desk.acknowledge(heard)

    assert [row["node"] for row in desks.ask("acks")["acks"]] == ["node-b"]


def test_who_is_out_is_known_after_a_restart(desks: Desks, tmp_path: Path) -> None:
    desks.do("revoke", node="node-a")
    again = Desk(desks._store, "demo", desks.root.public)

    with pytest.raises(NodeRevoked):
        again.answer("history", msgpack.packb({"most": 1}), Asked("node-a", desks.now_us, (DESK_KEY,)))


def test_the_policy_agent_in_office_does_not_revoke_itself(desks: Desks) -> None:
    desks.desk._node = "control"

    with pytest.raises(FailedPrecondition, match="policy agent in office"):
        desks.do("revoke", node="control")


@pytest.mark.parametrize("name", ["", "A", "a.b", "*", "a" * 64, "a\n"])
def test_what_is_no_name_is_not_revoked(desks: Desks, name: str) -> None:
    with pytest.raises(InvalidArgument):
        desks.do("revoke", node=name)
    with pytest.raises(InvalidArgument):
        desks.do("revoke_operator", name=name)


def test_nobody_waits_for_a_node_that_is_out(desks: Desks) -> None:
    desks.ages_us = {"node-b": 5, "node-c": 7}
    desks.do("revoke", node="node-c")

    assert [row["node"] for row in desks.ask("acks")["acks"]] == ["node-b"]
