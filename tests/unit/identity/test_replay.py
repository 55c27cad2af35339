from hypothesis import example, given, settings
from hypothesis import strategies as st

from bus_mesh.identity.replay import WINDOW, Window

NEAR = st.integers(1, 5000)
FAR = st.integers(1, 4 * WINDOW)
LAST = 2**64 - 1


def model(counters: list[int]) -> list[bool]:
    """What a window says, with a set that never forgets."""
    seen: set[int] = set()
    said = []
    for counter in counters:
        first = counter > max(seen, default=0) - WINDOW and counter not in seen
        said.append(first)
        if first:
            seen.add(counter)
    return said


@given(st.lists(NEAR | FAR | st.sampled_from([LAST, LAST - WINDOW, LAST - WINDOW + 1]), max_size=200))
@example([1, WINDOW, 1, WINDOW + 1, 1, 2, 2])
@example([1024, WINDOW + 1023, 1024, WINDOW + 1024, 1024])
@settings(max_examples=400)
def test_a_window_says_what_a_set_that_never_forgets_says(counters: list[int]) -> None:
    window = Window()

    assert [window.first(counter) for counter in counters] == model(counters)


@given(st.lists(st.integers(-50, 50), max_size=200), st.integers(1, 10))
def test_a_window_that_slides_step_by_step_says_what_the_set_says(steps: list[int], scale: int) -> None:
    counters, place = [], 1
    for step in steps:
        place = max(1, place + step * scale * 97)
        counters.append(place)
    window = Window()

    assert [window.first(counter) for counter in counters] == model(counters)


def test_zero_is_no_counter() -> None:
    assert not Window().first(0)


def test_a_jump_over_the_whole_window_forgets_what_is_below() -> None:
    window = Window()
    for counter in range(1, WINDOW, 511):
        assert window.first(counter)

    assert window.first(10 * WINDOW)
    assert not window.first(9 * WINDOW)
    assert all(window.first(counter) for counter in range(9 * WINDOW + 1, 10 * WINDOW, 511))
