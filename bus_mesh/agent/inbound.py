"""Calls from the bus, on their way to a local instance and back.

By the time a call comes here its envelope has been opened: who sent it is proven. What is decided here is only whether
the frame fits that sender and this instance; the rest is for the gates.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Final, NamedTuple, Protocol

from bus_mesh.agent.drive import Driver
from bus_mesh.agent.outbox import Outbox
from bus_mesh.gates.gate import Flight, Path, Stage
from bus_mesh.gates.once import Answers
from bus_mesh.identity.keyring import Opened, Peer
from bus_mesh.identity.receipt import REQUEST, Proof
from bus_mesh.protocol.call import Origin, Outcome
from bus_mesh.protocol.errors import (
    Cancelled,
    Code,
    Draining,
    FailedPrecondition,
    InstanceGone,
    MeshError,
    OutcomeUnknown,
    PayloadTooLarge,
    PermissionDenied,
    Ran,
    ResourceExhausted,
    Unimplemented,
)
from bus_mesh.protocol.frames import Call, Cancel, Fail, Fields, Head, Kind, Method, encode
from bus_mesh.protocol.micro import counts
from bus_mesh.protocol.wheel import Wheel
from bus_mesh.resilience.limit import LEAST, ConcurrencyLimit
from bus_mesh.resilience.shedding import Shedding

ANONYMOUS: Final = "anonymous"
"""Who plain clients are to policy."""
_SMALL: Final = 64 * 1024  # bytes that fit into an envelope of any bus
_WAITING: Final = Stage.WAITING  # an enum member costs 0.1 µs to look up by its class
_CALL: Final = int(Kind.CALL)
_REPLY: Final = int(Kind.REPLY)
_FAIL: Final = int(Kind.FAIL)
_CANCEL: Final = int(Kind.CANCEL)
_EXHAUSTED: Final = int(Code.RESOURCE_EXHAUSTED)
_HANDED: Final = frozenset(("metadata", "traceparent", "idempotency_key", "content_type", "attempt", "mirrored"))
_KEPT: Final[tuple[str, ...]] = ("retry_after_ms", "metadata", "origin")


class ClockSkew(FailedPrecondition, reason="CLOCK_SKEW"):
    """The clocks of two nodes differ by more than a minute."""


class Server(Protocol):
    """A local session that serves. It holds the calls that it was handed, by their number on its socket."""

    serving: dict[int, Flight]

    @property
    def instances(self) -> Mapping[str, object]:
        """The instances that it serves, by id."""

    def write(self, frame: bytes) -> None:
        """Have an encoded frame leave with all others of this turn."""

    def next_number(self) -> int:
        """Return a number for a call on this socket, never used before."""


Stray = Callable[[Server, int, bytes | None, Fail | None], None]
"""Takes in an answer to a question of the agent's own, by session and number: the payload of a REPLY, or a FAIL."""


class PlainCaller(NamedTuple):
    """A plain client of NATS: nobody in particular. `reply` is its inbox, `number` that of its call."""

    reply: str
    number: int


class Instance:
    """A service that a local session offers. `refusing` once it has drained: what still comes is sent elsewhere.

    `counts` are its calls by method, `since_us` is when it came, by the wall clock. `limits` are its places, by the
    method where that has a word of its own; `has_check` says that it can be asked whether it is well, `passed` that it
    once said so. `kept` are its answers by idempotency key: they go with it. `concurrency` is how many calls it says
    that it runs at once.
    """

    __slots__ = (
        "concurrency",
        "counts",
        "has_check",
        "id",
        "inflight",
        "kept",
        "labels",
        "limits",
        "methods",
        "passed",
        "refusing",
        "service",
        "session",
        "shedding",
        "since_us",
        "state",
        "version",
    )

    def __init__(
        self, id: str, service: str, version: str, labels: dict[str, str], methods: dict[str, Method], session: Server
    ) -> None:
        self.id = id
        self.service = service
        self.version = version
        self.labels = labels
        self.methods = methods
        self.session = session
        self.counts = counts(methods)
        self.since_us = 0
        self.state = "joining"
        self.refusing = False
        self.inflight = 0
        self.concurrency = LEAST
        self.limits: dict[str, ConcurrencyLimit[Flight]] = {}
        self.kept = Answers()
        self.shedding = Shedding()
        self.has_check = self.passed = False

    def __repr__(self) -> str:
        return f"Instance({self.service} {self.id} {self.state}, inflight={self.inflight})"


