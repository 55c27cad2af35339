import pytest

from bus_mesh.agent.restart import (
    CRASH_LOOP_EXITS,
    CRASH_LOOP_PAUSE,
    LONGEST_PAUSE,
    WELL_SECONDS,
    Lives,
    Phase,
)
from bus_mesh.config import Restart


def exits(lives: Lives, times: int, ran: float = 0.0, status: int = 1) -> list[float | None]:
    return [lives.exited(status, ran, jitter=0.999999) for _ in range(times)]


def test_pauses_double_from_a_tenth_of_a_second() -> None:
    pauses = exits(Lives(), 4)

    assert pauses == [pytest.approx(seconds, rel=1e-3) for seconds in (0.1, 0.2, 0.4, 0.8)]


def test_the_fifth_early_exit_in_a_row_is_a_crash_loop_of_half_a_minute() -> None:
    lives = Lives()
    exits(lives, CRASH_LOOP_EXITS - 1)

    assert lives.phase is Phase.PAUSED
    assert exits(lives, 2) == [CRASH_LOOP_PAUSE, CRASH_LOOP_PAUSE]
    assert lives.phase is Phase.CRASH_LOOP


def test_a_run_that_is_not_early_starts_the_row_again() -> None:
    lives = Lives()
    exits(lives, CRASH_LOOP_EXITS - 1)
    exits(lives, 1, ran=11.0)
    exits(lives, CRASH_LOOP_EXITS - 1)

    assert lives.phase is Phase.PAUSED


def test_pauses_never_exceed_ten_seconds() -> None:
    pauses = exits(Lives(), 50, ran=11.0)

    assert max(pause or 0.0 for pause in pauses) <= LONGEST_PAUSE


def test_a_minute_of_running_starts_the_pauses_again() -> None:
    lives = Lives()
    exits(lives, 20, ran=11.0)

    assert exits(lives, 1, ran=WELL_SECONDS) == [pytest.approx(0.1, rel=1e-3)]


def test_jitter_takes_off_at_most_half() -> None:
    assert Lives().exited(1, 0.0, jitter=0.0) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("restart", "status", "again"),
    [
        (Restart.NEVER, 1, False),
        (Restart.NEVER, 0, False),
        (Restart.ON_FAILURE, 0, False),
        (Restart.ON_FAILURE, 3, True),
        (Restart.ON_FAILURE, -9, True),
        (Restart.ALWAYS, 0, True),
    ],
)
def test_the_policy_decides_which_exits_are_followed_by_a_start(restart: Restart, status: int, again: bool) -> None:
    lives = Lives(restart)

    assert (lives.exited(status, 1.0, 0.5) is not None) is again
    assert lives.phase is (Phase.PAUSED if again else Phase.ENDED)


def test_repr_shows_the_phase_and_the_starts() -> None:
    lives = Lives()
    lives.started()

    assert repr(lives) == "Lives(running, starts=1, early=0)"
