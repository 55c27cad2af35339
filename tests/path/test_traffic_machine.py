"""Both ends' real gates under every interleaving hypothesis finds: Retry, Balance and Breaker at a caller, Limit at
each instance, and between them messages that come in any order or not at all."""

from typing import Any, Final, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bus_mesh.agent.drive import Driver
from bus_mesh.agent.parts import Luck, Parts, Told
from bus_mesh.agent.path import inbound, outbound
from bus_mesh.balance.directory import Directory, Member
from bus_mesh.gates.gate import Flight, Path, Stage
from bus_mesh.policy.access import Access
from bus_mesh.policy.bundle import PolicySet
from bus_mesh.policy.load import parse
from bus_mesh.protocol.call import Origin, Outcome
from bus_mesh.protocol.errors import Cancelled, InstanceGone, Internal, MeshError, OutcomeUnknown, Ran
from bus_mesh.protocol.wheel import Wheel
from bus_mesh.resilience.breaker import State
from bus_mesh.resilience.circuits import Circuits
from bus_mesh.resilience.limit import LEAST, ConcurrencyLimit

RULES: Final = "kind: Service\nname: orders\naccess: {allow: [{from: [web], methods: ['*']}]}\n"
BREAKER: Final = "breaker: {failures: 2, rest: 1s, longest_rest: 4s}, retry: {pause: 40ms}"
POLICIES: Final = [
    PolicySet.of(parse(f"{RULES}traffic: {{{said}}}\n", "policy"))
    for said in (
        f"{BREAKER}, limit: {{concurrency: 1, queue: 2}}",
        f"{BREAKER}, limit: {{concurrency: 1, queue: 2}}, balance: least_request, retry: {{pause: 0s}}".replace(
            ", retry: {pause: 40ms}", ""
        ),
        f"{BREAKER}, limit: {{concurrency: 2, queue: 0}}, balance: {{hash: key}}",
        f'{BREAKER}, limit: {{concurrency: 1, queue: 9}}, split: {{"1": 9, "2": 0}}, locality: {{prefer: zone}}',
        "breaker: {failures: 1, rest: 0s}, limit: off, balance: round_robin",
        "breaker: off, balance: random",
    )
]


class Announced(NamedTuple):
    id: str
    version: str
    labels: dict[str, str]
    state: str
    load: int = 0


class Offer(NamedTuple):
    service: str
    instances: tuple[Announced, ...]
    methods: tuple[()] = ()


class Meter:
    inflight = 0
    retries = 0

    def record(self, code: int, seconds: float) -> None:
        pass


