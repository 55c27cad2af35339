"""Which calls are delayed or refused on purpose, to see that callers bear it.

A fault that somebody forgot is an outage, so each has an end, and none without one can be made.
"""

from collections.abc import Callable
from typing import NamedTuple


class Injected(NamedTuple):
    """What is done to a call: a delay in seconds (0.0 for none), then the name of a code to refuse it with."""

    delay: float
    abort: str | None


class Fault:
    """Does `injected` to `percent` of the calls (0 to 100), until the wall clock says `until` (seconds since 1970)."""

    def __init__(self, injected: Injected, percent: float, until: float) -> None:
        self._injected = injected
        self._share = percent / 100
        self._until = until

    def __repr__(self) -> str:
        return f"Fault({self._injected}, {self._share:.4%}, until={self._until:.0f})"

    def choose(self, roll: Callable[[], float], wall: Callable[[], float]) -> Injected | None:
        """Return what to do to this call, or None; `roll()` returns 0 to below 1, `wall()` the seconds since 1970."""
        return self._injected if roll() < self._share and wall() < self._until else None
