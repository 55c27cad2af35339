"""One wheel for all deadlines of an agent or an app: a call costs a place in a list, and no timer of its own.

Pure: it is told the time. Most calls are over in a few milliseconds and have seconds. So what is added is only noted,
and looked at once, up to `LOOK` seconds later: what has ended by then never sees the wheel proper. The rest, and what
is due before that look, goes into slots, each a `GRAIN` wide.

    add ──▶ YOUNG ──the look──▶ SLOTTED ──its slot is over──▶ reported
              └──remove──▶ forgotten ◀──remove──┘

Nothing is reported early, or more than a grain late.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Final, Generic, Protocol, TypeVar

GRAIN: Final = 0.01
"""Seconds that share one slot."""
LOOK: Final = 0.05
"""Seconds between looks at what was added. More would keep more of what has ended, less would wake processes for it."""
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
    """Things by the time at which they are due.

    Whoever turns it asks `next_due` after each turn and calls `due` at that time; `earlier(at)` tells when it must be
    sooner.
    """

    __slots__ = ("_earlier", "_look_at", "_order", "_slots", "_turn_at", "_young")

    def __init__(self, earlier: Callable[[float], None] = lambda at: None) -> None:
        self._earlier = earlier
        self._young: list[T] = []
        self._look_at = 0.0
        self._turn_at = _NEVER
        self._slots: dict[int, dict[T, None]] = {}
        self._order: list[int] = []

    def __repr__(self) -> str:
        return f"Wheel(things={len(self)}, next={self.next_due()})"

    def __len__(self) -> int:
        young = {thing for thing in self._young if thing.slot == _YOUNG and thing.due != _NEVER}
        return len(young) + sum(map(len, self._slots.values()))

    def add(self, thing: T, due: float, now: float) -> None:
        """Have a thing reported at `due` (seconds, like `now`); what is on the wheel already is moved."""
        if thing.slot > _YOUNG:
            self.remove(thing)
        thing.due = due
        young = self._young
        if not young:
            self._look_at = now + LOOK
            self._sooner(self._look_at)
        if due < self._look_at:
            self._slot(thing)
        elif thing.slot != _YOUNG:
            thing.slot = _YOUNG
            young.append(thing)

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
        # Whoever asks turns it then; so what comes sooner, and only that, is told of.
        self._turn_at = at = min(first, self._look_at) if self._young else first
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
        self.next_due()
        return found

    def _look(self, found: list[T], now: float) -> None:
        """Sort what was added since the last look: over, due, or for later."""
        young, self._young = self._young, []
        for thing in young:
            if thing.slot != _YOUNG:
                continue  # it was moved to a slot meanwhile
            thing.slot = OFF
            if thing.due <= now:
                found.append(thing)
            elif thing.due != _NEVER:
                self._slot(thing)

    def _slot(self, thing: T) -> None:
        thing.slot = number = int(thing.due / GRAIN) + 1
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = {}
            heappush(self._order, number)
            self._sooner(number * GRAIN)
        slot[thing] = None

    def _sooner(self, at: float) -> None:
        """Ask to be turned at `at`, unless that is to be done by then anyway."""
        if at < self._turn_at:
            self._turn_at = at
            self._earlier(at)
