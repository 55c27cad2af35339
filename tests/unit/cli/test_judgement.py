from typing import Any

import pytest

from bus_mesh.cli.judgement import Facts, Mark, judged

NOW = 1_800_000_000_000_000
HOUR = 3_600_000_000
ACKS = [{"node": name, "age_us": 300_000} for name in ("a", "b")]


def status(**other: Any) -> dict[str, Any]:
    fine = {
        "bus": "connected",
        "outside": None,
        "outside_ends_us": 0,
        "draining": False,
        "version": "1.0",
        "policy": 7,
        "policy_state": "fresh",
    }
    return {**fine, "cert_issued_us": NOW - 2 * HOUR, "cert_expires_us": NOW + 22 * HOUR, **other}


def facts(**other: Any) -> Facts:
    answers = {name: {"status": status(**other.pop(name, {}))} for name in ("a", "b")}
    nodes = [{"node": name, "cert_expires_us": one["status"]["cert_expires_us"]} for name, one in answers.items()]
    instances = [{"instance": f"{name}-1", "service": "orders", "state": "up"} for name in answers]
    own = {"node": "a", **answers["a"]["status"]}
    found = Facts(NOW, own, nodes, instances, answers, {"a": 0, "b": 300}, {}, {}, {"number": 7, "acks": ACKS}, "")
    return found._replace(**other)


def marks(found: Facts) -> dict[str, tuple[Mark, str]]:
    """What is not good, and why, by group."""
    checked = judged(found)
    assert all(bool(one.why) == bool(one.hint) == (one.mark is not Mark.GOOD) for one in checked)
    return {one.group: (one.mark, one.why) for one in checked if one.mark is not Mark.GOOD}


def test_a_mesh_that_is_well_is_all_good() -> None:
    assert marks(facts()) == {}


@pytest.mark.parametrize(
    ("other", "group", "mark", "why"),
    [
        ({"silent": {"c": "no answer from c for 3 s"}}, "agents", Mark.WRONG, "c no answer from c for 3 s"),
        ({"b": {"bus": "rejected"}}, "agents", Mark.WRONG, "b is rejected"),
        ({"b": {"outside": "rejected"}}, "agents", Mark.WRONG, "b has a way to plain services that is rejected"),
        (
            {"b": {"outside": "connected", "outside_ends_us": NOW + 70 * HOUR}},
            "agents",
            Mark.DOUBTFUL,
            "b has a user for that with 3 days left",
        ),
        ({"b": {"draining": True}}, "agents", Mark.DOUBTFUL, "b is draining"),
        ({"b": {"version": "1.1"}}, "agents", Mark.DOUBTFUL, "a runs 1.0, b runs 1.1"),
        ({"ahead_us": {"a": 0, "b": 2_500_000}}, "clocks", Mark.DOUBTFUL, "b is 2.5 s ahead"),
        ({"ahead_us": {"a": 0, "b": -75_000_000}}, "clocks", Mark.WRONG, "b is 75.0 s behind"),
        ({"b": {"cert_expires_us": NOW - HOUR}}, "certificates", Mark.WRONG, "b ended 60 min ago"),
        ({"ended_us": {"c": 90_000_000}}, "certificates", Mark.WRONG, "c ended 90 s ago"),
        (
            {"policy": {"number": 7, "acks": [*ACKS, {"node": "c", "age_us": 3 * HOUR}]}},
            "agents",
            Mark.DOUBTFUL,
            "c has been silent for 3.0 h",
        ),
        (
            {"b": {"cert_issued_us": NOW - 20 * HOUR, "cert_expires_us": NOW + 4 * HOUR}},
            "certificates",
            Mark.DOUBTFUL,
            "b has 4.0 h left of 24.0 h",
        ),
        ({"b": {"policy_state": "stale"}}, "policy", Mark.DOUBTFUL, "b has heard nothing for a while"),
        ({"b": {"policy_state": "expired"}}, "policy", Mark.WRONG, "b has one that is"),
        ({"b": {"policy": 6}}, "policy", Mark.WRONG, "b has bundle 6"),
        ({"policy": None, "why_no_policy": "nobody is in office"}, "policy", Mark.WRONG, "nobody is in office"),
        (
            {"instances": [{"instance": "b-1", "service": "orders", "state": "unwell"}]},
            "services",
            Mark.WRONG,
            "orders has nobody up",
        ),
    ],
)
def test_what_is_not_well_is_found_with_its_reason(other: dict[str, Any], group: str, mark: Mark, why: str) -> None:
    assert marks(facts(**other)) == {group: (mark, why)}


def test_of_many_only_some_are_named() -> None:
    (_, why) = marks(facts(silent={f"n{number:02}": "is silent" for number in range(30)}))["agents"]

    assert why.startswith("n00 is silent, n01") and why.endswith("n07 is silent and 22 more")
