"""The wheel of deadlines against what it promises: everything once, never early, a grain late at most."""

from collections.abc import Callable

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


class Loop:
    """Turns a wheel as its owners do: one timer, armed when told to, and after each turn at what `next_due` says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rings: float | None = None
        self.wheel: Wheel[Thing] = Wheel(self.arm)
        self.on_due: dict[Thing, Callable[[], None]] = {}
        self.reported: dict[Thing, float] = {}

    def arm(self, at: float) -> None:
        self.rings = at

    def run(self, until: float) -> None:
        while self.rings is not None and self.rings <= until:
            self.now, self.rings = max(self.now, self.rings), None
            for thing in self.wheel.due(self.now):
                self.reported[thing] = self.now
                self.on_due.pop(thing, lambda: None)()
            if (at := self.wheel.next_due()) is not None:
                self.arm(at)
        self.now = until


def test_what_comes_and_goes_while_the_wheel_is_turned_does_not_put_it_to_sleep() -> None:
    loop, far, first, brief, later = Loop(), Thing(), Thing(), Thing(), Thing()
    loop.wheel.add(far, 600.0, 0.0)
    loop.wheel.add(first, 2.0, 0.0)

    def come_and_go() -> None:
        loop.wheel.add(brief, loop.now + 0.03, loop.now)
        loop.wheel.remove(brief)

    loop.on_due[first] = come_and_go
    loop.run(2.5)
    loop.wheel.add(later, 3.5, 2.5)
    loop.run(10.0)

    assert loop.reported[later] <= 3.5 + GRAIN + 1e-9


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "remove", "add when due", "remove when due"]),
            st.integers(0, 5),
            st.integers(0, 5),
            st.sampled_from([0.0, 0.004, 0.03, 0.06, 0.3, 9.0]),
            st.sampled_from([0.0, 0.0, 0.01, 0.07, 1.0]),
        ),
        max_size=40,
    )
)
def test_a_timer_armed_only_when_told_reports_everything_in_time(
    steps: list[tuple[str, int, int, float, float]],
) -> None:
    loop, things = Loop(), [Thing() for _ in range(6)]
    wanted: dict[Thing, float] = {}

    def add(thing: Thing, seconds: float) -> None:
        wanted[thing] = loop.now + seconds
        loop.wheel.add(thing, loop.now + seconds, loop.now)

    def remove(thing: Thing) -> None:
        wanted.pop(thing, None)
        loop.wheel.remove(thing)

    def check() -> None:
        for thing, at in list(loop.reported.items()):
            if wanted.get(thing, at + 1) <= at:
                del wanted[thing]
        assert all(due > loop.now - 2 * GRAIN - 1e-9 for due in wanted.values())

    for what, which, other, seconds, passes in steps:
        if what == "add":
            add(things[which], seconds)
        elif what == "remove":
            remove(things[which])
        elif what == "add when due":
            loop.on_due[things[which]] = lambda thing=things[other], s=seconds: add(thing, s)  # type: ignore[misc]
        else:
            loop.on_due[things[which]] = lambda thing=things[other]: remove(thing)  # type: ignore[misc]
        loop.run(loop.now + passes)
        check()
