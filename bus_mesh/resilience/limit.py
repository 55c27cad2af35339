"""How many calls an instance runs at once, and which of the others wait.

The queue is first in, first out, bounded, and knows deadlines: a call that could not have its turn before its deadline
is refused at once, while its caller still has the time to go elsewhere. How long a turn takes is learnt from how often
places came free while all were taken.

    enter ──a place is free──▶ RUNS ──leave──▶ its place goes to the first waiter that is still in time
      │ └──no place, but time──▶ WAITS ──place handed over──▶ RUNS
      └──no place, no time, or the queue is full──▶ refused, with a delay
"""

from collections import OrderedDict
from collections.abc import Hashable
from enum import Enum
from typing import Final, Generic, TypeVar

from bus_mesh.policy import traffic

LEAST: Final = 64
"""Calls that an instance is handed at once where policy gives no number, though it runs fewer: its next is at hand."""
_WEIGHT: Final = 0.125
"""Of the last turn in the moving average."""
SHORTEST_DELAY: Final = 0.01
LONGEST_DELAY: Final = 10.0
"""Bounds of the seconds that a refused caller is told to wait."""

C = TypeVar("C", bound=Hashable)


class Entry(Enum):
    """What becomes of a call that wants to run."""

    GO = "go"
    WAIT = "wait"
    """Until a place is handed over, or the deadline."""
    FULL = "full"


_GO: Final = Entry.GO


class ConcurrencyLimit(Generic[C]):
    """The places of one instance. Who got GO or WAIT must `leave`, once; `now` is in monotonic seconds.

    There are as many as policy says; else as many as the instance `says` that it runs at once, and `LEAST` at least.
    """

    __slots__ = ("_late", "_most_waiting", "_since", "_turn", "_waiting", "concurrency", "policy", "running")

    def __init__(self, policy: traffic.Limit, says: int = LEAST) -> None:
        self.policy = policy
        self.concurrency = policy.concurrency or max(says, LEAST)
        """Places that there are."""
        self._most_waiting = policy.queue
        self.running = 0
        """Places that are taken."""
        self._waiting: OrderedDict[C, float] = OrderedDict()
        self._late: set[C] = set()  # skipped: their deadline is over, and they have still to leave
        self._turn = 0.0
        self._since = 0.0

    def __repr__(self) -> str:
        return f"ConcurrencyLimit(running={self.running}/{self.concurrency}, waiting={len(self._waiting)})"

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return len(self._waiting)

    def enter(self, call: C, now: float, deadline: float) -> Entry:
        """Give the call a place, let it wait for one, or refuse it."""
        if self.running < self.concurrency:
            self.running += 1
            if self.running == self.concurrency:
                self._since = now
            return _GO
        waiting = len(self._waiting)
        if waiting >= self._most_waiting or now + (waiting + 1) * self._turn >= deadline:
            return Entry.FULL
        self._waiting[call] = deadline
        return Entry.WAIT

    def retry_after(self, now: float) -> float:
        """Return the seconds after which a refused call may find a place: the queue's length in turns."""
        turn = self._turn or now - self._since
        return min(max((len(self._waiting) + 1) * turn, SHORTEST_DELAY), LONGEST_DELAY)

    def has_place(self, call: C) -> bool:
        """Tell whether a call that waited was handed a place; one that was not waits on, or leaves."""
        return call not in self._waiting and call not in self._late

    def leave(self, call: C, now: float) -> C | None:
        """Take the call out; return the one that was handed its place, if any."""
        if self._waiting or self._late:
            if self._waiting.pop(call, None) is not None:
                return None
            if call in self._late:
                self._late.remove(call)
                return None
        if self.running == self.concurrency:
            self._learn(now)
            while self._waiting:
                waiter, deadline = self._waiting.popitem(last=False)
                if deadline > now:
                    return waiter
                self._late.add(waiter)
        self.running -= 1
        return None

    def _learn(self, now: float) -> None:
        turn = now - self._since
        self._turn += _WEIGHT * (turn - self._turn) if self._turn else turn
        self._since = now