class Server:
    """An instance, as far as the gates of its agent see it."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.concurrency = LEAST
        self.limits: dict[str, ConcurrencyLimit[Flight]] = {}
        self.serving: list[Flight] = []
        self.alive = True


class Asked(NamedTuple):
    """A call on the bus."""

    number: int
    server: Server
    flight: Flight


class Answer(NamedTuple):
    """An answer on the bus."""

    number: int
    server: Server
    outcome: Outcome


def said_by(server: Server, error: MeshError, origin: Origin = Origin.TARGET) -> Outcome:
    outcome = Outcome.refusal(error, server.id)
    outcome.origin = origin
    return outcome


class TrafficUnderTest(RuleBasedStateMachine):
    @initialize(count=st.integers(1, 4))
    def begin(self, count: int) -> None:
        self.now, self.drawn, self.meter = 100.0, 0, Meter()
        self.directory: Directory[str] = Directory(self.draw)
        self.directory.follow("orders")
        luck = Luck(self.draw, self.roll, self.roll)
        self.parts: Parts[str] = Parts(lambda *_: Meter(), self.directory, lambda _: None, luck, lambda: 0.0, Told())
        self.wheel: Wheel[Flight] = Wheel()
        self.calling = Driver(self.wheel, self.ask, self.abandon, self.called)
        self.serving = Driver(self.wheel, self.run, self.stop, self.served)
        self.bus: list[Asked | Answer] = []
        self.tries: dict[int, Flight] = {}
        self.calls: list[Flight] = []
        self.taken: list[Flight] = []
        self.ended: set[Flight] = set()
        self.ran: dict[Flight, list[str]] = {}
        self.servers: dict[str, Server] = {}
        self.members: set[Member[str]] = set()
        self.limits: set[ConcurrencyLimit[Flight]] = set()
        self.circuits: set[Circuits] = set()
        self.swap_the_policy(0)
        for _ in range(count):
            self.an_instance_joins("1")

    def draw(self, n: int) -> int:
        self.drawn += 1
        return self.drawn % n

    def roll(self) -> float:
        self.drawn += 1
        return self.drawn * 0.37 % 1.0

    # The caller's agent.

    def ask(self, flight: Flight, now: float) -> Outcome | None:
        target = flight.target
        member = target if isinstance(target, Member) else target.members[self.draw(len(target.members))]
        flight.try_id = number = len(self.bus) + 1000 * self.draw(10**9)
        flight.tried_at = now
        self.tries[number] = flight
        self.bus.append(Asked(number, self.servers[member.id], flight))
        return None

    def abandon(self, flight: Flight) -> None:
        del self.tries[flight.try_id]

    def called(self, flight: Flight, outcome: Outcome, now: float) -> None:
        assert flight not in self.ended, "ended twice"
        assert outcome.ran is not Ran.NO or flight not in self.ran, "reported as not run, and it did"
        self.ended.add(flight)

    # An instance's agent.

    def run(self, flight: Flight, now: float) -> Outcome | None:
        server: Server = flight.target
        assert server.alive, "handed to a process that is gone"
        server.serving.append(flight)
        asked: Flight = flight.head["of"]  # type: ignore[index]
        self.ran.setdefault(asked, []).append(server.id)
        return None

    def stop(self, flight: Flight) -> None:
        flight.target.serving.remove(flight)

    def served(self, flight: Flight, outcome: Outcome, now: float) -> None:
        outcome.instance, outcome.origin = flight.target.id, outcome.origin if outcome.fail else Origin.TARGET
        if outcome.origin is Origin.HERE:
            outcome.origin = Origin.TARGET  # as it is read at the other end
        outcome.final = False
        self.bus.append(Answer(flight.id, flight.target, outcome))

    # What happens.

    @rule(
        ttl=st.sampled_from([0.03, 0.4, 5.0]),
        idempotent=st.booleans(),
        head=st.sampled_from([None, None, {"idempotency_key": "k"}, {"idempotency_key": "j"}, {"instance": "i0"}]),
        key=st.sampled_from([None, "u1", "u2"]),
    )
    def call(self, ttl: float, idempotent: bool, head: dict[str, Any] | None, key: str | None) -> None:
        number = len(self.calls)
        flight = Flight(self.out, "app", number, "orders", "get", "web", head, b"", self.now, self.now + ttl)
        flight.idempotent, flight.key = idempotent, key
        self.calls.append(flight)
        self.calling.begin(flight, self.now)

    @precondition(lambda self: self.bus)
    @rule(data=st.data(), lost=st.sampled_from([False] * 7 + [True]))
    def a_message_arrives_or_is_lost(self, data: st.DataObject, lost: bool) -> None:
        message = self.bus.pop(data.draw(st.integers(0, len(self.bus) - 1)))
        if not lost and isinstance(message, Asked):
            self.take(message)
        elif not lost and isinstance(message, Answer):
            flight = self.tries.pop(message.number, None)
            if flight is not None:
                if not isinstance(flight.target, Member):
                    message.outcome.member = self.directory.member("orders", message.server.id)
                self.calling.answer(flight, message.outcome, self.now)

    def take(self, asked: Asked) -> None:
        if not asked.server.alive:
            gone = said_by(asked.server, InstanceGone("gone", ran=Ran.NO))
            self.bus.append(Answer(asked.number, asked.server, gone))
            return
        deadline, head = asked.flight.deadline, {"of": asked.flight}
        flight = Flight(self.into, "bus", asked.number, "orders", "get", "web", head, b"", self.now, deadline)
        flight.target = asked.server
        self.taken.append(flight)
        self.serving.begin(flight, self.now)

    @precondition(lambda self: any(server.serving for server in self.servers.values()))
    @rule(data=st.data(), how=st.sampled_from(["well", "well", "broke", "broke", "lost", "further"]))
    def an_instance_answers(self, data: st.DataObject, how: str) -> None:
        flight = data.draw(st.sampled_from([it for server in self.servers.values() for it in server.serving]))
        server: Server = flight.target
        server.serving.remove(flight)
        outcome = {
            "well": Outcome(server.id, b""),
            "broke": said_by(server, Internal("broke", ran=Ran.YES)),
            "lost": said_by(server, OutcomeUnknown("lost", ran=Ran.MAYBE)),
            "further": said_by(server, OutcomeUnknown("lost", ran=Ran.YES), Origin.FURTHER),
        }[how]
        self.serving.answer(flight, outcome, self.now)

    @precondition(lambda self: self.calls or self.taken)
    @rule(data=st.data())
    def somebody_gives_up(self, data: st.DataObject) -> None:
        flight = data.draw(st.sampled_from(self.calls + self.taken))
        driver = self.calling if flight.source == "app" else self.serving
        driver.end(flight, Outcome.refusal(Cancelled("given up")), self.now)

    @rule()
    def the_app_is_gone(self) -> None:
        for flight in self.calls:
            self.calling.end(flight, Outcome.refusal(Cancelled("app gone")), self.now)

    @rule(version=st.sampled_from(["1", "2"]))
    def an_instance_joins(self, version: str) -> None:
        if len(self.servers) < 12:
            id = f"i{len(self.servers)}"
            self.servers[id] = Server(id)
            self.announce(id, version, "up")

    @precondition(lambda self: any(server.alive for server in self.servers.values()))
    @rule(data=st.data())
    def a_process_is_gone(self, data: st.DataObject) -> None:
        server = data.draw(st.sampled_from([server for server in self.servers.values() if server.alive]))
        server.alive = False
        for flight in [it for it in self.taken if it.target is server and it.stage is Stage.WAITING]:
            self.serving.end(flight, Outcome.refusal(InstanceGone("gone", ran=Ran.NO)), self.now)
        flights, server.serving = server.serving, []
        for flight in flights:
            self.serving.answer(flight, Outcome.refusal(OutcomeUnknown("lost")), self.now)

    @rule(data=st.data(), state=st.sampled_from(["up", "leaving", "gone"]))
    def the_directory_changes(self, data: st.DataObject, state: str) -> None:
        id = data.draw(st.sampled_from(sorted(self.servers)))
        if state == "gone":
            self.changed(self.directory.gone(id, "boot"))
        else:
            self.announce(id, "1", state)

    def announce(self, id: str, version: str, state: str) -> None:
        offer = Offer("orders", (Announced(id, version, {"zone": "a"}, state),))
        self.changed(self.directory.update(id, "boot", f"peer-{id}", [offer], 1e9, self.now))

    def changed(self, services: set[str]) -> None:
        for service in services:
            for flight in self.parts.waiting.of(service):
                self.calling.wake(flight, self.now)

    @rule(number=st.integers(0, len(POLICIES) - 1))
    def swap_the_policy(self, number: int) -> None:
        policy = POLICIES[number]
        access = Access(policy)
        self.out: Path = outbound(self.parts, access, policy, {"zone": "a"}, "orders", "get")
        self.into: Path = inbound(self.parts, access, policy, "orders", "get")

    @rule(seconds=st.sampled_from([0.011, 0.05, 0.35, 1.1, 7.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        while (due := self.wheel.next_due()) is not None and due <= self.now:
            for flight in self.wheel.due(self.now):
                (self.calling if flight.source == "app" else self.serving).due(flight, self.now)

    # What holds always.

    @invariant()
    def every_instance_is_charged_with_what_it_was_sent_and_no_more(self) -> None:
        if not hasattr(self, "calls"):
            return
        self.members.update(self.directory._members.get("orders", {}).values())
        sent = [flight for flight in self.calls if flight.stage is Stage.SENT]
        direct = [flight.target for flight in sent if isinstance(flight.target, Member)]
        self.members.update(direct)
        assert {flight.try_id for flight in sent} == set(self.tries)
        for member in self.members:
            assert member.inflight == sum(target is member for target in direct)
        for tally in {member.tally for member in self.members}:
            assert tally.inflight == sum(target.tally is tally for target in direct)

    @invariant()
    def no_place_leaks_and_nobody_sleeps_beside_a_free_one(self) -> None:
        if not hasattr(self, "calls"):
            return
        self.limits.update(limit for server in self.servers.values() for limit in server.limits.values())
        for limit in self.limits:
            holding = [flight for flight in self.taken if flight.place is limit]
            running = [flight for flight in holding if flight.stage is Stage.SENT]
            waiting = [flight for flight in holding if flight.stage is Stage.WAITING]
            assert len(running) + len(waiting) == len(holding)
            assert limit.running == len(running) <= limit.concurrency
            in_time = [flight for flight in waiting if self.now < flight.deadline]
            assert len(in_time) <= limit.waiting <= len(waiting) <= limit.policy.queue
            assert not in_time or limit.running == limit.concurrency

    @invariant()
    def each_probe_has_a_living_call_and_at_most_half_of_the_circuits_are_open(self) -> None:
        if not hasattr(self, "calls"):
            return
        self.circuits.update(found for _, found in self.parts.circuits)
        for found in self.circuits:
            breakers = found._breakers
            opened = [breaker for breaker in breakers.values() if breaker.state is not State.CLOSED]
            assert found.open == len(opened) <= len(breakers) // 2
            for id, breaker in breakers.items():
                claims = [
                    flight
                    for flight in self.calls
                    if flight.stage is Stage.SENT
                    and isinstance(flight.target, Member)
                    and flight.target.id == id
                    and flight.ticket == breaker.generation
                    and any(getattr(gate, "_circuits", None) is found for gate in flight.path.gates)
                ]
                assert breaker.state is State.CLOSED or len(claims) == (breaker.state is State.PROBING)

    @invariant()
    def what_is_not_idempotent_runs_once_and_a_key_at_one_instance(self) -> None:
        for flight, instances in getattr(self, "ran", {}).items():
            if not flight.idempotent:
                assert len(set(instances)) == 1
                assert len(instances) == 1 or flight.once

    @invariant()
    def nothing_outlives_its_deadline(self) -> None:
        for flight in getattr(self, "calls", []) + getattr(self, "taken", []):
            assert flight.stage is Stage.ENDED or self.now < flight.deadline + 0.02

    def teardown(self) -> None:
        if hasattr(self, "calls"):
            self.time_passes(600.0)
            assert self.ended == set(self.calls)
            assert not self.tries
            assert len(self.wheel) == 0
            assert all(limit.running == limit.waiting == 0 for limit in self.limits)
            assert all(member.inflight == member.tally.inflight == 0 for member in self.members)
            assert repr(self.parts.waiting) == "Waiting({})"


TrafficUnderTest.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestTrafficOfBothEnds = TrafficUnderTest.TestCase
