"""Who runs, who waits, and that no place is ever lost."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bus_mesh.policy import traffic
from bus_mesh.resilience.limit import LEAST, LONGEST_DELAY, SHORTEST_DELAY, ConcurrencyLimit, Entry


def limit(concurrency: int, queue: int) -> ConcurrencyLimit[int]:
    return ConcurrencyLimit(traffic.Limit(concurrency=concurrency, queue=queue))


def test_places_are_handed_over_in_the_order_of_arrival() -> None:
    places = limit(1, 2)

    assert [places.enter(call, 0.0, 9.0) for call in (1, 2, 3, 4)] == [Entry.GO, Entry.WAIT, Entry.WAIT, Entry.FULL]
    assert places.leave(1, 1.0) == 2
    assert places.has_place(2)
    assert not places.has_place(3)
    assert places.leave(2, 2.0) == 3
    assert places.leave(3, 3.0) is None
    assert repr(places) == "ConcurrencyLimit(running=0/1, waiting=0)"


def test_there_are_as_many_places_as_policy_says_else_as_the_instance_does_and_never_fewer_than_it_always_gets() -> (
    None
):
    def places(concurrency: int | None, says: int) -> int:
        return ConcurrencyLimit[int](traffic.Limit(concurrency=concurrency), says).concurrency

    assert [places(None, says) for says in (1, LEAST, 200)] == [LEAST, LEAST, 200]
    assert [places(8, says) for says in (1, LEAST, 200)] == [8, 8, 8]


def test_a_place_passes_by_those_whose_deadline_is_over() -> None:
    places = limit(1, 8)
    for call, deadline in ((1, 9.0), (2, 1.0), (3, 9.0)):
        places.enter(call, 0.0, deadline)

    assert places.leave(1, 1.0) == 3
    assert places.leave(2, 1.0) is None
    assert places.running == 1


def test_a_call_that_would_not_have_its_turn_in_time_is_refused_at_once() -> None:
    places = limit(1, 8)
    places.enter(1, 0.0, 99.0)
    places.enter(2, 0.0, 99.0)
    places.leave(1, 2.0)  # a turn takes 2 s

    assert places.enter(3, 2.0, 4.0) is Entry.FULL
    assert places.retry_after(2.0) == 2.0
    assert places.enter(4, 2.0, 4.5) is Entry.WAIT
    assert places.enter(5, 2.0, 5.5) is Entry.FULL
    assert places.retry_after(2.0) == 4.0


def test_a_refused_caller_is_told_a_delay_within_bounds() -> None:
    places = limit(1, 0)
    places.enter(1, 0.0, 999.0)

    assert places.enter(2, 0.0, 999.0) is Entry.FULL
    assert places.retry_after(0.0) == SHORTEST_DELAY
    assert places.retry_after(3.0) == 3.0
    assert places.retry_after(500.0) == LONGEST_DELAY


class Places(RuleBasedStateMachine):
    """Calls come, run, wait, are handed places, give up and end, in any order; a list and a set are the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = limit(2, 3)
        self.now = 0.0
        self.number = 0
        self.runs: set[int] = set()
        self.waits: list[tuple[int, float]] = []
        self.late: set[int] = set()

    @rule(left=st.sampled_from([0.25, 1.0, 1000.0]))
    def enter(self, left: float) -> None:
        self.number += 1
        entry = self.limit.enter(self.number, self.now, self.now + left)
        if len(self.runs) < 2:
            assert entry is Entry.GO
            self.runs.add(self.number)
        elif entry is Entry.WAIT:
            self.waits.append((self.number, self.now + left))
        else:
            assert entry is Entry.FULL
            assert len(self.waits) == 3 or left < 1000.0
            assert SHORTEST_DELAY <= self.limit.retry_after(self.now) <= LONGEST_DELAY

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(self.runs)))
        self.runs.remove(call)
        expected = None
        while self.waits and expected is None:
            waiter, deadline = self.waits.pop(0)
            if deadline > self.now:
                expected = waiter
                self.runs.add(waiter)
            else:
                self.late.add(waiter)

        assert self.limit.leave(call, self.now) == expected

    @precondition(lambda self: self.waits or self.late)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted({number for number, _ in self.waits} | self.late)))
        self.waits = [waiting for waiting in self.waits if waiting[0] != call]
        self.late.discard(call)

        assert self.limit.leave(call, self.now) is None

    @rule(passed=st.sampled_from([0.125, 0.5, 2.0]))
    def time_passes(self, passed: float) -> None:
        self.now += passed

    @invariant()
    def no_place_is_lost_or_made_up(self) -> None:
        assert self.limit.running == len(self.runs) <= 2
        assert self.limit.waiting == len(self.waits) <= 3
        assert all(self.limit.has_place(call) for call in self.runs)
        assert not any(self.limit.has_place(call) for call, _ in self.waits)
        assert not any(self.limit.has_place(call) for call in self.late)
        assert len(self.runs) == 2 or not self.waits, "nobody waits beside a free place"

    def teardown(self) -> None:
        while self.runs or self.waits or self.late:
            for call in sorted(self.late):
                self.limit.leave(call, self.now)
            self.late.clear()
            for call, _ in self.waits:
                self.limit.leave(call, self.now)
            self.waits.clear()
            for call in sorted(self.runs):
                assert self.limit.leave(call, self.now) is None
            self.runs.clear()
        assert self.limit.running == 0
        assert self.limit.waiting == 0


Places.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestPlaces = Places.TestCase
