"""When what a loop turn has gathered leaves: together, without waiting.

Pure: it is handed the time, and what schedules work for the end of a turn. A frame that comes alone leaves at once, and
then has cost no work at the end of its turn. Of many, each `part` leave without waiting for the rest, so that who gets
them works on them meanwhile: a bunch that goes from process to process whole keeps one processor busy and the others
idle. Who makes the bunch, the caller, cuts it small; those it passes through hand on what came together, or each of
them would cut it smaller.

    ALONE ──another within APART──▶ GATHERING ──end of the turn──▶ BUSY ──the next──▶ GATHERING
      ▲                                  └──end of a turn with one──▶ ALONE
"""

from collections.abc import Callable
from math import inf
from typing import Final, Generic, TypeVar

PART: Final = 128
"""Frames that leave together before the turn is over; at a caller half of what is under way, if that is less."""
SMALL_PART: Final = 32
"""A caller cuts its bunches no smaller: each costs as much as a dozen frames."""
APART: Final = 0.000_1
"""Seconds after which a frame does not belong to the one before: a lone call and its answer take longer."""

T = TypeVar("T")


class Turn(Generic[T]):
    """Gathers what one turn of the loop has to send. `leave(items)` sends some of them, never none."""

    __slots__ = ("_alone", "_clock", "_count", "_items", "_last", "_leave", "_soon", "part")

    def __init__(
        self,
        soon: Callable[[Callable[[], None]], object],
        clock: Callable[[], float],
        leave: Callable[[list[T]], None],
    ) -> None:
        self.part = PART
        self._soon = soon
        self._clock = clock
        self._leave = leave
        self._items: list[T] = []
        self._count = 0
        self._alone = True
        self._last = -inf

    def __repr__(self) -> str:
        return f"Turn(gathered={len(self._items)} of {self._count}, part={self.part}, alone={self._alone})"

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, item: T) -> None:
        """Gather one more."""
        if self._count:
            self._count += 1
            self._items.append(item)
            if len(self._items) >= self.part:
                self.leave()
            return
        if self._alone:
            now = self._clock()
            if now - self._last > APART:
                self._last = inf  # what leaving it brings about, such as another try, is gathered
                try:
                    self._leave([item])
                finally:
                    self._last = now
                return
        self._count = 1 + self._alone  # the one before it has left already
        self._items.append(item)
        self._soon(self._over)

    def leave(self) -> None:
        """Send what is gathered now."""
        items, self._items = self._items, []
        if items:
            self._leave(items)

    def _over(self) -> None:
        self._alone = self._count == 1
        self._count = 0
        self.leave()
