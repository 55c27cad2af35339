"""When a failed try is made again: what is idempotent, or provably did not run, and only elsewhere.

A try that an instance refused because it is leaving, or was never addressed to it, costs nothing and is not counted
against the tries; the number of such moves is bounded all the same, so that no call wanders for ever.
"""

from collections.abc import Callable
from typing import Final

from bus_mesh.gates.gate import Again, Flight, Gate
from bus_mesh.protocol.call import Origin, Outcome
from bus_mesh.protocol.errors import Code, Ran

TRIES: Final = 3
"""Tries of an idempotent call, the first one included."""
MOVES: Final = 8
"""How often a call may be moved on from instances that did not run it."""
PAUSE: Final = 0.025
"""Seconds before the second try, doubled for each one after it; the pause is drawn between none and this."""

_UNAVAILABLE: Final = int(Code.UNAVAILABLE)
_MOVED: Final = frozenset({"DRAINING", "INSTANCE_GONE", "NOT_A_RECIPIENT"})
_HERE_FOR_GOOD: Final = frozenset({"BUS_STALLED"})


class Retry(Gate):
    """Has a call tried again where that is right. `jitter()` draws from 0.0 to 1.0."""

    failures_only = True

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter

    def leave(self, call: Flight, outcome: Outcome, now: float) -> Again | None:
        """Ask for another try, or let the outcome stand."""
        if outcome.code != _UNAVAILABLE or outcome.final or outcome.origin is Origin.FURTHER:
            return None
        if outcome.reason in _HERE_FOR_GOOD:
            return None
        if outcome.instance is not None:
            call.avoid = (*call.avoid, outcome.instance)
        if outcome.ran is Ran.NO and outcome.reason in _MOVED:
            call.moves += 1
            return Again() if call.attempt <= MOVES else None
        known_not_run = outcome.ran is Ran.NO and outcome.origin is Origin.TARGET
        tries = call.attempt - call.moves
        if (call.idempotent or known_not_run) and tries < TRIES:
            pause = PAUSE * 2 ** (tries - 1) * self._jitter()
            return Again(pause) if now + pause < call.deadline else None
        return None
