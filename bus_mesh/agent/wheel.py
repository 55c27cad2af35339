"""One wheel for all deadlines: a call costs two dictionary operations and no timer of its own.

Pure: it is told the time. Due times are rounded up to `GRAIN` seconds, so a call is never ended early, and at most one
grain late. A flight is on the wheel at most once.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

from bus_mesh.gates.gate import Flight

GRAIN: Final = 0.01
"""Seconds that share one slot."""


class Wheel:
    """Flights by the slot of time in which they are due. `earlier(due)` is told when a slot becomes the first one."""

    def __init__(self, earlier: Callable[[float], None] = lambda due: None) -> None:
        self._earlier = earlier
        self._slots: dict[int, dict[Flight, None]] = {}
        self._order: list[int] = []

    def __repr__(self) -> str:
        return f"Wheel(flights={len(self)}, next={self.next_due()})"

    def __len__(self) -> int:
        return sum(len(slot) for slot in self._slots.values())

    def add(self, flight: Flight, due: float) -> None:
        """Put a flight that is not on the wheel into the slot of `due` (monotonic seconds)."""
        number = int(due / GRAIN) + 1
        flight.slot = number
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = {}
            heappush(self._order, number)
            if self._order[0] == number:
                self._earlier(number * GRAIN)
        slot[flight] = None

    def remove(self, flight: Flight) -> None:
        """Take a flight off, if it is on."""
        slot = self._slots.get(flight.slot)
        if slot is not None:
            slot.pop(flight, None)
            if not slot:
                slot.clear()  # gives back the room of the hundreds that it may have held, which `pop` keeps
        flight.slot = -1

    def next_due(self) -> float | None:
        """Return when the next slot is due, or None when nothing is on the wheel."""
        while self._order and not self._slots[self._order[0]]:
            del self._slots[heappop(self._order)]
        return self._order[0] * GRAIN if self._order else None

    def due(self, now: float) -> list[Flight]:
        """Take off and return the flights whose slot is over."""
        found: list[Flight] = []
        while self._order and self._order[0] * GRAIN <= now:
            found += self._slots.pop(heappop(self._order))
        for flight in found:
            flight.slot = -1
        return found
