"""What nodes say of others that they cannot believe, as this machine sees it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.cli.facts import unbelieved

NODES = st.sampled_from(["a", "b", "c", "d", "e"])
SKEW = st.integers(-(10**9), 10**9)


def misfit(node: str, reason: str, by_us: int) -> dict[str, Any]:
    return {"node": node, "reason": reason, "by_us": by_us}


def test_a_node_that_one_of_the_others_heard_is_found_by_the_clock_of_who_asks() -> None:
    told = {"a": [], "b": [misfit("c", "CLOCK_SKEW", 75_000_000), misfit("d", "EXPIRED", 9_000_000)]}

    assert unbelieved(told, {"a": 0, "b": -500_000}) == ({"c": 74_500_000}, {"d": 9_500_000})


@given(st.dictionaries(NODES, st.lists(st.builds(misfit, NODES, st.sampled_from(["CLOCK_SKEW", "EXPIRED"]), SKEW))))
def test_who_answers_is_no_misfit_whatever_others_say_and_no_node_is_two_things(told: dict[str, Any]) -> None:
    off, ended = unbelieved(told, dict.fromkeys(told, 0))
    named = {one["node"] for misfits in told.values() for one in misfits} - told.keys()

    assert off.keys() | ended.keys() == named and not off.keys() & ended.keys()
