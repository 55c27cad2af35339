"""When an instance wants out of its queue group, and when it may come back."""

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from bus_mesh.policy.traffic import Limit
from bus_mesh.resilience.limit import ConcurrencyLimit
from bus_mesh.resilience.shedding import CALM_SECONDS, CALM_SHARE, Shedding, Standing

LOOK = 0.1


class Room(NamedTuple):
    running: int
    waiting: int = 0
    concurrency: int = 4


def test_one_refusal_is_enough_to_be_full() -> None:
    shedding = Shedding()
    assert shedding.look(0.0, 4, [Room(4)]) is Standing.UP
    shedding.refused()

    assert shedding.look(0.0, 4, [Room(4)]) is Standing.FULL


def test_it_comes_back_after_a_calm_while_and_not_before() -> None:
    shedding = Shedding()
    shedding.refused()
    shedding.look(1.0, 2, [Room(2)])

    assert shedding.look(1.0 + CALM_SECONDS * 0.99, 2, [Room(2)]) is Standing.FULL
    assert shedding.look(1.0 + CALM_SECONDS, 2, [Room(2)]) is Standing.UP


def test_a_refusal_a_busy_moment_or_somebody_who_waits_begins_the_while_anew() -> None:
    for busy in (Room(3), Room(0, waiting=1)):
        shedding = Shedding()
        shedding.refused()
        shedding.look(0.0, 2, [Room(2)])
        shedding.look(0.4, 3, [Room(2), busy])
        shedding.look(0.5, 2, [Room(2)])
        assert shedding.look(0.9, 2, [Room(2)]) is Standing.FULL
        shedding.refused()
        shedding.look(1.0, 2, [Room(2)])
        assert shedding.look(1.4, 2, [Room(2)]) is Standing.FULL
        assert shedding.look(1.5, 2, [Room(2)]) is Standing.UP


def test_with_one_place_it_is_calm_when_nothing_runs() -> None:
    shedding = Shedding()
    shedding.refused()
    shedding.look(0.0, 1, [Room(1, concurrency=1)])
    assert shedding.look(9.0, 1, [Room(1, concurrency=1)]) is Standing.FULL
    shedding.look(10.0, 0, [Room(0, concurrency=1)])

    assert shedding.look(10.0 + CALM_SECONDS, 0, [Room(0, concurrency=1)]) is Standing.UP


def test_an_app_that_refuses_by_itself_is_measured_by_what_it_had_in_hand() -> None:
    for places in ([], [Room(0, concurrency=64)]):
        shedding = Shedding()
        shedding.refused(8)
        shedding.look(0.0, 6, places)
        assert shedding.look(5.0, 6, places) is Standing.FULL
        shedding.look(6.0, 5, places)
        assert shedding.look(6.0 + CALM_SECONDS, 5, places) is Standing.UP
        shedding.refused()
        shedding.look(9.0, 50, places)

        assert shedding.look(9.0 + CALM_SECONDS, 50, places) is Standing.UP, "what is over is not held against it"


def test_an_app_that_had_nothing_in_hand_when_it_refused_is_calm_with_nothing() -> None:
    shedding = Shedding()
    shedding.refused(0)
    shedding.look(0.0, 0, [])

    assert shedding.look(CALM_SECONDS, 0, []) is Standing.UP


def test_so_many_failures_in_a_row_make_it_unwell_and_one_success_well() -> None:
    shedding = Shedding()
    standings = []
    for passed in (False, False, True, False, False, False, False, True):
        shedding.checked(passed, 3)
        standings.append(str(shedding.look(0.0, 0, [])))

    assert standings == ["up", "up", "up", "up", "up", "unwell", "unwell", "up"]


def test_it_stays_unwell_when_policy_comes_to_allow_more_failures() -> None:
    shedding = Shedding()
    shedding.checked(False, 1)
    shedding.checked(False, 5)

    assert shedding.look(0.0, 0, []) is Standing.UNWELL


def test_unwell_goes_before_full_and_leaves_it_behind() -> None:
    shedding = Shedding()
    shedding.refused()
    shedding.checked(False, 1)
    assert shedding.look(0.0, 4, [Room(4)]) is Standing.UNWELL
    shedding.checked(True, 1)

    assert shedding.look(0.1, 4, [Room(4)]) is Standing.FULL


def test_the_limit_of_an_instance_has_the_places_that_are_looked_at() -> None:
    limit, shedding = ConcurrencyLimit[int](Limit(concurrency=2, queue=0)), Shedding()
    limit.enter(1, 0.0, 9.0), limit.enter(2, 0.0, 9.0)
    shedding.refused()
    assert shedding.look(0.0, 2, [limit]) is Standing.FULL
    limit.leave(1, 0.1)
    shedding.look(0.5, 1, [limit])
    assert shedding.look(0.9, 1, [limit]) is Standing.FULL

    assert shedding.look(1.0, 1, [limit]) is Standing.UP


steps = st.lists(
    st.tuples(
        st.floats(0.01, 0.3),
        st.sampled_from(["look", "look", "look", "refused", "passed", "failed"]),
        st.integers(0, 8),
        st.integers(0, 2),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps, st.integers(1, 8), st.integers(1, 4))
def test_it_is_out_exactly_while_a_plain_reading_of_its_history_says_so(
    history: list[tuple[float, str, int, int]], concurrency: int, failures: int
) -> None:
    shedding, now = Shedding(), 0.0
    full, unwell, failed = False, False, 0
    calm: list[float] = []  # the looks that found it calm, since anything else
    for pause, event, running, waiting in history:
        now += pause
        room = Room(min(running, concurrency), waiting, concurrency)
        if event == "refused":
            shedding.refused()
            full, calm = True, []
        elif event != "look":
            shedding.checked(event == "passed", failures)
            failed = 0 if event == "passed" else failed + 1
            unwell = failed >= failures
        else:
            is_calm = room.running < CALM_SHARE * concurrency and not waiting
            calm = [*calm, now] if is_calm and full else []
            full = full and not (calm and now - calm[0] >= CALM_SECONDS)
        expected = "unwell" if unwell else "full" if full else "up"
        if event == "look":
            assert shedding.look(now, 0, [room]) == expected


@settings(max_examples=200, deadline=None)
@given(steps, st.floats(0.05, LOOK))
def test_whatever_came_before_it_is_back_within_a_second_of_the_load_s_end(
    history: list[tuple[float, str, int, int]], every: float
) -> None:
    shedding, now = Shedding(), 0.0
    for pause, event, running, waiting in history:
        now += pause
        if event == "refused":
            shedding.refused(running)
        else:
            shedding.look(now, running, [Room(running, waiting, 8)])
    ended = now
    while shedding.look(now, 0, [Room(0, 0, 8)]) is not Standing.UP:
        now += every

    assert now - ended <= 1.0
