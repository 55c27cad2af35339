"""Where a call to a plain service of NATS goes: to the endpoint that the service itself names.

Stands where Balance does for services of the mesh, below Retry, so that each try looks anew. Who answers is the choice
of the broker's queue group alone.
"""

from collections.abc import Callable
from typing import Final

from bus_mesh.balance.outside import AWAY, Outside
from bus_mesh.gates.balance import Waiting
from bus_mesh.gates.gate import Flight, Gate, Refuse, Wait
from bus_mesh.protocol.call import Outcome
from bus_mesh.protocol.errors import BusStalled, InvalidArgument, NoInstances, Ran, Unimplemented

_OF_THE_MESH: Final = frozenset(("idempotency_key", "instance"))


class Seek(Gate):
    """Gives a call its endpoint. `ask(service, now)` has the service say where those are, False when nothing was sent.

    `waiting` holds the calls that wait for it to say so.
    """

    def __init__(self, outside: Outside, waiting: Waiting, ask: Callable[[str, float], bool]) -> None:
        self._outside = outside
        self._waiting = waiting
        self._ask = ask

    def enter(self, call: Flight, now: float) -> Refuse | Wait | None:
        """Place the call, park it until the service has said where it is, or say that it does not."""
        outside, service = self._outside, call.service
        if call.head is not None and not _OF_THE_MESH.isdisjoint(call.head):
            text = f"{service} is no part of the mesh: nobody there knows idempotency keys or ids of instances"
            return Refuse(InvalidArgument(text, ran=Ran.NO))
        endpoint = outside.endpoint(service, call.method)
        waited = call in self._waiting  # not by its stage, which a fault above may have left behind
        if not waited and outside.due(service, call.method, now):
            if self._ask(service, now):
                outside.asked(service, now)
            elif endpoint is None:
                return Refuse(BusStalled(AWAY, ran=Ran.NO))
        if endpoint is None and now < outside.until(service):
            self._waiting.add(call)
            return Wait(min(outside.until(service), call.deadline))
        if waited:
            self._waiting.remove(call)
        if endpoint is None:
            return Refuse(self._missing(call))
        call.target = endpoint
        return None

    def leave(self, call: Flight, outcome: Outcome, now: float) -> None:
        """Forget a call that ended while it waited."""
        self._waiting.remove(call)
        call.target = None

    def _missing(self, call: Flight) -> NoInstances | Unimplemented:
        known = self._outside.endpoints(call.service)
        if known:
            return Unimplemented(
                f"{call.service} has no endpoint {call.method}: it has {', '.join(known[:16])}", ran=Ran.NO
            )
        text = f"no plain service says that it is {call.service}: is it running, and may this node ask $SRV.INFO?"
        return NoInstances(text, ran=Ran.NO)
