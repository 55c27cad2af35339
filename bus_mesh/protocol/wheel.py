"""One wheel for all deadlines of an agent or an app: a call costs a place in a list, and no timer of its own.

Pure: it is told the time. Most calls are over in a few milliseconds, so what is added is only noted, and looked at once
a `GRAIN` later: what has ended by then never sees the wheel proper. The rest goes into slots, each a `GRAIN` wide.

    add ──▶ YOUNG ──a grain later──▶ SLOTTED ──its slot is over──▶ reported
              └──remove──▶ forgotten ◀──remove──┘

Nothing is reported early, or more than a grain late.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Final, Generic, Protocol, TypeVar

GRAIN: Final = 0.01
"""Seconds that share one slot."""
OFF: Final = -1
"""The slot of what is not on the wheel."""
_YOUNG: Final = 0
_NEVER: Final = inf


class Timed(Protocol):
    """What can be put on a wheel, which keeps these two; both begin as `OFF` and 0.0."""

    slot: int
    due: float


T = TypeVar("T", bound=Timed)


class Wheel(Generic[T]):
    """Things by the time at which they are due. `earlier(at)` is told when the wheel must be turned sooner."""

    __slots__ = ("_earlier", "_look_at", "_order", "_slots", "_young")

    def __init__(self, earlier: Callable[[float], None] = lambda at: None) -> None:
        self._earlier = earlier
        self._young: list[T] = []
        self._look_at = 0.0
        self._slots: dict[int, dict[T, None]] = {}
        self._order: list[int] = []

    def __repr__(self) -> str:
        return f"Wheel(things={len(self)}, next={self.next_due()})"

    def __len__(self) -> int:
        return sum(thing.due != _NEVER for thing in self._young) + sum(map(len, self._slots.values()))

    def add(self, thing: T, due: float, now: float) -> None:
        """Have a thing reported at `due` (seconds, like `now`); what is on the wheel already is moved."""
        if thing.slot > _YOUNG:
            self.remove(thing)
        thing.due = due
        if thing.slot == _YOUNG:
            return
        thing.slot = _YOUNG
        young = self._young
        young.append(thing)
        if len(young) == 1:
            self._look_at = now + GRAIN
            if not self._order or self._order[0] * GRAIN > self._look_at:
                self._earlier(self._look_at)

    def remove(self, thing: T) -> None:
        """Take a thing off, if it is on."""
        if thing.slot == _YOUNG:
            thing.due = _NEVER
        elif thing.slot > _YOUNG:
            slot = self._slots[thing.slot]
            del slot[thing]
            thing.slot = OFF
            if not slot:
                slot.clear()  # gives back the room of the hundreds that it may have held, which `del` keeps

    def next_due(self) -> float | None:
        """Return when to call `due`, or None when nothing is on the wheel."""
        order = self._order
        while order and not self._slots[order[0]]:
            del self._slots[heappop(order)]
        first = order[0] * GRAIN if order else _NEVER
        at = min(first, self._look_at) if self._young else first
        return None if at == _NEVER else at

    def due(self, now: float) -> list[T]:
        """Take off and return what is due."""
        found: list[T] = []
        if self._young and now >= self._look_at:
            self._look(found, now)
        while self._order and self._order[0] * GRAIN <= now:
            slotted = self._slots.pop(heappop(self._order))
            found += slotted
            for thing in slotted:
                thing.slot = OFF
        return found

    def _look(self, found: list[T], now: float) -> None:
        """Sort what was added since the last look: over, due, or for later."""
        young, self._young = self._young, []
        for thing in young:
            thing.slot = OFF
            if thing.due == _NEVER:
                continue
            if thing.due <= now:
                found.append(thing)
                continue
            thing.slot = number = int(thing.due / GRAIN) + 1
            slot = self._slots.get(number)
            if slot is None:
                slot = self._slots[number] = {}
                heappush(self._order, number)
            slot[thing] = None