class Inbound:
    """The calls to this node's instances. `compile_path(service, method)` gives the path under the policy in force."""

    def __init__(
        self, wheel: Wheel[Flight], outbox: Outbox, compile_path: Callable[[str, str], Path], most_per_session: int
    ) -> None:
        self.driver = Driver(wheel, self._send, self._abandon, self._done)
        self._outbox = outbox
        self._compile = compile_path
        self._most = most_per_session
        self.came = 0
        """Calls that have come, started or refused."""
        self._paths: dict[tuple[str, str], Path] = {}
        self._by_source: dict[tuple[str, str, int], Flight] = {}
        self.refused: Callable[[Instance], None] = lambda instance: None
        """Where it is told that an app, or its connection, had no place for a call."""
        self.plain_done: Callable[[PlainCaller, Outcome], None] = lambda caller, outcome: None
        """Where it is told how a call of a plain client ended."""
        self.stray: tuple[Stray, ...] = ()
        """Where answers go that are none to a call from the bus."""

    def __repr__(self) -> str:
        return f"Inbound(calls={len(self._by_source)}, paths={len(self._paths)})"

    @property
    def calls(self) -> int:
        """How many calls are being handled."""
        return len(self._by_source)

    def recompile(self) -> None:
        """Take up a newer policy: calls under way keep the path they are on."""
        self._paths = {}

    # From the bus.

    def call(self, opened: Opened, instance: Instance, frame: Fields, now: float) -> None:
        """Start a call whose sender is proven, for an instance of ours; `frame` is a CALL."""
        _, number, service, method, ttl_ms, caller, head, payload = frame
        peer = opened.peer
        key = (peer.node, peer.boot, number)
        self.came += 1
        if key in self._by_source:
            return
        fits = service == instance.service and method in instance.methods and caller in peer.certificate.call_as
        if not fits or instance.refusing or opened.skew_us:
            self.refuse(opened, number, self._unfit(opened, instance, Call._make(frame)), instance.id)
            return
        path = self._paths.get((service, method)) or self._path(service, method)
        deadline = now + ttl_ms / 1000 - opened.late_us / 1e6
        handed = None
        if head is not None and not _HANDED.isdisjoint(head):
            handed = {name: head[name] for name in head if name in _HANDED}
        flight = Flight(path, peer, number, service, method, caller, handed, payload, now, deadline)
        flight.target = instance
        if opened.proof is not None:
            flight.proof = opened.proof
        self._by_source[key] = flight
        instance.inflight += 1
        self.driver.begin(flight, now)

    def plain_call(
        self, caller: PlainCaller, instance: Instance, method: str, params: bytes, now: float, deadline: float
    ) -> None:
        """Start a call of a plain client, ANONYMOUS to policy, for an instance of ours."""
        service = instance.service
        self.came += 1
        error: MeshError | None = None
        if instance.refusing:
            error = Draining(f"instance {instance.id} is leaving", ran=Ran.NO)
        elif method not in instance.methods:
            error = Unimplemented(_no_method(method, instance), ran=Ran.NO)
        if error is not None:
            self.plain_done(caller, Outcome.refusal(error))
            return
        # A path only for what is served: strangers can think of any number of names.
        path = self._paths.get((service, method)) or self._path(service, method)
        flight = Flight(path, caller, caller.number, service, method, ANONYMOUS, None, params, now, deadline)
        flight.target = instance
        self._by_source["", "", caller.number] = flight
        instance.inflight += 1
        self.driver.begin(flight, now)

    def cancel(self, peer: Peer, number: int, now: float) -> None:
        """Give up a call because its caller says so; only its own caller can, and unknown ids are ignored."""
        flight = self._by_source.get((peer.node, peer.boot, number))
        if flight is not None:
            self.driver.end(flight, Outcome.refusal(Cancelled("the caller gave up")), now)

    def refuse(self, opened: Opened, number: int, error: MeshError, instance: str | None = None) -> None:
        """Answer a call that was not started."""
        proof = opened.proof
        frame = encode(_frame(number, Outcome.refusal(error), instance, proof))
        if proof is None:
            self._outbox.answer(opened.peer, frame)
        else:
            self._outbox.answer_signed(opened.peer, frame, number, proof)

    # From an instance.

    def reply(self, session: Server, frame: Fields, now: float) -> None:
        """Take in a REPLY; those to calls that were answered, cancelled or out of time are ignored."""
        _, number, _, payload = frame
        flight = session.serving.pop(number, None)
        if flight is None:
            for answered in self.stray:
                answered(session, number, payload, None)
            return
        instance: Instance = flight.target
        size = len(payload) + 256
        if size > _SMALL and size > (room := self._outbox.room()):
            text = f"the result of {flight.service}/{flight.method} has {size} bytes, over this bus's limit of {room}"
            outcome = Outcome.refusal(PayloadTooLarge(text, details={"bytes": size, "limit": room}, ran=Ran.YES))
        else:
            outcome = Outcome(instance.id, payload)
        self.driver.answer(flight, outcome, now)

    def fail(self, session: Server, frame: Fail, now: float) -> None:
        """Take in a failure; those of calls that were answered, cancelled or out of time are ignored."""
        flight = session.serving.pop(frame.id, None)
        if flight is None:
            for answered in self.stray:
                answered(session, frame.id, None, frame)
            return
        outcome = Outcome.failure(frame, flight.target.id)
        if (frame.head or {}).get("ran") != "no":
            outcome.ran = Ran.YES
        elif outcome.code == _EXHAUSTED and outcome.origin is not Origin.FURTHER:
            self.refused(flight.target)
        self.driver.answer(flight, outcome, now)

    def lost(self, session: Server, now: float) -> None:
        """Tell the callers of a session that is gone: nobody knows whether their calls ran, but those that waited."""
        for flight in [flight for flight in self._by_source.values() if flight.target.session is session]:
            # First, or the places of the others would be handed on to them. Who waits for another's answer gets that.
            if flight.stage is _WAITING and flight.place is not None:
                text = f"instance {flight.target.id} of {flight.service} was lost before it had the call"
                self.driver.end(flight, Outcome.refusal(InstanceGone(text, ran=Ran.NO)), now)
        flights, session.serving = session.serving, {}
        for flight in flights.values():
            text = f"instance {flight.target.id} of {flight.service} was lost while it held the call"
            self.driver.answer(flight, Outcome.refusal(OutcomeUnknown(text, ran=Ran.MAYBE)), now)

    # What the driver asks for.

    def _send(self, flight: Flight, now: float) -> Outcome | None:
        assert flight.permit is not None, "a call that no policy permitted"
        instance: Instance = flight.target
        session = instance.session
        if len(session.serving) >= self._most:
            self.refused(instance)
            error = ResourceExhausted(f"{instance.id} has {self._most} calls in flight", ran=Ran.NO, retry_after=0.1)
            return Outcome.refusal(error)
        flight.try_id = number = session.next_number()
        session.serving[number] = flight
        head: Head = {"expires_us": int(flight.deadline * 1e6)}
        if len(session.instances) > 1:
            head["instance"] = instance.id
        if flight.head:
            head |= flight.head
        ttl_ms = int((flight.deadline - now) * 1000)
        session.write(
            encode((_CALL, number, flight.service, flight.method, ttl_ms, flight.caller, head, flight.payload))
        )
        return None

    def _abandon(self, flight: Flight) -> None:
        session: Server = flight.target.session
        if session.serving.pop(flight.try_id, None) is not None:
            session.write(encode(Cancel(_CANCEL, flight.try_id)))

    def _done(self, flight: Flight, outcome: Outcome, now: float) -> None:
        peer: Peer | PlainCaller = flight.source
        instance: Instance = flight.target
        proof: Proof | None = flight.proof
        instance.inflight -= 1
        count = instance.counts[flight.method]
        count.requests += 1
        count.seconds += now - flight.started
        if outcome.fail is not None:
            count.errors += 1
            count.last_error = f"{outcome.fail.code}:{outcome.fail.message:.200}"
        if isinstance(peer, PlainCaller):
            del self._by_source["", "", flight.id]
            self.plain_done(peer, outcome)
            return
        del self._by_source[peer.node, peer.boot, flight.id]
        if outcome.fail is None:
            head: Head = {"instance": instance.id, "load": instance.inflight}
            if proof is not None:
                head[REQUEST] = proof.digest
            frame = encode((_REPLY, flight.id, head, outcome.payload))
        else:
            frame = encode(_frame(flight.id, outcome, instance.id, proof))
        # Signed if the call was, whatever policy says here: agents take up a new one one by one.
        if proof is None:
            self._outbox.answer(peer, frame)
        else:
            self._outbox.answer_signed(peer, frame, flight.id, proof)

    # Inside.

    def _path(self, service: str, method: str) -> Path:
        path = self._paths[service, method] = self._compile(service, method)
        return path

    def _unfit(self, opened: Opened, instance: Instance, frame: Call) -> MeshError:
        """Return why a frame may not go to this instance."""
        if opened.skew_us:
            seconds = opened.skew_us / 1e6
            return ClockSkew(f"this node's clock and yours differ by {seconds:.1f} s; set them by NTP", ran=Ran.NO)
        if frame.caller not in opened.peer.certificate.call_as:
            text = f"node {opened.peer.node} may not speak for {frame.caller!r:.80}: grant it with --call-as"
            return PermissionDenied(text, ran=Ran.NO)
        if frame.service != instance.service:
            return InstanceGone(f"{instance.id} does not serve {frame.service!r:.80}", ran=Ran.NO)
        if instance.refusing:
            return Draining(f"instance {instance.id} is leaving", ran=Ran.NO)
        return Unimplemented(_no_method(frame.method, instance), ran=Ran.NO)


def _no_method(method: str, instance: Instance) -> str:
    near = get_close_matches(method[:63], instance.methods, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(instance.methods)[:8])}"
    return f"{instance.service} has no method {method!r:.80}: {hint}"


def _frame(number: int, outcome: Outcome, instance: str | None, proof: Proof | None) -> Fail:
    """Return the FAIL for the bus: what the mesh says of it is ours, the rest the service's."""
    assert outcome.fail is not None
    said = outcome.fail.head or {}
    head: Head = {key: said[key] for key in _KEPT if key in said}
    head["ran"] = str(outcome.ran)
    if outcome.replayed:
        head["replayed"] = True
    if instance is not None:
        head["instance"] = instance
    if proof is not None:
        head[REQUEST] = proof.digest
    return outcome.fail._replace(kind=_FAIL, id=number, head=head)
