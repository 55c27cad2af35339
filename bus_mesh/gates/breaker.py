"""Whom calls of this agent are not sent to for a while, because of how they answered it.

Innermost, so that each try is booked, on the instance that it was sent to or, where the broker chose, on the one that
answered. Balance has read the circuits already and goes round the open ones: what is refused here had to go to that one
instance.
"""

from typing import Final

from bus_mesh.balance.directory import Member
from bus_mesh.gates.gate import Flight, Gate, Refuse
from bus_mesh.protocol.call import Outcome
from bus_mesh.protocol.errors import CircuitOpen, Ran
from bus_mesh.resilience.charge import Charge, charge
from bus_mesh.resilience.circuits import ANY, Circuits

_SUCCESS: Final = Charge.SUCCESS  # an enum member costs 0.1 µs to look up by its class


class Breaker(Gate):
    """Lets calls through the circuit to their instance, claims its probe, and books how they ended."""

    def __init__(self, circuits: Circuits) -> None:
        self._circuits = circuits

    def enter(self, call: Flight, now: float) -> Refuse | None:
        """Let the call through, unless it has to go to an instance whose circuit is open."""
        target = call.target
        if type(target) is not Member:
            return None
        call.ticket = self._circuits.enter(target.id, now)
        if call.ticket:
            return None
        breaker = self._circuits.of(target.id)
        delay = breaker.retry_after(now) if breaker is not None else 0.0
        text = f"{call.service} on {target.node}, {target.id}, keeps failing: it is called again in {delay:.1f} s"
        return Refuse(CircuitOpen(text, details={"instance": target.id}, ran=Ran.NO, retry_after=delay))

    def leave(self, call: Flight, outcome: Outcome, now: float) -> None:
        """Book how the try ended; what the broker chose and nobody answered is booked on nobody."""
        target, ticket = call.target, call.ticket
        if type(target) is not Member:
            target, ticket = outcome.member, ANY
            if target is None:
                return
        charged = _SUCCESS if outcome.fail is None else charge(outcome)
        self._circuits.book(target.id, ticket, charged, now)
