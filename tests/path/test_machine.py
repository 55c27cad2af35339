"""The driver and its gates under every interleaving hypothesis finds: answers, refusals, deadlines, cancels, lost
sessions, retries, waits and policy swaps, in any order."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bus_mesh.agent.drive import Driver
from bus_mesh.gates.gate import Again, Flight, Gate, Path, Refuse, Stage, Wait, Wake
from bus_mesh.protocol.call import Outcome
from bus_mesh.protocol.errors import Cancelled, Ran, ResourceExhausted, Unavailable
from bus_mesh.protocol.wheel import Wheel


class Ledger(Gate):
    """A gate that only keeps books: who holds, and that every hold is let go of exactly once."""

    def __init__(self) -> None:
        self.held: dict[Flight, int] = {}

    def enter(self, call: Flight, now: float) -> None:
        self.held[call] = self.held.get(call, 0) + 1
        assert self.held[call] == 1, "entered twice without leaving"

    def leave(self, call: Flight, outcome: Outcome, now: float) -> None:
        assert self.held.pop(call) == 1, "left without having entered"


class Slots(Gate):
    """So many at once; others queue, and a slot that becomes free is handed to the first of them."""

    def __init__(self, slots: int, queue: int, patience: float) -> None:
        self.free, self.room, self.patience = slots, queue, patience
        self.inside: set[Flight] = set()
        self.waiting: deque[Flight] = deque()
        self.granted: set[Flight] = set()

    def enter(self, call: Flight, now: float) -> Refuse | Wait | None:
        if call in self.granted:
            self.granted.remove(call)
            self.inside.add(call)
            return None
        if call in self.waiting:
            if now < call.until:
                return Wait(call.until)
            self.waiting.remove(call)
            return Refuse(ResourceExhausted("waited in vain", ran=Ran.NO))
        if self.free:
            self.free -= 1
            self.inside.add(call)
            return None
        if len(self.waiting) >= self.room:
            return Refuse(ResourceExhausted("full", ran=Ran.NO))
        self.waiting.append(call)
        return Wait(now + self.patience)

    def leave(self, call: Flight, outcome: Outcome, now: float) -> Wake | None:
        if call in self.waiting:
            self.waiting.remove(call)
            return None
        self.inside.discard(call)
        self.granted.discard(call)
        if self.waiting:
            heir = self.waiting.popleft()
            self.granted.add(heir)
            return Wake(heir)
        self.free += 1
        return None


class Stubborn(Gate):
    """Has a failed call tried again, with the pause that the test chose."""

    def __init__(self, tries: int, pause: float) -> None:
        self.tries, self.pause = tries, pause

    def leave(self, call: Flight, outcome: Outcome, now: float) -> Again | None:
        return Again(self.pause) if outcome.code and call.attempt < self.tries else None


def failed(ran: Ran = Ran.MAYBE) -> Outcome:
    return Outcome.refusal(Unavailable("lost", ran=ran), instance="i")


def answered() -> Outcome:
    return Outcome("i", b"yes")


class MachineUnderTest(RuleBasedStateMachine):
    @initialize(slots=st.integers(1, 3), queue=st.integers(0, 3), patience=st.sampled_from([0.02, 0.3, 9.0]))
    def begin(self, slots: int, queue: int, patience: float) -> None:
        self.now = 100.0
        self.slots_in_all = slots
        self.outer, self.inner = Ledger(), Ledger()
        self.slots = Slots(slots, queue, patience)
        self.wheel: Wheel[Flight] = Wheel()
        self.driver = Driver(self.wheel, self.send, self.abandon, self.done)
        self.sent: dict[Flight, int] = {}
        self.may_have_run: set[Flight] = set()
        self.ended: dict[Flight, Outcome] = {}
        self.flights: list[Flight] = []
        self.unsendable = False
        self.paths = [self.path(1, 0.0)]

    def path(self, tries: int, pause: float) -> Path:
        return Path(self.outer, Stubborn(tries, pause), self.slots, self.inner)

    def send(self, flight: Flight, now: float) -> Outcome | None:
        assert flight not in self.sent, "sent while a try is under way"
        assert now < flight.deadline + 1e-6, "sent after its deadline"
        if self.unsendable:
            return failed(Ran.NO)
        self.sent[flight] = flight.attempt
        return None

    def abandon(self, flight: Flight) -> None:
        del self.sent[flight]

    def done(self, flight: Flight, outcome: Outcome, now: float) -> None:
        assert flight not in self.ended, "ended twice"
        assert outcome.ran is not Ran.NO or flight not in self.may_have_run, "reported as not run, and it may have"
        self.ended[flight] = outcome

    @rule(ttl=st.sampled_from([0.03, 0.4, 5.0]))
    def call(self, ttl: float) -> None:
        flight = Flight(self.paths[-1], None, len(self.flights), "s", "m", "c", None, b"", self.now, self.now + ttl)
        self.flights.append(flight)
        self.driver.begin(flight, self.now)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), ran=st.sampled_from(Ran))
    def answer(self, data: st.DataObject, ran: Ran) -> None:
        flight = data.draw(st.sampled_from(list(self.sent)))
        del self.sent[flight]
        if ran is not Ran.NO:
            self.may_have_run.add(flight)
        self.driver.answer(flight, answered() if ran is Ran.YES else failed(ran), self.now)

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.driver.end(data.draw(st.sampled_from(self.flights)), Outcome.refusal(Cancelled("given up")), self.now)

    @rule()
    def lose_the_session(self) -> None:
        for flight in self.flights:
            self.driver.end(flight, Outcome.refusal(Cancelled("app gone")), self.now)

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def a_late_or_double_answer_changes_nothing(self, data: st.DataObject) -> None:
        flight = data.draw(st.sampled_from(self.flights))
        if flight not in self.sent:
            self.driver.answer(flight, answered(), self.now)

    @rule(tries=st.integers(1, 4), pause=st.sampled_from([0.0, 0.02, 6.0]))
    def swap_the_policy(self, tries: int, pause: float) -> None:
        self.paths.append(self.path(tries, pause))

    @rule(stalled=st.booleans())
    def stall_or_resume_the_bus(self, stalled: bool) -> None:
        self.unsendable = stalled

    @rule(seconds=st.sampled_from([0.011, 0.05, 0.35, 7.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        while (due := self.wheel.next_due()) is not None and due <= self.now:
            for flight in self.wheel.due(self.now):
                self.driver.due(flight, self.now)

    @invariant()
    def no_slot_leaks(self) -> None:
        if self.flights:
            slots = self.slots
            assert slots.free + len(slots.inside) + len(slots.granted) == self.slots_in_all
            assert not slots.granted, "a slot was handed over and its heir never woken"

    @invariant()
    def no_waiter_sleeps_while_a_slot_is_free(self) -> None:
        if self.flights:
            assert not (self.slots.free and self.slots.waiting)

    @invariant()
    def gates_hold_exactly_the_calls_that_are_under_way(self) -> None:
        if self.flights:
            living = {flight for flight in self.flights if flight.stage is not Stage.ENDED}
            assert set(self.outer.held) == living
            assert set(self.inner.held) == {flight for flight in living if flight.stage is Stage.SENT} == set(self.sent)
            assert living == set(self.flights) - set(self.ended)
            assert len(self.wheel) == len(living), "each living call is on the wheel once, and no dead one"

    @invariant()
    def nothing_outlives_its_deadline(self) -> None:
        for flight in self.flights:
            assert flight.stage is Stage.ENDED or self.now < flight.deadline + 0.02

    def teardown(self) -> None:
        if getattr(self, "flights", None):
            self.time_passes(600.0)
            assert set(self.ended) == set(self.flights)
            assert self.slots.free == self.slots_in_all
            assert not self.outer.held
            assert not self.inner.held


MachineUnderTest.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestTheMachine = MachineUnderTest.TestCase
