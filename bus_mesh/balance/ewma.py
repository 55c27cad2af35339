"""How long an instance takes to answer: a moving average that believes bad news at once and good news slowly.

A plain average needs many calls to notice that an instance got slow, and they are all lost to it. This one jumps up to
whatever is above it and decays towards what is below it, so one slow answer is enough to steer calls away (peak EWMA:
Finagle, 2015; Linkerd). While nothing is heard it decays towards 0, so an instance that was once slow is tried again.
"""

from math import exp, log
from typing import Final

DECAY_SECONDS: Final = 10.0
"""After so long, a share of 1/e of a former average is left."""
_SHORTEST: Final = 1e-6  # seconds; what is faster does not matter, and its logarithm exists


class PeakEwma:
    """The latency of one instance: `seconds` is the average as of the last answer, 0.0 before the first one.

    `level` is ln(average at time 0, had it decayed from there): the average at `now` is exp(level - now / 10 s). Where
    two are compared at one moment `now` cancels out, so a choice needs no clock and no exponential.
    """

    __slots__ = ("_at", "level", "seconds")

    def __init__(self) -> None:
        self._at = 0.0
        self.seconds = 0.0
        self.level: float | None = None
        """None before the first answer."""

    def __repr__(self) -> str:
        return f"PeakEwma({self.seconds * 1000:.3f} ms at {self._at:.3f})"

    def observe(self, seconds: float, now: float) -> None:
        """Take in how long an answer took that came at `now` (monotonic seconds)."""
        seconds = max(seconds, _SHORTEST)
        if seconds < self.seconds:
            seconds += (self.seconds - seconds) * exp((self._at - now) / DECAY_SECONDS)
        self.seconds, self._at = seconds, now
        self.level = log(seconds) + now / DECAY_SECONDS
