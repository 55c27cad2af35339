"""The wheel of deadlines against what it promises: everything once, never early, a grain late at most."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.protocol.wheel import GRAIN, LOOK, OFF, Wheel


class Thing:
    def __init__(self) -> None:
        self.slot = OFF
        self.due = 0.0


MOMENTS = st.floats(0.0, 12.0)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 9), st.floats(0.0, 0.05) | MOMENTS),
        st.tuples(st.just("remove"), st.integers(0, 9), st.just(0.0)),
        st.tuples(st.just("wait"), st.just(0), st.floats(0.0, 0.02) | MOMENTS),
    ),
    max_size=60,
)


@given(STEPS)
def test_everything_is_reported_once_never_early_and_a_grain_late_at_most(
    steps: list[tuple[str, int, float]],
) -> None:
    wheel, now = Wheel[Thing](), 0.0
    things = [Thing() for _ in range(10)]
    due: dict[Thing, float] = {}

    def turn(until: float) -> None:
        while (at := wheel.next_due()) is not None and at <= until:
            for thing in wheel.due(at):
                assert due.pop(thing) <= at + 1e-9
            assert all(moment > at - GRAIN - 1e-9 for moment in due.values())

    for what, which, seconds in steps:
        if what == "add":
            due[things[which]] = now + seconds
            wheel.add(things[which], now + seconds, now)
        elif what == "remove":
            due.pop(things[which], None)
            wheel.remove(things[which])
        else:
            now += seconds
            turn(now)
        assert len(wheel) == len(due)

    turn(1000.0)
    assert not due
    assert wheel.next_due() is None
    assert all(thing.slot == OFF for thing in things)


def test_it_asks_to_be_turned_only_when_it_must_be_turned_sooner() -> None:
    asked: list[float] = []
    wheel = Wheel[Thing](asked.append)
    for due in (5.0, 6.0, 0.52, 0.53, 1.0):
        wheel.add(Thing(), due, 0.5)
    wheel.due(0.55)
    wheel.add(Thing(), 3.0, 0.6)
    wheel.add(Thing(), 0.9, 0.6)

    assert [round(at, 2) for at in asked] == [0.55, 0.53, 0.65]


def test_what_ends_before_it_is_looked_at_never_takes_a_slot() -> None:
    wheel, thing = Wheel[Thing](), Thing()
    wheel.add(thing, 5.0, 0.0)
    wheel.remove(thing)
    wheel.due(LOOK)

    assert wheel.next_due() is None


@pytest.mark.parametrize("looked_at", [True, False])
def test_what_is_moved_is_reported_at_its_new_time_only(looked_at: bool) -> None:
    wheel, thing = Wheel[Thing](), Thing()
    wheel.add(thing, 1.0, 0.0)
    if looked_at:
        wheel.due(LOOK)
    wheel.add(thing, 0.04, 0.02)
    wheel.add(thing, 2.0, 0.03)

    assert wheel.due(1.5) == []
    assert wheel.due(2.0 + 2 * GRAIN) == [thing]
    assert wheel.due(9.0) == []


def test_removing_what_was_reported_is_harmless() -> None:
    wheel, thing = Wheel[Thing](), Thing()
    wheel.add(thing, 0.0, 0.0)

    assert wheel.due(2 * GRAIN) == [thing]
    wheel.remove(thing)
    assert len(wheel) == 0
