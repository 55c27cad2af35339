"""When what a loop turn has gathered leaves: together, without waiting.

Pure: it is handed what schedules work for the end of a turn. A frame that is alone, as the last one was, leaves at
once. Of many, each `part` leave without waiting for the rest, so that who gets them works on them meanwhile: a bunch
that goes from process to process whole keeps one processor busy and the others idle. Who makes the bunch, the caller,
cuts it small; those it passes through hand on what came together, or each of them would cut it smaller.
"""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

PART: Final = 128
"""Frames that leave together before the turn is over; at a caller half of what is under way, if that is less."""
SMALL_PART: Final = 32
"""A caller cuts its bunches no smaller: each costs as much as a dozen frames."""

T = TypeVar("T")


class Turn(Generic[T]):
    """Gathers what one turn of the loop has to send. `leave(items)` sends some of them, never none."""

    __slots__ = ("_alone", "_count", "_items", "_leave", "_soon", "part")

    def __init__(self, soon: Callable[[Callable[[], None]], object], leave: Callable[[list[T]], None]) -> None:
        self.part = PART
        self._soon = soon
        self._leave = leave
        self._items: list[T] = []
        self._count = 0
        self._alone = True

    def __repr__(self) -> str:
        return f"Turn(gathered={len(self._items)} of {self._count}, part={self.part}, alone={self._alone})"

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, item: T) -> None:
        """Gather one more."""
        self._items.append(item)
        self._count += 1
        if self._count == 1:
            try:
                if self._alone:
                    self.leave()
            finally:
                self._soon(self._over)  # after it, for what leaves is waited for
        elif len(self._items) >= self.part:
            self.leave()

    def leave(self) -> None:
        """Send what is gathered now."""
        items, self._items = self._items, []
        if items:
            self._leave(items)

    def _over(self) -> None:
        self._alone = self._count == 1
        self._count = 0
        self.leave()
