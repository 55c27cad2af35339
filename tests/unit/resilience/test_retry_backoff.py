"""How long a call pauses before its next try."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bus_mesh.policy import traffic
from bus_mesh.resilience.backoff import pause

RETRY = traffic.Retry.model_validate({"tries": 10, "pause": "25ms", "longest_pause": "1s"})
JITTER = st.floats(0.0, 1.0)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 10), JITTER, st.floats(0.0, 1e6), st.floats(0.0, 3.0))
def test_a_pause_is_within_its_bound_and_ends_before_the_deadline(
    tries: int, jitter: float, now: float, left: float
) -> None:
    bound = 0.025
    for _ in range(tries - 1):
        bound = min(bound * 2, 1.0)

    drawn = pause(RETRY, tries, jitter, now, now + left)

    if drawn is None:
        assert now + bound * jitter >= now + left
    else:
        assert 0.0 <= drawn <= bound
        assert now + drawn < now + left


def test_the_jitter_is_full() -> None:
    assert pause(RETRY, 3, 0.0, 0.0, 9.0) == 0.0
    assert pause(RETRY, 3, 0.5, 0.0, 9.0) == 0.05
    assert pause(RETRY, 3, 1.0, 0.0, 9.0) == 0.1
    assert pause(RETRY, 10, 1.0, 0.0, 9.0) == 1.0


def test_what_would_come_too_late_is_not_tried() -> None:
    assert pause(RETRY, 1, 1.0, 5.0, 5.025) is None
