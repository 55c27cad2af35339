from bus_mesh_sdk._deadlines import SLOT, Deadlines
from hypothesis import given
from hypothesis import strategies as st


class Thing:
    def __init__(self, at: float) -> None:
        self.at = at

    def late(self, now: float) -> None: ...


TIMES = st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=50)


def test_nothing_to_wait_for_has_no_time() -> None:
    assert Deadlines().next is None


@given(TIMES, st.lists(st.floats(0, 11), max_size=10).map(sorted))
def test_everything_is_reported_once_never_early_and_a_slot_late_at_most(
    times: list[tuple[float, bool]], moments: list[float]
) -> None:
    deadlines, things = Deadlines(), [(Thing(at), dropped) for at, dropped in times]
    for thing, _ in things:
        deadlines.add(thing, thing.at)
    for thing, dropped in things:
        if dropped:
            deadlines.drop(thing, thing.at)
    left = {thing for thing, dropped in things if not dropped}

    for now in [*moments, 20.0]:
        due = deadlines.due(now)
        assert len(set(due)) == len(due)
        assert all(thing in left and thing.at <= now for thing in due)
        left -= set(due)
        assert all(thing.at > now - SLOT - 1e-9 for thing in left)

    assert not left


@given(TIMES)
def test_the_time_to_come_back_is_that_of_the_earliest(times: list[tuple[float, bool]]) -> None:
    deadlines = Deadlines()
    for at, _ in times:
        deadlines.add(Thing(at), at)

    if times:
        assert deadlines.next is not None
        assert deadlines.due(deadlines.next)


def test_dropping_what_was_reported_is_harmless() -> None:
    deadlines, thing = Deadlines(), Thing(1.0)
    deadlines.add(thing, 1.0)

    assert deadlines.due(2.0) == [thing]
    deadlines.drop(thing, 1.0)
    assert len(deadlines) == 0
