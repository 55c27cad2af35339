"""Calls of local apps, on their way to the bus and back.

Decides nothing about a call: gates do, and the driver carries it out. This is what `send`, `abandon` and `done` mean
for this direction, and who may answer.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from bus_mesh.agent.copies import Copies
from bus_mesh.agent.drive import Driver
from bus_mesh.agent.outbox import Outbox, Sent
from bus_mesh.agent.outward import Outward
from bus_mesh.agent.route import Route
from bus_mesh.balance.directory import Directory, Member, View
from bus_mesh.balance.outside import Endpoint
from bus_mesh.gates.gate import Flight, Path, Stage
from bus_mesh.identity.keyring import Peer
from bus_mesh.identity.receipt import REQUEST, Proof
from bus_mesh.protocol import names
from bus_mesh.protocol.call import Outcome, fail
from bus_mesh.protocol.errors import (
    BusStalled,
    Cancelled,
    Code,
    Draining,
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    NoInstances,
    NotARecipient,
    OutcomeUnknown,
    PayloadTooLarge,
    Ran,
    ResourceExhausted,
)
from bus_mesh.protocol.frames import Cancel, Fail, Fields, Head, Kind, Refused, encode
from bus_mesh.protocol.wheel import Wheel
from bus_mesh.resilience.usual import Usual

_CARRIED: Final = frozenset(("metadata", "traceparent", "idempotency_key", "content_type", "instance"))
"""What of an app's head travels; the rest is between app and agent."""
_MOST_ROUTES: Final = 4096
_CODES: Final = {int(code): code.name for code in Code}
_SAMPLED: Final = 4  # one result in four is enough to learn how long a method usually takes
_SMALL: Final = 64 * 1024  # bytes that fit into an envelope of any bus
_SENT: Final = Stage.SENT
_CALL: Final = int(Kind.CALL)
_REPLY: Final = int(Kind.REPLY)
_CANCEL: Final = int(Kind.CANCEL)


class Asker(Protocol):
    """A local session that calls. It holds its own flights, so that they can be ended when it is lost."""

    app: str
    flights: dict[int, Flight]
    serving: dict[int, Flight]
    """The calls that it answers; while it does, it may make further ones, also when this agent is leaving."""

    def write(self, frame: bytes) -> None:
        """Have an encoded frame leave with all others of this turn."""


