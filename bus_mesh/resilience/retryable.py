"""Whether a failed try may be made again: what is idempotent, or provably did not run, and only elsewhere.

A try that an instance refused because it is leaving, or was never addressed to it, is *moved*: that costs nothing of
the tries and of the budget, whatever the method. The number of moves is bounded all the same, so that no call wanders
for ever. What the broker found nobody in the queue group for is moved too, if it is idempotent: the last member may
just have left it, and can be called directly. That is the broker's word and no proof, so no other call is.

An open circuit is not tried again: another try would find it open, and its answer says when to come back.
"""

from enum import Enum
from typing import Final

from bus_mesh.protocol.call import Origin, Outcome
from bus_mesh.protocol.errors import Code, Ran

MOVES: Final = 8
"""How often a call may be moved on from instances that did not run it."""
MOVED: Final = frozenset({"DRAINING", "INSTANCE_GONE", "NOT_A_RECIPIENT"})
"""Reasons of instances that are not to be had for this call and, where they say so, did not run it."""

_UNAVAILABLE: Final = int(Code.UNAVAILABLE)
_FOR_GOOD: Final = frozenset({"BUS_STALLED", "CIRCUIT_OPEN"})


class Next(Enum):
    """What becomes of a call whose try failed."""

    STANDS = "stands"
    MOVES = "moves"
    """At once to another instance, outside of tries and budget."""
    RETRIES = "retries"
    """After a pause, if the budget has one left."""


def after(outcome: Outcome, *, idempotent: bool, attempt: int, moves: int, tries: int) -> Next:
    """Say what follows from `outcome` of try number `attempt`, of which `moves` were moves and `tries` are allowed."""
    if outcome.code != _UNAVAILABLE or outcome.final or outcome.replayed or outcome.origin is Origin.FURTHER:
        return Next.STANDS
    reason = outcome.reason
    if reason in _FOR_GOOD:
        return Next.STANDS
    if outcome.ran is Ran.NO and reason in MOVED:
        return Next.MOVES if attempt <= MOVES else Next.STANDS
    if idempotent and attempt <= MOVES and _group_was_empty(outcome):
        return Next.MOVES
    known_not_run = outcome.ran is Ran.NO and outcome.origin is Origin.TARGET
    return Next.RETRIES if (idempotent or known_not_run) and attempt - moves < tries else Next.STANDS


def _group_was_empty(outcome: Outcome) -> bool:
    """Tell whether the broker said that it knew nobody to give a call to, which was meant for no one instance."""
    here = outcome.origin is Origin.HERE and outcome.instance is None
    return here and outcome.ran is not Ran.NO and outcome.reason == "NO_INSTANCES"
