"""When every live agent has a bundle, and when that is not to be known."""

from typing import Any

import pytest

from bus_mesh.cli.apply import HEARD_US, Applied, standing


def ack(node: str, number: int, reason: str = "", live: bool = True) -> dict[str, Any]:
    return {"node": node, "number": number, "reason": reason, "applied": not reason, "live": live}


def told(*acks: dict[str, Any], up_us: int = HEARD_US) -> Applied:
    return standing({"number": 7, "acks": list(acks), "up_us": up_us}, 7)


def test_all_have_it_once_each_live_agent_has_said_so() -> None:
    found = told(ack("a", 7), ack("b", 8))

    assert found.whole
    assert found.applied == ["a", "b"]


def test_an_agent_that_is_behind_is_waited_for() -> None:
    found = told(ack("a", 7), ack("b", 6))

    assert not found.whole
    assert found.missing == ["b"]


def test_an_agent_that_refuses_is_named_with_its_reason() -> None:
    found = told(ack("a", 7), ack("b", 7, "does not know it"))

    assert not found.whole
    assert found.refused == {"b": "does not know it"}


def test_an_agent_that_has_gone_silent_is_not_waited_for() -> None:
    assert told(ack("a", 7), ack("b", 6, live=False)).whole


@pytest.mark.parametrize(("acks", "up_us"), [([], HEARD_US), ([ack("a", 7)], HEARD_US - 1)])
def test_nobody_knows_before_all_could_have_spoken(acks: list[dict[str, Any]], up_us: int) -> None:
    assert not told(*acks, up_us=up_us).whole


def test_an_agent_that_is_there_and_has_not_said_anything_yet_is_waited_for() -> None:
    assert told(ack("a", 7), ack("new", 0)).missing == ["new"]


def test_a_refusal_of_a_later_bundle_is_not_one_of_ours() -> None:
    assert told(ack("a", 7), ack("b", 8, "does not know it")).refused == {}
