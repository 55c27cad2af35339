"""Least request: latency as a peak EWMA, times what is in flight, between two drawn at random."""

from math import exp, inf

import pytest
from balance_world import member, members
from hypothesis import assume, given
from hypothesis import strategies as st

from bus_mesh.balance.ewma import DECAY_SECONDS, PeakEwma
from bus_mesh.balance.pick import Picker, less_busy

SECONDS = st.floats(1e-5, 100.0)
ANSWERS = st.lists(st.tuples(st.floats(0.0, 60.0), SECONDS), min_size=1, max_size=30)
"""Pauses before answers, and how long each took."""
Answers = list[tuple[float, float]]


def heard(answers: Answers, latency: PeakEwma, now: float = 1e6) -> float:
    for pause, seconds in answers:
        now += pause
        latency.observe(seconds, now)
    return now


def reference(answers: Answers, silence: float = 0.0) -> float:
    """The average as it is defined, after `silence` seconds without an answer."""
    average = 0.0
    for pause, seconds in answers:
        share = exp(-pause / DECAY_SECONDS)
        average = seconds if seconds >= average else average * share + seconds * (1 - share)
    return average * exp(-silence / DECAY_SECONDS)


@given(ANSWERS)
def test_the_average_is_what_its_definition_says(answers: Answers) -> None:
    latency = PeakEwma()
    heard(answers, latency)

    assert latency.seconds == pytest.approx(reference(answers), rel=1e-6)


@given(ANSWERS)
def test_the_average_is_never_below_the_last_answer_nor_above_the_slowest(answers: Answers) -> None:
    latency = PeakEwma()
    heard(answers, latency)

    assert answers[-1][1] <= latency.seconds * (1 + 1e-9)
    assert latency.seconds <= max(seconds for _, seconds in answers) * (1 + 1e-9)


def test_a_peak_is_believed_at_once_and_forgotten_by_a_factor_of_e_in_ten_seconds() -> None:
    latency = PeakEwma()
    latency.observe(0.001, 0.0)
    latency.observe(1.0, 0.0)
    assert latency.seconds == 1.0

    latency.observe(0.001, 10.0)

    assert latency.seconds == pytest.approx(0.001 + 0.999 / exp(1))


def test_answers_of_one_moment_leave_the_peak_of_them_in_any_order() -> None:
    latency = PeakEwma()
    for seconds in (0.2, 0.5, 0.1):
        latency.observe(seconds, 3.0)

    assert latency.seconds == 0.5


@given(ANSWERS, ANSWERS, st.tuples(*[st.integers(0, 1000)] * 4), st.floats(0.0, 3600.0))
def test_the_less_busy_has_the_lower_product_of_average_and_calls_at_any_later_moment(
    to_a: Answers, to_b: Answers, calls: tuple[int, int, int, int], silence: float
) -> None:
    a, b = member("a"), member("b")
    ends = heard(to_a, a.latency), heard(to_b, b.latency)
    a.inflight, a.others, b.inflight, b.others = calls
    now = max(ends) + silence
    score_a = reference(to_a, now - ends[0]) * (a.inflight + a.others + 1)
    score_b = reference(to_b, now - ends[1]) * (b.inflight + b.others + 1)
    assume(abs(score_a - score_b) > 1e-6 * max(score_a, score_b) > 0.0)

    assert less_busy(a, b) is less_busy(b, a) is (a if score_a < score_b else b)


@given(st.integers(0, 50), st.integers(0, 50), SECONDS)
def test_calls_in_flight_decide_alone_while_one_has_never_answered(old: int, new: int, seconds: float) -> None:
    a, b = member("old"), member("new")
    a.latency.observe(seconds, 0.0)
    a.inflight, b.inflight = old, new

    assert less_busy(a, b) is (a if old <= new else b)


def test_who_was_slow_once_is_tried_again_after_a_while() -> None:
    slow, quick = member("slow"), member("quick")
    slow.latency.observe(1.0, 0.0)
    tried = inf
    for now in range(200):
        quick.latency.observe(0.001, float(now))
        if less_busy(quick, slow) is slow:
            tried = min(tried, now)

    assert 60 <= tried <= 80, "10 s × ln(1000) = 69 s"


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_our_own_calls_are_counted_once_in_what_an_instance_reports(mine: int, load: int, later: int) -> None:
    it = member("a")
    it.inflight = mine
    it.report(load)
    it.inflight = later

    assert it.load == load
    assert it.inflight + it.others == later + max(load - mine, 0)


@given(st.integers(2, 40), st.data())
def test_least_request_takes_the_less_busy_of_two_different_ones(count: int, data: st.DataObject) -> None:
    those, drawn = members(count), []

    def draw(n: int) -> int:
        drawn.append(data.draw(st.integers(0, n - 1)))
        return drawn[-1]

    for it in those:
        it.inflight = data.draw(st.integers(0, 3))
    picked = Picker.least_request(draw).pick(those, ())

    first, second = drawn[0], drawn[1] + (drawn[1] >= drawn[0])
    assert first != second
    assert picked is less_busy(those[first], those[second])
