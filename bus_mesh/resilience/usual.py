"""How long a method usually takes: a moving 99th percentile, learnt call by call.

The estimate moves up by 99 steps for a call above it and down by one step for a call below it, so it settles where one
call in a hundred is above (Robbins and Monro, A Stochastic Approximation Method, 1951). A step is a share of the
estimate, so it follows a change of scale.
"""

from typing import Final

SHORTEST: Final = 0.1
"""Seconds below which no call is overdue."""
_STEP: Final = 0.002
_MOST: Final = 4096


class Usual:
    """What is usual for each (service, method)."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str], float] = {}

    def __repr__(self) -> str:
        return f"Usual(methods={len(self._seconds)})"

    def record(self, service: str, method: str, seconds: float) -> None:
        """Learn how long a successful call took."""
        key = (service, method)
        usual = self._seconds.get(key)
        if usual is None:
            if len(self._seconds) < _MOST:
                self._seconds[key] = max(seconds, 0.001)
        elif seconds > usual:
            self._seconds[key] = min(usual * (1 + 99 * _STEP), seconds)
        else:
            self._seconds[key] = max(usual * (1 - _STEP), 0.001)

    def longest(self, service: str, method: str) -> float:
        """Return after how many seconds a call is overdue."""
        return max(self._seconds.get((service, method), 0.0), SHORTEST)
