"""What each role may do at the broker. That a real server keeps to it is shown in tests/live/test_permissions.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.bus.pattern import check_pattern
from bus_mesh.control import permissions
from bus_mesh.control.permissions import Permissions
from bus_mesh.protocol.errors import InvalidName
from bus_mesh.protocol.subjects import Subjects

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True)
ROLES = {
    "node": permissions.node("demo", "node-a", ["orders", "stock"], ["web"]),
    "policy agent": permissions.policy_agent("demo", "control"),
    "joiner": permissions.joiner("demo", "x1"),
}


def test_a_node_joins_the_groups_of_what_it_was_granted_and_subscribes_to_no_calls_otherwise() -> None:
    calls = [one for one in ROLES["node"].subscribe if ".rpc." in one]

    assert calls == ["mesh.demo.rpc.orders.* orders", "mesh.demo.rpc.stock.* stock"]


def test_a_node_speaks_in_its_own_name_alone() -> None:
    named = ("find", "found", "ctl.policy.get", "ctl.ack", "ctl.api")
    own = [one for one in ROLES["node"].publish if one.startswith(tuple(f"mesh.demo.{kind}." for kind in named))]

    assert len(own) == len(named)
    assert all("node-a" in one.split(".") for one in own)


def test_a_node_that_speaks_for_nobody_calls_nobody() -> None:
    assert not [one for one in permissions.node("demo", "node-a").publish if ".rpc." in one]
    assert "mesh.demo.rpc.*.*" in permissions.node("demo", "node-a", call_as=["web"]).publish


def test_only_a_policy_agent_speaks_on_the_control_subject() -> None:
    assert [role for role, may in ROLES.items() if "mesh.demo.ctl.policy" in may.publish] == ["policy agent"]


def test_a_joiner_asks_once_and_hears_its_answer_and_no_more() -> None:
    assert ROLES["joiner"] == Permissions(
        ("mesh.demo.enrol.x1",), ("mesh.demo.enrolled.x1",), never_publish=("mesh.demo.none.>",)
    )


@pytest.mark.parametrize("role", ROLES)
def test_nobody_says_that_nobody_is_there(role: str) -> None:
    assert ROLES[role].never_publish == ("mesh.demo.none.>",)
    assert not [one for one in ROLES[role].publish if one.startswith("mesh.demo.none")]


@pytest.mark.parametrize("role", ROLES)
def test_nothing_is_allowed_outside_the_mesh_but_the_discovery_of_nats(role: str) -> None:
    outside = {one for part in ROLES[role] for one in part if not one.startswith("mesh.demo.")}

    assert {one.partition(".")[0] for one in outside} <= {"$SRV", "_INBOX"}
    assert not [one for one in ROLES[role].publish if one.startswith("$SRV")]
    assert not [one for one in ROLES[role].subscribe if one.startswith("_INBOX")]


@pytest.mark.parametrize("hostile", ["*", ">", "a.b", "a b", "", "A", "a\r\n", "orders >", "ä"])
def test_a_name_that_is_none_never_becomes_a_permission(hostile: str) -> None:
    with pytest.raises(InvalidName):
        permissions.node("demo", hostile)
    with pytest.raises(InvalidName):
        permissions.node(hostile, "node-a")
    with pytest.raises(InvalidName):
        permissions.node("demo", "node-a", [hostile])
    with pytest.raises(InvalidName):
        permissions.node("demo", "node-a", [], [hostile])
    with pytest.raises(InvalidName):
        permissions.policy_agent("demo", hostile)
    if hostile != "A":
        with pytest.raises(ValueError, match="cannot stand in a subject"):
            permissions.joiner("demo", hostile)


@given(NAMES, NAMES, st.lists(NAMES, max_size=5), st.lists(NAMES, max_size=5))
def test_every_permission_is_a_pattern_and_what_an_agent_uses_is_among_them(
    mesh: str, node: str, serve: list[str], call_as: list[str]
) -> None:
    may, subjects = permissions.node(mesh, node, serve, call_as), Subjects(mesh)
    for one in (*may.publish, *may.subscribe, *may.never_publish):
        check_pattern(one.partition(" ")[0])

    assert {f"{subjects.rpc_of(service)} {service}" for service in serve} <= set(may.subscribe)
    assert {subjects.find_of(service) for service in serve} <= set(may.subscribe)
    assert {subjects.inbox(node, "*"), subjects.none_of(node, "*"), subjects.policy} <= set(may.subscribe)


def test_a_plain_client_asks_and_serves_outside_of_the_mesh_what_it_was_granted() -> None:
    asking = permissions.client("demo", "reports", ["orders"], ask=["minmax.*", "minmax.*"])
    serving = permissions.client("demo", "minmax", answer=["minmax.*"])

    assert [one for one in asking.publish if not one.startswith("$SRV")] == ["mesh.demo.rpc.orders.*", "minmax.*"]
    assert asking.subscribe == ("_INBOX.reports.>",)
    assert [one for one in serving.publish if not one.startswith("$SRV")] == ["_INBOX.>"]
    assert [one for one in serving.subscribe if not one.startswith("$SRV")] == ["_INBOX.minmax.>", "minmax.*"]


@pytest.mark.parametrize("hostile", ["", ">", "*.a", "mesh.>", "mesh", "$SYS.>", "_INBOX.>", "a b", "a..b", "a.>.b"])
def test_nothing_of_a_mesh_or_of_the_broker_is_granted_to_a_plain_client(hostile: str) -> None:
    with pytest.raises(ValueError, match=r"reaches into|is not a"):
        permissions.client("demo", "reports", ask=[hostile])
    with pytest.raises(ValueError, match=r"reaches into|is not a"):
        permissions.client("demo", "reports", answer=[hostile])
