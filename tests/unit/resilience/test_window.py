"""What is counted over the last seconds."""

import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from bus_mesh.resilience.window import BUCKETS, Window

# Sixteenths of a second, so that the reference counts without rounding.
STEPS = st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.0625, 0.5, 1.0, 2.25, 9.0, 12.0]), st.booleans()), max_size=120)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.integers(0, 10**7))
def test_a_window_counts_the_bucket_at_hand_and_the_nine_before(steps: list[tuple[float, bool]], start: int) -> None:
    window, events, now = Window(10.0), [], float(start)
    for passed, counts in steps:
        now += passed
        if counts:
            window.add(now)
            events.append(now)

        assert window.count(now) == sum(int(at) > int(now) - BUCKETS for at in events)
        assert window.count(now) >= sum(at > now - 9.0 for at in events)
        assert window.count(now) <= sum(at > now - 10.0 for at in events)


def test_a_window_is_as_large_after_many_events_as_after_one() -> None:
    window = Window(10.0)
    window.add(0.0)
    before = sys.getsizeof(window._buckets)
    for number in range(100_000):
        window.add(number / 1000)

    assert sys.getsizeof(window._buckets) == before
