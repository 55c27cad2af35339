"""Which calls are copied, and which are delayed or refused on purpose."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.balance.fault import Fault, Injected
from bus_mesh.balance.mirror import Mirror

ROLLS = st.floats(0.0, 1.0, exclude_max=True)
PERCENTS = st.one_of(st.floats(0.0, 100.0), st.integers(0, 100).map(float))
INJECTED = Injected(0.2, "unavailable")
LAST_ROLL = 1 - 2**-53


@given(PERCENTS, ROLLS)
def test_so_many_in_a_hundred_rolls_are_hit(percent: float, roll: float) -> None:
    hit = Fraction(roll) < Fraction(percent / 100)

    assert Mirror("orders-next", percent).choose(lambda: roll) == ("orders-next" if hit else None)
    assert Fault(INJECTED, percent, until=1.0).choose(lambda: roll, lambda: 0.0) == (INJECTED if hit else None)


def test_0_percent_is_never_and_100_always() -> None:
    assert Mirror("b", 0.0).choose(lambda: 0.0) is None
    assert Mirror("b", 100.0).choose(lambda: LAST_ROLL) == "b"
    assert Fault(INJECTED, 0.0, until=1.0).choose(lambda: 0.0, lambda: 0.0) is None
    assert Fault(INJECTED, 100.0, until=1.0).choose(lambda: LAST_ROLL, lambda: 0.0) is INJECTED


@given(st.floats(-1e10, 1e10), st.floats(-1e10, 1e10))
def test_a_fault_ends_at_the_very_moment_that_was_named(until: float, wall: float) -> None:
    fault = Fault(INJECTED, 100.0, until)

    assert (fault.choose(lambda: 0.0, lambda: wall) is INJECTED) is (wall < until)
    assert fault.choose(lambda: 0.0, lambda: until) is None
