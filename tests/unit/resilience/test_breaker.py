"""When an instance is not called, and when it is tried again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus_mesh.policy import traffic
from bus_mesh.resilience.breaker import Breaker, State
from bus_mesh.resilience.charge import Charge
from bus_mesh.resilience.window import BUCKETS

POLICY = traffic.Breaker.model_validate(
    {"failures": 3, "success_ratio": 0.5, "window": "10s", "calls_at_least": 4, "rest": "1s", "longest_rest": "8s"}
)


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(POLICY)


def call(breaker: Breaker, charge: Charge, at: float, jitter: float = 1.0) -> bool:
    return breaker.book(breaker.enter(at), charge, at, jitter)


def opened(breaker: Breaker, at: float = 0.0) -> Breaker:
    breaker.open(at, 1.0)
    return breaker


class Reference:
    """The rules of the docstring over the whole history, with no window, no counters and no tickets."""

    def __init__(self) -> None:
        self.state, self.due, self.rest = State.CLOSED, 0.0, 1.0
        self.history: list[tuple[float, Charge]] = []
        self.inside: dict[int, object] = {}
        self.era = object()

    def change(self, state: State) -> None:
        self.state, self.era = state, object()
        self.history.clear()

    def enter(self, number: int, now: float) -> bool:
        if self.state is State.PROBING or (self.state is State.OPEN and now < self.due):
            return False
        if self.state is State.OPEN:
            self.change(State.PROBING)
        self.inside[number] = self.era
        return True

    def open(self, now: float, jitter: float) -> None:
        self.due = now + self.rest * (0.5 + 0.5 * jitter)
        self.rest = min(self.rest * 2, 8.0)
        self.change(State.OPEN)

    def leave(self, number: int, charge: Charge, now: float, jitter: float) -> None:
        if self.inside.pop(number) is not self.era:
            return
        if self.state is State.PROBING:
            if charge is Charge.SUCCESS:
                self.rest = 1.0
                self.change(State.CLOSED)
            elif charge is Charge.NOTHING:
                self.change(State.OPEN)
            else:
                self.open(now, jitter)
        elif charge is not Charge.NOTHING:
            self.history.append((now, charge))
            if charge is not Charge.SUCCESS and self.too_many(now):
                self.open(now, jitter)

    def too_many(self, now: float) -> bool:
        of_row = [charge for _, charge in self.history if charge is not Charge.EXHAUSTED][-3:]
        recent = [charge for at, charge in self.history if int(at) > int(now) - BUCKETS]
        good = sum(charge is Charge.SUCCESS for charge in recent)
        return of_row == [Charge.FAILURE] * 3 or (len(recent) >= 4 and good / len(recent) < 0.5)


STEP = st.tuples(
    st.sampled_from(["enter", "leave", "leave", "call"]),
    st.sampled_from([0.0, 0.0, 0.125, 0.5, 1.0, 6.0]),
    st.sampled_from([Charge.SUCCESS, Charge.FAILURE, *Charge]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(0, 50),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=100))
def test_it_does_what_the_drawing_says(steps: list[tuple[str, float, Charge, float, int]]) -> None:
    breaker, reference, now = Breaker(POLICY), Reference(), 100.0
    tickets: dict[int, int] = {}
    probes: set[int] = set()
    for number, (step, passed, charge, jitter, which) in enumerate(steps):
        now += passed
        if step != "leave":
            admitted, had_to_rest = breaker.admits(now), breaker.state is not State.CLOSED
            ticket = breaker.enter(now)
            assert bool(ticket) is admitted is reference.enter(number, now)
            assert admitted or breaker.retry_after(now) > 0.0
            if ticket:
                tickets[number] = ticket
                if had_to_rest:
                    probes.add(number)
                    assert probes & tickets.keys() == {number}, "one probe at a time"
        if step != "enter" and tickets:
            left = number if number in tickets else sorted(tickets)[which % len(tickets)]
            if breaker.book(tickets.pop(left), charge, now, jitter):
                breaker.open(now, jitter)
            reference.leave(left, charge, now, jitter)
        assert breaker.state is reference.state
        assert breaker.due == reference.due or breaker.state is State.CLOSED


def test_it_opens_on_failures_in_a_row_and_a_success_starts_the_count_again(breaker: Breaker) -> None:
    for _ in range(9):
        call(breaker, Charge.SUCCESS, 0.0)
    assert not call(breaker, Charge.FAILURE, 0.0)
    assert not call(breaker, Charge.FAILURE, 0.0)
    call(breaker, Charge.SUCCESS, 0.0)
    assert not call(breaker, Charge.FAILURE, 0.0)
    assert not call(breaker, Charge.FAILURE, 0.0)

    assert call(breaker, Charge.FAILURE, 0.0)


def test_being_full_makes_no_row_and_lowers_the_ratio(breaker: Breaker) -> None:
    for _ in range(4):
        call(breaker, Charge.SUCCESS, 0.0)

    assert not any(call(breaker, Charge.EXHAUSTED, 0.0) for _ in range(4))
    assert call(breaker, Charge.EXHAUSTED, 0.0)


def test_a_rest_doubles_to_the_longest_and_a_success_makes_it_the_first_again(breaker: Breaker) -> None:
    now, rests = 0.0, []
    opened(breaker, now)
    for _ in range(6):
        rests.append(breaker.due - now)
        now = breaker.due
        call(breaker, Charge.FAILURE, now)
    call(breaker, Charge.SUCCESS, breaker.due)
    breaker.open(100.0, 1.0)

    assert rests == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert breaker.due == 101.0


def test_a_rest_is_drawn_from_half_of_it_to_the_whole(breaker: Breaker) -> None:
    breaker.open(0.0, 0.0)

    assert breaker.due == 0.5


def test_a_probe_that_is_cancelled_frees_the_claim(breaker: Breaker) -> None:
    ticket = opened(breaker).enter(1.0)

    assert breaker.state is State.PROBING
    assert not breaker.admits(1.0)
    breaker.book(ticket, Charge.NOTHING, 1.5, 0.0)
    assert breaker.state is State.OPEN
    assert breaker.admits(1.5)
    assert breaker.enter(1.5) not in (0, ticket)


def test_a_call_from_before_is_not_taken_for_the_probe(breaker: Breaker) -> None:
    early = breaker.enter(0.0)
    probe = opened(breaker).enter(1.0)

    breaker.book(early, Charge.SUCCESS, 1.0, 0.0)
    assert breaker.state is State.PROBING
    breaker.book(probe, Charge.SUCCESS, 1.0, 0.0)
    assert breaker.state is State.CLOSED
    assert not any(breaker.book(early, Charge.FAILURE, 1.0, 0.0) for _ in range(10))


def test_a_circuit_that_closes_forgets_what_was_before(breaker: Breaker) -> None:
    for _ in range(50):
        call(breaker, Charge.SUCCESS, 0.0)
    call(opened(breaker), Charge.SUCCESS, 1.0)

    assert not any(call(breaker, Charge.EXHAUSTED, 1.0) for _ in range(3))
    assert call(breaker, Charge.EXHAUSTED, 1.0), "4 calls, none succeeded"
