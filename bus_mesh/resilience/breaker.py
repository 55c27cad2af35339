"""When to stop calling an instance that keeps failing, and when to try it again.

    CLOSED ──too many failures──▶ OPEN ──rest over, a call claims the probe──▶ PROBING ──success──▶ CLOSED
                                   ▲ ▲───────failure: the rest doubles────────┘ │
                                   └────────cancelled: the claim is free────────┘

The words are the electrician's: a CLOSED circuit conducts, an OPEN one does not. Too many are `failures` in a row, or
successes under `success_ratio` of the calls in the window. Every change of state begins a new generation; a call books
its outcome with the generation that it entered in, so one that was let through long ago is never taken for the probe.
"""

from enum import Enum
from typing import Final

from bus_mesh.policy import traffic
from bus_mesh.resilience.charge import Charge
from bus_mesh.resilience.window import Window


class State(Enum):
    """Where a circuit stands: see the drawing above."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


_CLOSED: Final = State.CLOSED
_SUCCESS: Final = Charge.SUCCESS


class Breaker:
    """The circuit to one instance. `now` is in monotonic seconds; `jitter` is drawn evenly from 0.0 to 1.0.

    It says when it ought to open, and its owner opens it: how many may be open at once is `circuits.py`.
    """

    __slots__ = ("_calls", "_failed", "_policy", "_rest", "_row", "due", "generation", "state")

    def __init__(self, policy: traffic.Breaker) -> None:
        self._policy = policy
        self.generation = 0
        """The ticket of a call that enters while the circuit is closed."""
        self.close()

    def __repr__(self) -> str:
        return f"Breaker({self.state.value}, row={self._row}, failed={self._failed}, calls={self._calls})"

    def close(self) -> None:
        """Let calls through, and forget what was."""
        self.state = _CLOSED
        self.due = 0.0
        """When an OPEN circuit takes a probe."""
        self.generation += 1
        self._row = 0
        self._rest = self._policy.rest
        self._calls = Window(self._policy.window)
        self._failed = Window(self._policy.window)

    def open(self, now: float, jitter: float) -> None:
        """Stop calls for a rest, between half and the whole of what it has come to; the next one is twice as long."""
        self.state = State.OPEN
        self.generation += 1
        self.due = now + self._rest * (0.5 + 0.5 * jitter)
        self._rest = min(self._rest * 2, self._policy.longest_rest)

    def admits(self, now: float) -> bool:
        """Tell whether a call would be let through; this claims nothing."""
        return self.state is _CLOSED or (self.state is State.OPEN and now >= self.due)

    def retry_after(self, now: float) -> float:
        """Return the seconds until a call may be let through, 0.0 when it may now."""
        if self.state is State.PROBING:  # known only when the probe ends; failed, it rests so long
            return self._rest
        return max(self.due - now, 0.0)

    def enter(self, now: float) -> int:
        """Let a call through, claiming the probe where one is due; return its ticket, or 0 to refuse it."""
        if self.state is not _CLOSED:
            if not self.admits(now):
                return 0
            self.state = State.PROBING
            self.generation += 1
        return self.generation

    def book(self, ticket: int, charge: Charge, now: float, jitter: float) -> bool:
        """Book how the call with this ticket ended; True when the closed circuit ought to open."""
        if ticket != self.generation:
            return False
        if self.state is not _CLOSED:
            self._book_probe(charge, now, jitter)
            return False
        if charge is _SUCCESS:
            self.succeed(now)
            return False
        if charge is Charge.NOTHING:
            return False
        if charge is Charge.FAILURE:
            self._row += 1
        self._calls.add(now)
        self._failed.add(now)
        return self._row >= self._policy.failures or self._under_ratio(now)

    def succeed(self, now: float) -> None:
        """Book a success while the circuit is closed."""
        self._row = 0
        self._calls.add(now)

    def _book_probe(self, charge: Charge, now: float, jitter: float) -> None:
        if charge is _SUCCESS:
            self.close()
        elif charge is Charge.NOTHING:
            self.state = State.OPEN  # its rest is over: the next call is the probe
            self.generation += 1
        else:
            self.open(now, jitter)

    def _under_ratio(self, now: float) -> bool:
        calls = self._calls.count(now)
        succeeded = calls - self._failed.count(now)
        return calls >= self._policy.calls_at_least and succeeded < self._policy.success_ratio * calls
