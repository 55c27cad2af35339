"""How long to wait before the next attempt to reach the bus.

Pure. Full jitter (M. Brooker, "Exponential Backoff and Jitter", AWS 2015): a pause is drawn from zero to a ceiling that
doubles, so a thousand nodes that lost one broker do not come back in step. While an outage is young the ceiling stays
low, so that calls flow again within half a second of the broker's return.
"""

from typing import Final

FIRST: Final = 0.05
"""Ceiling of the first pause, in seconds; each failure doubles it."""
YOUNG: Final = 30.0
"""For so many seconds an outage counts as young …"""
YOUNG_CEILING: Final = 0.25
"""… and pauses are at most so many seconds."""
CEILING: Final = 2.0
"""The longest pause of an outage that is not young, in seconds."""
REFUSED_FIRST: Final = 1.0
"""Ceiling of the first pause after credentials were refused: only a person changes that, so knock gently."""
REFUSED_CEILING: Final = 30.0
"""The longest pause while credentials are refused, in seconds."""

_DOUBLINGS = 16  # enough for every ceiling; keeps the power small whatever the count


def pause(failures: int, outage: float, roll: float) -> float:
    """Seconds to wait after so many failures in a row, `outage` seconds into it; `roll` is drawn from 0 to 1."""
    ceiling = YOUNG_CEILING if outage < YOUNG else CEILING
    return roll * min(ceiling, FIRST * 2.0 ** min(failures, _DOUBLINGS))


def refused_pause(failures: int, roll: float) -> float:
    """Seconds to wait after credentials were refused so many times in a row: at least half of the ceiling."""
    return (0.5 + roll / 2) * min(REFUSED_CEILING, REFUSED_FIRST * 2.0 ** min(failures, _DOUBLINGS))
