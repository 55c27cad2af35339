"""Whether an instance wants to be in the queue group of its service, where the broker chooses among its members.

    UP ──a call was refused for want of a place──▶ FULL ──calm for `CALM_SECONDS`──▶ UP
    UP, FULL ──failed its check so often in a row──▶ UNWELL ──passed it──▶ UP, or FULL while it is not calm

One refusal is enough to leave, and only a calm while to come back: an instance at its limit would else do both many
times a second. Pure: it is handed the time (monotonic seconds) and what runs and waits.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, Protocol

CALM_SECONDS: Final = 0.5
"""Seconds that a full instance must have been calm before it comes back."""
CALM_SHARE: Final = 0.75
"""Of its places; it is calm while fewer are taken and nobody waits for one."""


class Standing(StrEnum):
    """How an instance stands to its queue group. The value is the state that is announced."""

    UP = "up"
    FULL = "full"
    UNWELL = "unwell"


class Places(Protocol):
    """The places of an instance: how many there are, how many are taken, and how many calls wait for one."""

    @property
    def concurrency(self) -> int:
        """How many calls run at once."""

    @property
    def running(self) -> int:
        """How many run now."""

    @property
    def waiting(self) -> int:
        """How many wait."""


class Shedding:
    """What one instance has met with lately: refusals for want of a place, and the verdicts of its health check."""

    __slots__ = ("_calm_since", "_failed", "_full", "_most", "_unwell")

    def __init__(self) -> None:
        self._full = False
        self._most: int | None = None
        self._calm_since: float | None = None
        self._unwell = False
        self._failed = 0

    def __repr__(self) -> str:
        return f"Shedding({self._standing}, calm_since={self._calm_since}, failed={self._failed})"

    def refused(self, inflight: int | None = None) -> None:
        """Note that a call found no place; `inflight` others were in hand, where it was the app itself that refused."""
        self._full = True
        self._calm_since = None
        if inflight is not None:
            self._most = inflight

    def checked(self, passed: bool, failures: int) -> None:
        """Note what a health check came to; `failures` in a row make an instance unwell, one success makes it well."""
        self._failed = 0 if passed else self._failed + 1
        self._unwell = not passed and (self._unwell or self._failed >= failures)

    def look(self, now: float, inflight: int, places: Iterable[Places]) -> Standing:
        """Return how the instance stands to its group, by what runs and waits there at this moment.

        Nobody here knows the places of an app that refuses by itself: what it had in hand then counts as all of them.
        """
        if self._full:
            if not self._calm(inflight, places):
                self._calm_since = None
            elif self._calm_since is None:
                self._calm_since = now
            elif now - self._calm_since >= CALM_SECONDS:
                self._full, self._most = False, None
        return self._standing

    @property
    def _standing(self) -> Standing:
        if self._unwell:
            return Standing.UNWELL
        return Standing.FULL if self._full else Standing.UP

    def _calm(self, inflight: int, places: Iterable[Places]) -> bool:
        if self._most is not None and inflight >= max(1, CALM_SHARE * self._most):
            return False
        return all(not one.waiting and one.running < CALM_SHARE * one.concurrency for one in places)
