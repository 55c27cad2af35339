"""How many retries a calling agent may make: a share of its calls, so that retries cannot feed an outage.

Tries per call alone multiply the load of a service that fails by that number; a budget over all calls holds it to a
share (Finagle's RetryBudget, Linkerd's retry budgets). The floor lets callers of few calls retry at all.
"""

from bus_mesh.policy import traffic
from bus_mesh.resilience.window import Window


class RetryBudget:
    """The retries of one agent's calls to one service, within a sliding window."""

    __slots__ = ("_calls", "_floor", "_ratio", "_retries")

    def __init__(self, policy: traffic.Budget) -> None:
        self._ratio = policy.ratio
        self._floor = policy.floor_per_second * policy.window
        self._calls = Window(policy.window)
        self._retries = Window(policy.window)

    def __repr__(self) -> str:
        return f"RetryBudget(calls={self._calls}, retries={self._retries})"

    def note_call(self, now: float) -> None:
        """Count a call; its retries are not calls."""
        self._calls.add(now)

    def take(self, now: float) -> bool:
        """Take a retry out of the budget, or say that there is none left."""
        allowed = self._floor + self._ratio * self._calls.count(now)
        if self._retries.count(now) + 1 > allowed:
            return False
        self._retries.add(now)
        return True
