from typing import Any

from bus_mesh.cli.judgement import Facts
from bus_mesh.cli.status import cells, healthy, rows

NOW = 1_800_000_000_000_000
HOUR = 3_600_000_000


def said(**other: Any) -> dict[str, Any]:
    fine = {"node": "a", "bus": "connected", "rtt_ms": 0.4, "policy": 7, "policy_state": "fresh", "policy_loaded": True}
    return {**fine, "inflight": 2, "serving": 1, "revoked": False, **other}


def node(name: str, **other: Any) -> dict[str, Any]:
    fine = {"node": name, "version": "1.0", "services": ["orders", "stock"], "state": "up"}
    return {**fine, "cert_expires_us": NOW + 22 * HOUR, **other}


def ack(name: str, **other: Any) -> dict[str, Any]:
    return {"node": name, "number": 7, "applied": True, "reason": "", "age_us": 1_500_000, **other}


def facts(*nodes: dict[str, Any], acks: Any = (), **answers: dict[str, Any]) -> Facts:
    statuses = {name: {"status": one} for name, one in answers.items()}
    return Facts(NOW, said(), list(nodes), [], statuses, {}, {}, {}, {"number": 7, "acks": list(acks)}, "")


def state(found: Facts, name: str) -> str:
    return next(row["state"] for row in rows(found) if row["node"] == name)


def test_a_node_that_answers_is_shown_whole() -> None:
    (row,) = rows(facts(node("a"), acks=[ack("a")], a=said()))

    shown = ["a", "1.0", "orders,stock", "connected", "0.4ms", 7, "1.5s ago", "22.0 h", 3, "up"]
    assert cells(row, NOW) == shown


def test_without_an_operator_others_show_what_they_announce_and_this_node_all() -> None:
    own, other = rows(facts(node("a"), node("b"), acks=[ack("b", number=6)]))

    assert cells(own, NOW)[3:6] == ["connected", "0.4ms", 7]
    assert cells(other, NOW) == ["b", "1.0", "orders,stock", None, "", 6, "1.5s ago", "22.0 h", None, "up"]


def test_a_node_that_only_the_policy_agent_remembers_is_gone() -> None:
    found = facts(node("a"), acks=[ack("a"), ack("b", age_us=60_000_000)])

    assert cells(rows(found)[1], NOW) == ["b", None, "", None, "", 7, "60.0s ago", "", None, "gone"]


def test_the_state_is_the_worst_that_is_known() -> None:
    refused = ack("b", applied=False, reason="UNKNOWN_FIELD")

    assert state(facts(node("b"), b=said(policy_state="stale")), "b") == "policy stale"
    assert state(facts(node("b", state="draining"), b=said(policy_state="stale")), "b") == "draining"
    assert state(facts(node("b"), acks=[refused], b=said()), "b") == "refused policy 7: UNKNOWN_FIELD"
    assert state(facts(node("b"), acks=[{**refused, "number": 6}], b=said()), "b") == "up"
    assert state(facts(node("b"), b=said(revoked=True)), "b") == "revoked"
    assert cells(rows(facts(node("b", cert_expires_us=NOW - HOUR)))[0], NOW)[7] == "ended"


def test_a_refusal_of_the_policy_in_force_and_an_agent_without_bus_or_policy_are_not_healthy() -> None:
    refused = ack("b", applied=False, reason="UNKNOWN_FIELD")

    assert healthy(facts(acks=[ack("b")]))
    assert healthy(facts(acks=[{**refused, "number": 6}]))
    assert not healthy(facts(acks=[refused]))
    assert not healthy(facts()._replace(agent=said(bus="reconnecting")))
    assert not healthy(facts()._replace(agent=said(policy_loaded=False)))
    assert healthy(facts()._replace(policy=None))