class Outbound:
    """The calls that this node's apps make.

    `compile_route(service, method)` gives the route under the policy in force; `unfit(app)` says why this node may not
    call in the name of an app, `tried(outcome)` counts each try, `mirrored(result)` each copy of a call; `compile_copy`
    gives the way of those. `unproven(reason)` counts the answers to signed calls
    that are none, not being signed themselves.
    """

    def __init__(
        self,
        wheel: Wheel[Flight],
        outbox: Outbox,
        directory: Directory[Peer],
        compile_route: Callable[[str, str], Route],
        compile_copy: Callable[[str, str], Path],
        unfit: Callable[[str], MeshError | None],
        usual: Usual,
        tried: Callable[[str], None],
        mirrored: Callable[[str], None],
        most_per_session: int,
    ) -> None:
        self.driver = Driver(wheel, self._send, self._abandon, self._done)
        self.copies = Copies(self.driver, compile_copy, mirrored)
        self.awaiting: dict[int, Flight] = {}
        self._outbox = outbox
        self._directory = directory
        self._compile = compile_route
        self._unfit = unfit
        self._usual = usual
        self._tried = tried
        self._most = most_per_session
        self._compiled: dict[tuple[str, str], Route] = {}
        self._routes: dict[tuple[str, str, str], Route] = {}
        """The same, by the apps that were found fit to call."""
        self._tries = 0
        self._leaving = False
        self.stray: Callable[[Peer, Fields], None] = lambda peer, frame: None
        """Where an answer goes that is none to a call of an app."""
        self.unproven: Callable[[str], None] = lambda reason: None
        self.outward: Outward | None = None
        """The way to plain services of NATS, where this node has one."""
        outbox.stalled = self._stalled

    def __repr__(self) -> str:
        return f"Outbound(awaiting={len(self.awaiting)}, routes={len(self._routes)})"

    def recompile(self) -> None:
        """Take up a newer policy or certificate: calls under way keep the path they are on."""
        self._compiled, self._routes = {}, {}
        self.copies.recompile()

    def leave(self) -> None:
        """Take no new call from now on, but those that answers need which are still to be given."""
        self._leaving, self._routes = True, {}

    # From an app.

    def call(self, session: Asker, frame: Fields, now: float) -> None:
        """Start a call that an app has made; `frame` is a CALL."""
        _, number, service, method, ttl_ms, _, head, payload = frame
        flights = session.flights
        if number in flights:
            return  # ids are never used twice: an answer to this one would end the call that has it
        if len(flights) >= self._most:
            session.write(encode(fail(number, _too_many(session, self._most))))
            return
        route = self._routes.get((session.app, service, method)) or self._route(session, number, service, method)
        if route is None:
            return
        deadline, idempotent, carried, named, key = now + ttl_ms / 1000, route.idempotent, None, False, None
        if head is not None:
            expires = head.get("expires_us")
            if type(expires) is int and expires < deadline * 1e6:
                deadline = expires / 1e6
            # Policy shortens what a contract or a default says, not what a caller says.
            if route.timeout is not None and head.get("implicit") is True:
                deadline = min(deadline, now + route.timeout)
            if idempotent is None:
                idempotent = head.get("idempotent") is True
            if not _CARRIED.isdisjoint(head):
                carried = {key: head[key] for key in head if key in _CARRIED}
            named = head.get("named") is True
            key = route.key_of(head)
        if deadline > now + route.longest:
            deadline = now + route.longest
        flight = Flight(route.path, session, number, service, method, session.app, carried, payload, now, deadline)
        flight.idempotent, flight.named = idempotent is True, named
        if key is not None:
            flight.key = key
        flights[number] = flight
        self.driver.begin(flight, now)
        if self.copies.due:
            self.copies.send(now)

    def cancel(self, session: Asker, number: int, now: float) -> None:
        """Give up a call because its app says so; unknown ids are ignored."""
        flight = session.flights.get(number)
        if flight is not None:
            self.driver.end(flight, Outcome.refusal(Cancelled("the caller gave up")), now)

    def lost(self, session: Asker, now: float) -> None:
        """Give up all the calls of an app that is gone."""
        for flight in list(session.flights.values()):
            self.driver.end(flight, Outcome.refusal(Cancelled("the caller is gone")), now)

    def changed(self, services: Iterable[str], waiting: Callable[[str], list[Flight]], now: float) -> None:
        """Let calls that wait for news of these services look again."""
        for service in services:
            for flight in waiting(service):
                self.driver.wake(flight, now)

    # From the bus.

    def reply(self, peer: Peer, frame: Fields, now: float, proof: Proof | None = None) -> None:
        """Take in a REPLY; one from somebody who was not asked is dropped. `proof` is what its envelope proves."""
        _, number, head, payload = frame
        flight = self._answered(peer, number, head, proof)
        if flight is not None:
            outcome = Outcome(None, payload)
            if head is not None:
                outcome.instance = instance = _instance(head)
                load = head.get("load")
                if type(load) is int and load >= 0:
                    outcome.load = load
                if instance is not None and flight.target.__class__ is View:
                    outcome.member = self._member(flight, instance, peer)
            self.driver.answer(flight, outcome, now)
            self._tried("OK")  # after it: what is only noted need not be waited for
            if not number % _SAMPLED:
                self._usual.record(flight.service, flight.method, now - flight.tried_at)
        else:
            self.stray(peer, frame)

    def fail(self, peer: Peer, frame: Fail, now: float, proof: Proof | None = None) -> None:
        """Take in a failure; one from somebody who was not asked is dropped."""
        flight = self._answered(peer, frame.id, frame.head, proof)
        if flight is not None:
            if proof is not None and frame.head is not None:  # what it answers is between agents
                frame = frame._replace(head={key: said for key, said in frame.head.items() if key != REQUEST})
            outcome = Outcome.failure(frame, _instance(frame.head))
            if outcome.instance is not None:
                outcome.member = self._member(flight, outcome.instance, peer)
                if outcome.member is None:
                    outcome.instance = None  # not its own: it is not to keep calls away from another
            self._tried(_CODES[outcome.code])
            self.driver.answer(flight, outcome, now)
        else:
            self.stray(peer, frame)

    def refused(self, peer: Peer, frame: Refused, now: float) -> set[str]:
        """Place the calls of a queue-mode envelope anew that reached somebody it was not addressed to.

        Returns the services that this peer serves and this agent did not know it to.
        """
        services: set[str] = set()
        sent = self._outbox.sent.get(frame.counter)
        if sent is None or not sent.hash or sent.hash != frame.hash:
            return services
        for flight in self._unanswered(sent):
            if flight.service in peer.certificate.serve:
                services.add(flight.service)
                error = NotARecipient("the broker chose an instance that this node did not know yet", ran=Ran.NO)
                self._over(flight, Outcome.refusal(error), now)
        return services

    def nobody(self, counter: int, now: float) -> list[Flight]:
        """Take in the broker's word that nobody got an envelope; return the calls that it held."""
        sent = self._outbox.sent.get(counter)
        flights = self._unanswered(sent) if sent is not None else []
        for flight in flights:
            error = NoInstances(f"the broker knows nobody who serves {flight.service}")
            self._over(flight, Outcome.refusal(error, _target_id(flight)), now)
        return flights

    def dead(self, node: str, boot: str, now: float) -> None:
        """End or move the calls that a process held which is known to be dead."""
        for flight in list(self.awaiting.values()):
            sent: Sent | None = flight.sent
            if sent is None or not any(peer.node == node and peer.boot == boot for peer in sent.peers):
                continue
            if len(sent.peers) == 1 or flight.idempotent:
                text = f"{flight.service} on {node} was lost while it held the call"
                self._over(flight, Outcome.refusal(OutcomeUnknown(text), _target_id(flight)), now)

    # What the driver asks for.

    def _send(self, flight: Flight, now: float) -> Outcome | None:
        assert flight.permit is not None, "a call that no policy permitted"
        target: View[Peer] | Member[Peer] | Endpoint = flight.target
        head = flight.head
        if flight.attempt > 1:
            head = {**(head or {}), "attempt": flight.attempt}
        grouped = type(target) is View
        if not grouped:
            if type(target) is Endpoint:
                return self.outward.send(flight, now)  # type: ignore[union-attr]  # who had found it
            head = {**(head or {}), "instance": target.id}  # type: ignore[union-attr]
        self._tries = number = self._tries + 1
        ttl_ms = int((flight.deadline - now) * 1000) or 1
        frame = encode((_CALL, number, flight.service, flight.method, ttl_ms, flight.caller, head, flight.payload))
        if len(frame) > _SMALL and len(frame) > self._outbox.room():
            return Outcome.refusal(_too_large(flight, len(frame), self._outbox.room()))
        if not flight.idempotent:
            flight.idempotent = self._announced_idempotent(flight)
        flight.try_id = number
        flight.tried_at = now
        self.awaiting[number] = flight
        if grouped:
            self._outbox.to_group(target, flight, frame)  # type: ignore[arg-type]
        else:
            self._outbox.to_peer(target.peer, flight, frame)  # type: ignore[union-attr]
        return None

    def _abandon(self, flight: Flight) -> None:
        self.awaiting.pop(flight.try_id, None)
        sent: Sent | str | None = flight.sent
        if sent is None:
            self._outbox.give_up()
        elif isinstance(sent, str):
            self.outward.abandon(flight)  # type: ignore[union-attr]  # whose mark it is
        else:
            cancel = encode(Cancel(_CANCEL, flight.try_id))
            for peer in sent.peers:
                peer.knows_me = False  # it may have lost what it knew of us: introduce ourselves again
                self._outbox.answer(peer, cancel)
            self._outbox.settle(flight)

    def _done(self, flight: Flight, outcome: Outcome, now: float) -> None:
        session: Asker = flight.source
        session.flights.pop(flight.id, None)
        if outcome.fail is None:
            head = {"instance": outcome.instance} if flight.named and outcome.instance is not None else None
            session.write(encode((_REPLY, flight.id, head, outcome.payload)))
        else:
            session.write(encode(outcome.fail._replace(id=flight.id)))

    # Inside.

    def _route(self, session: Asker, number: int, service: str, method: str) -> Route | None:
        if self._leaving and not session.serving:
            error: MeshError | None = Draining("this node's agent is leaving", ran=Ran.NO)
        else:
            error = self._unfit(session.app)
        try:
            names.called(service, method)
        except MeshError as wrong:
            error = error or wrong
        if error is None and self.outward is None and names.is_plain(service):
            text = f"this node has no way to {service}: give it one under `micro` in node.yaml"
            error = FailedPrecondition(text, ran=Ran.NO)
        if error is not None:
            session.write(encode(fail(number, error)))
            return None
        if len(self._routes) >= _MOST_ROUTES or len(self._compiled) >= _MOST_ROUTES:
            self.recompile()
        route = self._compiled.get((service, method))
        if route is None:
            route = self._compiled[service, method] = self._compile(service, method)
        if not self._leaving:
            self._routes[session.app, service, method] = route
        return route

    def _announced_idempotent(self, flight: Flight) -> bool:
        view = self._directory.view(flight.service)
        method = view.methods.get(flight.method) if view is not None else None
        return method is not None and method.idempotent

    def _answered(self, peer: Peer, number: int, head: Head | None, proof: Proof | None) -> Flight | None:
        """Take the flight that a peer answers off the list, if it is one of those asked and may serve what was."""
        flight = self.awaiting.get(number)
        if flight is None or flight.sent is None:
            return None
        sent: Sent = flight.sent
        asked = peer in sent.peers or any(p.node == peer.node and p.boot == peer.boot for p in sent.peers)
        if not asked or flight.service not in peer.certificate.serve:
            return None
        if sent.proof is not None and not self._proven(number, sent.proof, head, proof):
            return None
        del self.awaiting[number]
        flight.sent = None
        sent.left -= 1
        if not sent.left:
            self._outbox.over(sent)
        return flight

    def _member(self, flight: Flight, instance: str, peer: Peer) -> Member[Peer] | None:
        """Return an instance if it is one of the peer that says so: none answers for another's."""
        member = self._directory.member(flight.service, instance)
        return member if member is not None and member.node == peer.node else None

    def _proven(self, number: int, request: Proof, head: Head | None, answer: Proof | None) -> bool:
        """Keep the receipt of a signed call; False for what is not a signed answer to this very request."""
        if answer is None:
            self.unproven("UNSIGNED_ANSWER")
        elif head is None or head.get(REQUEST) != request.digest:
            self.unproven("NOT_ITS_ANSWER")
        else:
            self._outbox.receipts.answered(number, request, answer)
            return True
        return False

    def _unanswered(self, sent: Sent) -> list[Flight]:
        return [flight for flight in sent.flights if flight.sent is sent and flight.stage is _SENT]

    def _over(self, flight: Flight, outcome: Outcome, now: float) -> None:
        """End the present try without an answer."""
        self._tried(outcome.reason)
        self.awaiting.pop(flight.try_id, None)
        self._outbox.settle(flight)
        self.driver.answer(flight, outcome, now)

    def _stalled(self, flights: list[Flight], why: str, now: float) -> None:
        for flight in flights:
            error = BusStalled(f"{why}: the call was not sent, try again shortly", ran=Ran.NO)
            self._over(flight, Outcome.refusal(error), now)


def _instance(head: Head | None) -> str | None:
    instance = head.get("instance") if head is not None else None
    return instance if type(instance) is str and len(instance) <= 95 else None


def _target_id(flight: Flight) -> str | None:
    return flight.target.id if type(flight.target) is Member else None


def _too_many(session: Asker, most: int) -> MeshError:
    return ResourceExhausted(f"{session.app} has {most} calls in flight", ran=Ran.NO, retry_after=0.1)


def _too_large(flight: Flight, size: int, room: int) -> InvalidArgument:
    text = f"{flight.service}/{flight.method}: a call of {size} bytes is over this bus's limit of {room}"
    return PayloadTooLarge(text, details={"bytes": size, "limit": room}, ran=Ran.NO)
