"""What an outcome says of the instance that a call was sent to.

An instance is charged with what broke in it or kept it from answering, never with what its callers did wrong, with
what this agent decided by itself, or with an error that it only passed on. To be asked only where the call was sent to
one instance, or one has answered: the broker's choice that nobody answered for is charged to nobody.
"""

from enum import Enum
from typing import Final

from bus_mesh.protocol.call import Origin, Outcome
from bus_mesh.protocol.errors import Code
from bus_mesh.resilience.retryable import MOVED

RATE_LIMITED: Final = "RATE_LIMITED"
"""The reason of a refusal that the caller has earned itself, however well the instance is."""


class Charge(Enum):
    """What is booked on an instance's circuit."""

    SUCCESS = "success"
    FAILURE = "failure"
    EXHAUSTED = "exhausted"
    """It is full: this counts against its success ratio, and does not make a row."""
    NOTHING = "nothing"


_OK: Final = int(Code.OK)
_NOT_ITS_FAULT: Final = MOVED | {RATE_LIMITED}
_SUCCESS: Final = Charge.SUCCESS
_BROKEN: Final = frozenset(
    map(int, (Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS))
)


def charge(outcome: Outcome) -> Charge:
    """Return what to book for a call that ended like this."""
    code = outcome.code
    if code == _OK:
        return _SUCCESS
    passed_on = outcome.replayed or outcome.origin is Origin.FURTHER
    if code == Code.CANCELLED or passed_on or outcome.reason in _NOT_ITS_FAULT:
        return Charge.NOTHING
    if outcome.origin is Origin.HERE:  # nobody said so: silence is charged, a decision of this agent is not
        silent = code == Code.DEADLINE_EXCEEDED or outcome.reason == "OUTCOME_UNKNOWN"
        return Charge.FAILURE if silent else Charge.NOTHING
    if code == Code.RESOURCE_EXHAUSTED:
        return Charge.EXHAUSTED
    return Charge.FAILURE if code in _BROKEN else _SUCCESS
