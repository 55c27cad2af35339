"""All deadlines of a connection in one wheel: adding and dropping one costs a dictionary entry, not a timer.

Pure: the caller passes `now` and asks for `next`, the time to come back. Deadlines fall into slots of 10 ms and are
reported at the end of their slot, so never early and at most 10 ms late.
"""

import heapq
from collections.abc import Callable
from typing import Final, Protocol

SLOT: Final = 0.010
"""Seconds that a slot spans."""


class Timed(Protocol):
    """Something with a deadline."""

    def late(self, now: float) -> None:
        """Be told, once, that the deadline is past."""


class Deadlines:
    """Things with a time, in slots."""

    __slots__ = ("_earlier", "_order", "_slots")

    def __init__(self, earlier: Callable[[float], None] = lambda at: None) -> None:
        self._earlier = earlier
        self._slots: dict[int, set[Timed]] = {}
        self._order: list[int] = []

    def __repr__(self) -> str:
        return f"Deadlines({len(self)} in {len(self._slots)} slots)"

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    @property
    def next(self) -> float | None:
        """When `due` may have something to report, or None when there is nothing to wait for."""
        while self._order and not self._slots[self._order[0]]:
            del self._slots[heapq.heappop(self._order)]
        return self._order[0] * SLOT if self._order else None

    def add(self, thing: Timed, at: float) -> None:
        """Report `thing` once `at` (seconds) is past; `earlier` is told when that is before all others."""
        slot = int(at / SLOT) + 1
        held = self._slots.get(slot)
        if held is None:
            self._slots[slot] = {thing}
            heapq.heappush(self._order, slot)
            if self._order[0] == slot:
                self._earlier(slot * SLOT)
        else:
            held.add(thing)

    def drop(self, thing: Timed, at: float) -> None:
        """Forget `thing`, which was added for `at`; does nothing when it was reported already."""
        held = self._slots.get(int(at / SLOT) + 1)
        if held is not None:
            held.discard(thing)
            if not held:
                held.clear()  # gives back the room of the hundreds that it may have held, which `discard` keeps

    def due(self, now: float) -> list[Timed]:
        """Return, and forget, everything whose time is past."""
        found: list[Timed] = []
        while self._order and self._order[0] * SLOT <= now:
            found.extend(self._slots.pop(heapq.heappop(self._order)))
        return found
