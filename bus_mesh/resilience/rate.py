"""How many calls a second are taken: a bucket of tokens for each key.

A bucket is kept as one number, the moment at which it will be full again (the theoretical arrival time of the generic
cell rate algorithm, ITU-T I.371), so nothing has to be refilled. A full bucket is the same as none: that is what bounds
the memory without forgetting anybody's debt.
"""

from collections import OrderedDict
from typing import Final

from bus_mesh.policy import traffic

MOST_KEYS: Final = 4096
_TOLERANCE: Final = 1e-6
"""Seconds. Sums of floats miss by less, and who waits exactly as long as told must not be refused again."""


class TokenBuckets:
    """The buckets of one rule. `now` is in monotonic seconds."""

    __slots__ = ("_burst", "_full_at", "_most", "_none_full_before", "_token")

    def __init__(self, policy: traffic.Rate, most_keys: int = MOST_KEYS) -> None:
        self._token = 1 / policy.limit
        self._burst = policy.burst * self._token
        self._most = most_keys
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._none_full_before = 0.0

    def __repr__(self) -> str:
        return f"TokenBuckets(keys={len(self._full_at)})"

    def take(self, key: str, now: float) -> float:
        """Take a token and return 0.0, or take none and return the seconds until there is one."""
        buckets = self._full_at
        full_at = buckets.get(key)
        if full_at is None:
            if len(buckets) >= self._most and not self._drop_full(now):
                return self._none_full_before - now
            buckets[key] = now + self._token
            return 0.0
        full_at = (full_at if full_at > now else now) + self._token
        delay = full_at - now - self._burst
        if delay > _TOLERANCE:
            return delay
        buckets[key] = full_at
        buckets.move_to_end(key)
        return 0.0

    def _drop_full(self, now: float) -> bool:
        """Make place for a key; False when no bucket is full, which is looked for once until one can be."""
        if now < self._none_full_before:
            return False
        # The least recently used come first, and are as a rule full: the search ends at once.
        for key, full_at in self._full_at.items():
            if full_at <= now:
                del self._full_at[key]
                return True
        self._none_full_before = min(self._full_at.values())
        return False
