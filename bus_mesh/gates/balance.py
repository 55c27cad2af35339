"""Where a call goes: to the broker's queue group, or to one instance that is picked here.

Stands below Retry, so that each try is placed anew. A service that is not in the directory is searched for, and its
first calls wait here for the answer.
"""

from collections.abc import Callable
from typing import Final, Generic

from bus_mesh.balance.directory import Directory, Member, P
from bus_mesh.balance.pick import Picker
from bus_mesh.gates.gate import Flight, Gate, Refuse, Stage, Wait
from bus_mesh.protocol.call import Outcome
from bus_mesh.protocol.errors import NoInstances, Ran

_WAITING: Final = Stage.WAITING  # an enum member costs 0.1 µs to look up by its class
FIND_PATIENCE: Final = 2.0
"""Seconds that a call waits for somebody to say that they serve what it asks for."""


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
    """Gives a call its target: a `View` (the whole group) or one `Member`."""

    def __init__(
        self, directory: Directory[P], waiting: Waiting, ask: Callable[[str], None], picker: Picker | None
    ) -> None:
        self._directory = directory
        self._waiting = waiting
        self._ask = ask
        self._picker = picker
        self._elsewhere = picker or Picker.random(directory.draw)

    def __repr__(self) -> str:
        return f"Balance({self._picker or 'queue'})"

    def enter(self, call: Flight, now: float) -> Refuse | Wait | None:
        """Place the call, park it until the service is found, or say that nobody serves it."""
        view = self._directory.view(call.service)
        if view is None or not view.ready:
            return self._unknown(call, now)
        if call.stage is _WAITING:
            self._waiting.remove(call)
        wanted = None if call.head is None else call.head.get("instance")
        if wanted is None:
            if self._picker is None and call.attempt == 1 and now >= view.grouped_from:
                call.target = view
                return None
            member = self._elsewhere.pick(view.ready, call.avoid)
        else:
            member = view.member(wanted)
        if member is None:
            text = f"{call.service} has no instance {wanted!s:.80}: see `busmesh get instances`"
            return Refuse(NoInstances(text, ran=Ran.NO))
        member.inflight += 1
        call.target = member
        return None

    def leave(self, call: Flight, outcome: Outcome, now: float) -> None:
        """Forget a call that ended while it waited; give back an instance's slot otherwise."""
        target = call.target
        if target is None:
            self._waiting.remove(call)
            return
        if type(target) is Member:
            target.inflight -= 1
        call.target = None

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
