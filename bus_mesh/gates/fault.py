"""Delays and refuses calls on purpose, where policy says so.

Above Retry, so that callers see it: a fault that were tried again elsewhere would show nothing.
"""

from collections.abc import Callable

from bus_mesh.balance.fault import Fault, Injected
from bus_mesh.gates.gate import Flight, Gate, Refuse, Wait
from bus_mesh.protocol.call import Outcome
from bus_mesh.protocol.errors import Code, MeshError, Ran

REASON = "FAULT_INJECTED"


class Inject(Gate):
    """Does to some calls what `fault` says.

    `roll()` returns 0 to below 1, `wall()` the seconds since 1970; `injected(what)` counts a `delay` or an `abort`.
    """

    failures_only = True

    def __init__(
        self, fault: Fault, roll: Callable[[], float], wall: Callable[[], float], injected: Callable[[str], None]
    ) -> None:
        self._fault = fault
        self._roll = roll
        self._wall = wall
        self._injected = injected
        self._delayed: dict[Flight, Injected] = {}

    def __repr__(self) -> str:
        return f"Inject({self._fault})"

    def enter(self, call: Flight, now: float) -> Refuse | Wait | None:
        """Let the call on, hold it back for a while, or refuse it."""
        said = self._delayed.get(call)
        if said is not None:
            if now < call.until:
                return Wait(call.until)
            del self._delayed[call]
            return self._abort(call, said)
        said = self._fault.choose(self._roll, self._wall)
        if said is None:
            return None
        if not said.delay:
            return self._abort(call, said)
        self._injected("delay")
        self._delayed[call] = said
        return Wait(now + said.delay)

    def leave(self, call: Flight, outcome: Outcome, now: float) -> None:
        """Forget a call that ended while it was held back."""
        self._delayed.pop(call, None)

    def _abort(self, call: Flight, said: Injected) -> Refuse | None:
        if said.abort is None:
            return None
        self._injected("abort")
        error = MeshError(f"{call.service}/{call.method}: refused on purpose, by the fault in its policy", ran=Ran.NO)
        error.wire_code, error.wire_reason = Code[said.abort.upper()], REASON
        return Refuse(error)
