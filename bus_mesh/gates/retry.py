"""Has a failed try made again: what is idempotent, or provably did not run, and only elsewhere.

How often and after how long is policy's; whether it may be is `resilience/retryable.py`'s. Retries, and not the moves
from instances that are leaving, come out of a budget for all calls of this agent to the service.
"""

from collections.abc import Callable

from bus_mesh.gates.gate import Again, Flight, Gate
from bus_mesh.policy import traffic
from bus_mesh.protocol.call import Outcome
from bus_mesh.resilience.backoff import pause
from bus_mesh.resilience.budget import RetryBudget
from bus_mesh.resilience.retryable import Next, after

_STANDS = Next.STANDS
_MOVES = Next.MOVES


class Retry(Gate):
    """Has a call tried again where that is right.

    `jitter()` draws from 0.0 to 1.0; `retried(result)` counts a retry that was `spent`, or `refused` by the budget.
    """

    failures_only = True

    def __init__(
        self,
        policy: traffic.Retry,
        budget: RetryBudget,
        jitter: Callable[[], float],
        retried: Callable[[str], None] = lambda result: None,
    ) -> None:
        self._policy = policy
        self._budget = budget
        self._jitter = jitter
        self._retried = retried

    def enter(self, call: Flight, now: float) -> None:
        """Count the call: the budget is a share of all of them."""
        self._budget.note_call(now)

    def leave(self, call: Flight, outcome: Outcome, now: float) -> Again | None:
        """Ask for another try, or let the outcome stand."""
        tries, idempotent = self._policy.tries, call.idempotent or call.once
        follows = after(outcome, idempotent=idempotent, attempt=call.attempt, moves=call.moves, tries=tries)
        if follows is _STANDS:
            return None
        if outcome.instance is not None:
            call.avoid = (*call.avoid, outcome.instance)
        if follows is _MOVES:
            call.moves += 1
            return Again()
        wait = pause(self._policy, call.attempt - call.moves, self._jitter(), now, call.deadline)
        if wait is None:
            return None
        if not self._budget.take(now):
            self._retried("refused")
            return None
        self._retried("spent")
        return Again(wait)
