"""Where a call goes: to the broker's queue group, or to one instance that is picked here.

Stands below Retry, so that each try is placed anew. A service that is not in the directory is searched for, and its
first calls wait here for the answer.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Final, Generic

from bus_mesh.balance.directory import Directory, Member, P, View
from bus_mesh.balance.placement import Placement
from bus_mesh.gates.gate import Flight, Gate, Refuse, Stage, Wait
from bus_mesh.protocol.call import Origin, Outcome
from bus_mesh.protocol.errors import Code, InvalidArgument, MeshError, NoInstances, OutcomeUnknown, Ran
from bus_mesh.resilience.circuits import Circuits

_WAITING: Final = Stage.WAITING  # an enum member costs 0.1 µs to look up by its class
FIND_PATIENCE: Final = 2.0
"""Seconds that a call waits for somebody to say that they serve what it asks for."""
KEY_LIMIT: Final = 1024
"""Characters of an idempotency key."""


class Waiting:
    """The calls that wait for news of a service; outlives any one path."""

    def __init__(self) -> None:
        self._flights: dict[str, dict[Flight, None]] = {}

    def __repr__(self) -> str:
        return f"Waiting({ {service: len(flights) for service, flights in self._flights.items()} })"

    def __contains__(self, flight: Flight) -> bool:
        return flight in self._flights.get(flight.service, ())

    def add(self, flight: Flight) -> None:
        """Note a call as waiting."""
        self._flights.setdefault(flight.service, {})[flight] = None

    def remove(self, flight: Flight) -> None:
        """Forget a call, if it waits."""
        flights = self._flights.get(flight.service, {})
        flights.pop(flight, None)
        if not flights:
            self._flights.pop(flight.service, None)

    def of(self, service: str) -> list[Flight]:
        """Return the calls that wait for news of `service`, in the order in which they came."""
        return list(self._flights.get(service, ()))


class Balance(Gate, Generic[P]):
    """Gives a call its target: a `View` (the whole group) or one `Member`.

    The broker's queue group chooses where `grouped` says so, for the first try of a call that has no idempotency key,
    while every circuit is closed; else `placement` does, among those whose circuits admit a call.
    """

    def __init__(
        self,
        directory: Directory[P],
        waiting: Waiting,
        ask: Callable[[str], None],
        placement: Placement[Member[P]],
        circuits: Circuits | None = None,
        *,
        grouped: bool,
    ) -> None:
        self._directory = directory
        self._waiting = waiting
        self._ask = ask
        self._placement = placement
        self._circuits = circuits
        self._grouped = grouped
        self._observes = placement.observes
        self._view: View[P] | None = None
        self._members: Sequence[Member[P]] = ()
        self._changes = 0
        self._until = inf

    def __repr__(self) -> str:
        return f"Balance({'queue, else ' if self._grouped else ''}{self._placement})"

    def enter(self, call: Flight, now: float) -> Refuse | Wait | None:
        """Place the call, park it until the service is found, or say that nobody serves it."""
        view = self._directory.view(call.service)
        if view is None or not view.ready:
            return self._unknown(call, now)
        if call.stage is _WAITING:
            self._waiting.remove(call)
        circuits = self._circuits
        if view is not self._view:
            self._take_over(view, now)
        elif circuits is not None and (circuits.changes != self._changes or now >= self._until):
            self._place(now)
        head = call.head
        wanted = None if head is None else head.get("instance")
        if wanted is not None:
            member = self._directory.member(call.service, wanted) if type(wanted) is str else None
            if member is None:
                text = f"{call.service} has no instance {wanted!s:.80}: see `busmesh get instances`"
                return Refuse(NoInstances(text, ran=Ran.NO))
        else:
            once = None if head is None else head.get("idempotency_key")
            grouped = once is None and self._grouped and call.attempt == 1 and now >= view.grouped_from
            if grouped and (circuits is None or not circuits.open):
                call.target = view
                return None
            if once is not None and (type(once) is not str or len(once) > KEY_LIMIT):
                return Refuse(
                    InvalidArgument(f"an idempotency key is text of up to {KEY_LIMIT} characters", ran=Ran.NO)
                )
            member = self._choose(call, once)
            if member is None:
                return Refuse(self._nobody_fits(call, once))
        member.inflight += 1
        member.tally.inflight += 1
        call.target = member
        return None

    def leave(self, call: Flight, outcome: Outcome, now: float) -> None:
        """Forget a call that ended while it waited; give back an instance's slot otherwise."""
        target = call.target
        if target is None:
            self._waiting.remove(call)
            return
        if type(target) is Member:
            target.end()
            if self._observes:
                self._observe(target, call, outcome, now)
            if call.once:
                call.last = target.id
        call.target = None

    def _choose(self, call: Flight, once: str | None) -> Member[P] | None:
        if once is None:
            return self._placement.choose(call.key, call.avoid)
        call.once = True
        if call.doubt and not call.idempotent:  # only who may have run it can tell whether it did
            return self._directory.member(call.service, call.last or "")
        return self._placement.choose(call.key, call.avoid, once)

    def _observe(self, member: Member[P], call: Flight, outcome: Outcome, now: float) -> None:
        """Learn from an answer how busy an instance is, and how fast: a failure tells only that when it was slow."""
        took = now - call.tried_at
        if outcome.fail is None:
            member.report(outcome.load)
            member.latency.observe(took, now)
        elif took > member.latency.seconds and outcome.code != Code.CANCELLED and _was_sent(outcome):
            member.latency.observe(took, now)

    def _take_over(self, view: View[P], now: float) -> None:
        self._view, self._members = view, self._placement.reached(view)
        if self._circuits is not None:
            # Whom a split gives no calls is not one of those of whom half must be left.
            self._circuits.follow(member.id for member in self._members)
        self._place(now)

    def _place(self, now: float) -> None:
        members = fit = self._members
        if self._circuits is not None:
            fit, self._until = self._circuits.fit(members, now)
            self._changes = self._circuits.changes
        self._placement.place(members, fit)

    def _nobody_fits(self, call: Flight, once: object) -> MeshError:
        if once is not None and call.doubt:
            text = f"{call.last} may have run {call.service}/{call.method} and is gone: nobody else can tell"
            return OutcomeUnknown(text)
        text = f"{call.service} has instances, and none that its split gives calls to: see `busmesh describe service`"
        return NoInstances(text, ran=Ran.NO)

    def _unknown(self, call: Flight, now: float) -> Refuse | Wait:
        if call not in self._waiting:
            return self._search(call, now)
        if now < call.until and not self._directory.absent(call.service, now):
            return Wait(call.until)
        self._waiting.remove(call)
        return self._nobody(call)

    def _search(self, call: Flight, now: float) -> Refuse | Wait:
        if self._directory.absent(call.service, now):
            return self._nobody(call)
        self._ask(call.service)
        self._waiting.add(call)
        return Wait(min(now + FIND_PATIENCE, call.deadline))

    def _nobody(self, call: Flight) -> Refuse:
        hint = "is one running, and is its node on this bus? see `busmesh get services`"
        return Refuse(NoInstances(f"nobody serves {call.service}: {hint}", ran=Ran.NO))


def _was_sent(outcome: Outcome) -> bool:
    """Tell whether a failed try had left this agent: what was refused here took no time of any instance."""
    return outcome.ran is not Ran.NO or outcome.origin is not Origin.HERE
