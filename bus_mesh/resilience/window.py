"""How many things happened in the last seconds, in bounded memory.

A ring of ten buckets: the one that is being filled and the nine before it, so what is counted reaches back between nine
tenths and the whole of the window, and a bucket is forgotten at once.
"""

from typing import Final

BUCKETS: Final = 10


class Window:
    """A count over the last `seconds`. `now` is in monotonic seconds."""

    __slots__ = ("_buckets", "_ends", "_number", "_place", "_total", "_width")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / BUCKETS
        self._buckets = [0] * BUCKETS
        self._number = self._place = self._total = 0
        self._ends = 0.0

    def __repr__(self) -> str:
        return f"Window({self._total} in {self._width * BUCKETS:g}s)"

    def add(self, now: float) -> None:
        """Count one more."""
        if now >= self._ends:
            self._turn(now)
        self._buckets[self._place] += 1
        self._total += 1

    def count(self, now: float) -> int:
        """Return how many there were."""
        if now >= self._ends:
            self._turn(now)
        return self._total

    def _turn(self, now: float) -> None:
        number = int(now / self._width)
        for passed in range(max(self._number, number - BUCKETS) + 1, number + 1):
            place = passed % BUCKETS
            self._total -= self._buckets[place]
            self._buckets[place] = 0
        self._number, self._place = number, number % BUCKETS
        self._ends = (number + 1) * self._width
