"""Calls with idempotency keys under every interleaving hypothesis finds: waits below, answers, refusals, cancels and
deadlines, in any order. What has one key runs once, and nobody is told that it did not run who shares it with one that
may have."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bus_mesh.agent.drive import Driver
from bus_mesh.gates.gate import Flight, Gate, Path, Refuse, Stage, Wait
from bus_mesh.gates.once import Answers, Once
from bus_mesh.protocol.call import Outcome
from bus_mesh.protocol.errors import Cancelled, Ran, ResourceExhausted, Unavailable
from bus_mesh.protocol.wheel import Wheel


class Target:
    def __init__(self) -> None:
        self.kept = Answers()


class Queue(Gate):
    """Parks each call until the test lets it on, or has it refused."""

    def __init__(self) -> None:
        self.parked: dict[Flight, Refuse | None] = {}

    def enter(self, call: Flight, now: float) -> Refuse | Wait | None:
        if call in self.parked and (said := self.parked.pop(call)) is not LET_ON:
            return said
        if call.try_id:
            return None
        self.parked[call] = LET_ON
        return Wait(call.deadline)

    def leave(self, call: Flight, outcome: Outcome, now: float) -> None:
        self.parked.pop(call, None)


LET_ON = Refuse(ResourceExhausted("let on", ran=Ran.NO))


class KeyedCalls(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.target, self.queue = Target(), Queue()
        self.wheel: Wheel[Flight] = Wheel()
        self.driver = Driver(self.wheel, self.send, self.abandon, self.done)
        self.path = Path(Once(), self.queue)
        self.flights: list[Flight] = []
        self.sent: list[Flight] = []
        self.may_have_run: dict[str, Flight] = {}
        self.ended: dict[Flight, Outcome] = {}

    def key(self, flight: Flight) -> str:
        assert flight.head is not None
        return str(flight.head["idempotency_key"])

    def send(self, flight: Flight, now: float) -> None:
        assert flight.payload == self.key(flight).encode(), "sent without its parameters"
        assert self.key(flight) not in self.may_have_run, "what may have run runs once more"
        self.sent.append(flight)
        self.may_have_run[self.key(flight)] = flight

    def abandon(self, flight: Flight) -> None:
        self.sent.remove(flight)

    def done(self, flight: Flight, outcome: Outcome, now: float) -> None:
        assert flight not in self.ended, "ended twice"
        if self.key(flight) in self.may_have_run and outcome.reason != "KEY_REUSED":
            assert outcome.ran is not Ran.NO, "reported as not run, and it shares its key with one that may have"
        if outcome.fail is None:
            assert outcome.payload == self.key(flight).encode()
        assert all(outcome is not other for other in self.ended.values()), "two calls share one outcome"
        self.ended[flight] = outcome

    @rule(
        key=st.sampled_from("ab"), reused=st.sampled_from([False] * 5 + [True]), ttl=st.sampled_from([0.03, 0.4, 5.0])
    )
    def call(self, key: str, reused: bool, ttl: float) -> None:
        if reused and not any(self.key(flight) == key and flight not in self.ended for flight in self.flights):
            return
        payload = b"other" if reused else key.encode()
        head = {"idempotency_key": key}
        flight = Flight(self.path, None, len(self.flights), "s", "m", "c", head, payload, self.now, self.now + ttl)
        flight.target = self.target
        self.flights.append(flight)
        self.driver.begin(flight, self.now)
        if reused:
            assert self.ended[flight].reason == "KEY_REUSED"

    @precondition(lambda self: self.queue.parked)
    @rule(data=st.data(), refused=st.booleans())
    def let_on(self, data: st.DataObject, refused: bool) -> None:
        flight = data.draw(st.sampled_from(list(self.queue.parked)))
        if refused:
            self.queue.parked[flight] = Refuse(ResourceExhausted("full", ran=Ran.NO))
        else:
            flight.try_id = 1
        self.driver.wake(flight, self.now)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), ran=st.sampled_from(Ran))
    def answer(self, data: st.DataObject, ran: Ran) -> None:
        flight = data.draw(st.sampled_from(self.sent))
        self.sent.remove(flight)
        if ran is Ran.NO:
            self.may_have_run.pop(self.key(flight))
        outcome = Outcome("i", self.key(flight).encode()) if ran is Ran.YES else None
        self.driver.answer(flight, outcome or Outcome.refusal(Unavailable("lost", ran=ran)), self.now)

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.driver.end(data.draw(st.sampled_from(self.flights)), Outcome.refusal(Cancelled("given up")), self.now)

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def wake_for_nothing(self, data: st.DataObject) -> None:
        self.driver.wake(data.draw(st.sampled_from(self.flights)), self.now)

    @rule(seconds=st.sampled_from([0.011, 0.05, 0.35, 7.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        while (due := self.wheel.next_due()) is not None and due <= self.now:
            for flight in self.wheel.due(self.now):
                self.driver.due(flight, self.now)

    @rule()
    def a_key_is_kept_for_its_time(self) -> None:
        self.time_passes(7.0)
        self.now += 70.0
        self.may_have_run.clear()

    @invariant()
    def who_waits_waits_for_one_that_is_under_way(self) -> None:
        living = [flight for flight in self.flights if flight.stage is not Stage.ENDED]
        under_way = {self.key(flight) for flight in living if flight in self.sent or flight in self.queue.parked}
        assert {self.key(flight) for flight in living} == under_way
        assert self.target.kept.joined == len(living) - len(under_way)

    def teardown(self) -> None:
        self.time_passes(60.0)
        assert set(self.ended) == set(self.flights)
        assert (self.target.kept.joined, self.queue.parked, self.sent) == (0, {}, [])


KeyedCalls.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestKeyedCalls = KeyedCalls.TestCase
