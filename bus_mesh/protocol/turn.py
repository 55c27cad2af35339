"""When what a loop turn has gathered leaves: together, without waiting.

Pure: it is handed what schedules work for the end of a turn. A frame that is alone, as the last one was, leaves at
once. Of many, each `AT_ONCE` (twice that when the turn before had `MANY`) leave without waiting for the rest, so that who gets them works on them meanwhile: a bunch
that goes from process to process whole keeps one processor busy and the others idle.
"""

from collections.abc import Callable
from typing import Final

AT_ONCE: Final = 32
"""Frames that leave together before the turn is over."""
MANY: Final = 96
"""Frames of one turn from which on twice as many leave together: there are parts enough to keep all busy."""


class Turn:
    """Counts the frames of one turn. `leave()` sends what is gathered; it is called again when there may be nothing."""

    __slots__ = ("_alone", "_count", "_leave", "_part", "_soon")

    def __init__(self, soon: Callable[[Callable[[], None]], object], leave: Callable[[], None]) -> None:
        self._soon = soon
        self._leave = leave
        self._count = 0
        self._part = AT_ONCE
        self._alone = True

    def __repr__(self) -> str:
        return f"Turn(gathered={self._count}, alone={self._alone})"

    def another(self) -> None:
        """Note that a frame was gathered."""
        self._count = count = self._count + 1
        if count == 1:
            self._soon(self._over)
            if self._alone:
                self._leave()
        elif not count % self._part:
            self._leave()

    def _over(self) -> None:
        self._alone = self._count == 1
        self._part = AT_ONCE if self._count < MANY else 2 * AT_ONCE
        self._count = 0
        self._leave()
