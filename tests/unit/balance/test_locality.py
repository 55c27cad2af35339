"""Locality: who is near comes first, and what they are too few for goes further away."""

from fractions import Fraction

import pytest
from balance_world import member
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.balance.directory import Member
from bus_mesh.balance.locality import Levels, Locality

COUNTS = st.integers(0, 12)


def never() -> float:
    raise AssertionError("nothing is left to chance here")


def levels(near: tuple[int, int], far: tuple[int, int], spill_below: float = 70.0) -> Levels[Member[str]]:
    """Levels with so many fit instances of so many."""
    those = [member(f"near{n}", zone="a") for n in range(near[1])] + [member(f"far{n}") for n in range(far[1])]
    fit = {f"near{n}" for n in range(near[0])} | {f"far{n}" for n in range(far[0])}
    return Locality("zone", "a", spill_below).levels(those, fit)


def stays_near(chosen: Levels[Member[str]], roll: float) -> bool:
    return all(it.id.startswith("near") for it in chosen.choose(lambda: roll))


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.integers(1, 100), st.floats(0.0, 1.0, exclude_max=True))
def test_the_share_that_stays_near_is_what_the_formula_says(
    a: int, b: int, c: int, d: int, bound: int, roll: float
) -> None:
    near, far = (min(a, b), max(a, b)), (min(c, d), max(c, d))
    chosen = levels(near, far, float(bound)).choose(lambda: roll)

    def reach(fit: int, known: int) -> Fraction:
        return min(Fraction(1), Fraction(fit * 100, known * bound)) if fit else Fraction(0)

    up, down = reach(*near), reach(*far)
    share = up if up + down >= 1 else up / (up + down or 1)
    if abs(roll - share) > 1e-9:
        want = [f"near{n}" for n in range(near[0])] if roll < share else [f"far{n}" for n in range(far[0])]
        assert [it.id for it in chosen] == want


@pytest.mark.parametrize(
    ("near", "far", "share"),
    [
        ((10, 10), (5, 5), 1.0),
        ((7, 10), (5, 5), 1.0),
        ((5, 10), (5, 5), 5 / 7),
        ((1, 10), (5, 5), 1 / 7),
        ((0, 10), (5, 5), 0.0),
        ((5, 10), (0, 5), 1.0),
        ((2, 10), (1, 10), 2 / 3),
        ((0, 0), (1, 5), 0.0),
    ],
)
def test_examples_of_the_share_at_a_bound_of_seventy_percent(
    near: tuple[int, int], far: tuple[int, int], share: float
) -> None:
    assert stays_near(levels(near, far), share - 1e-9) is (share > 0)
    assert share == 1.0 or not stays_near(levels(near, far), share + 1e-9)


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.floats(0.0, 100.0), st.floats(0.0, 1.0, exclude_max=True))
def test_somebody_is_chosen_whenever_somebody_is_fit_and_only_who_is(
    a: int, b: int, c: int, d: int, bound: float, roll: float
) -> None:
    near, far = (min(a, b), max(a, b)), (min(c, d), max(c, d))
    chosen = levels(near, far, bound).choose(lambda: roll)

    assert bool(chosen) is bool(near[0] + far[0])
    assert {it.id for it in chosen} <= {f"near{n}" for n in range(near[0])} | {f"far{n}" for n in range(far[0])}


def test_a_roll_of_the_share_itself_goes_far() -> None:
    half = levels((1, 4), (4, 4), 50.0)

    assert stays_near(half, 0.5 - 2**-53)
    assert not stays_near(half, 0.5)


def test_a_bound_of_0_stays_near_while_one_is_fit() -> None:
    assert stays_near(levels((1, 100), (5, 5), 0.0), 0.999)


def test_nothing_is_rolled_where_all_calls_go_one_way() -> None:
    assert len(levels((8, 10), (5, 5)).choose(never)) == 8
    assert len(levels((0, 10), (5, 5)).choose(never)) == 5


def test_a_caller_without_the_label_has_nobody_near_not_even_those_without_it() -> None:
    those = [member("a", zone="a"), member("none")]

    assert repr(Locality("zone", None, 70.0).levels(those, {"a", "none"})) == "Levels(near=0, far=2, share=0.00)"


def test_a_try_goes_to_the_other_level_rather_than_to_who_is_avoided() -> None:
    chosen = levels((1, 1), (1, 1))

    assert [it.id for it in chosen.choose(never, ("near0",))] == ["far0"]
    assert [it.id for it in chosen.choose(never, ("far0",))] == ["near0"]
    assert [it.id for it in levels((1, 1), (0, 0)).choose(never, ("near0",))] == ["near0"], "there is no other"
