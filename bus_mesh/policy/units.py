"""Quantities as people write them: a number and its unit, never a bare number."""

import re
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer

from bus_mesh.policy.problems import refuse

__all__ = [
    "CALL_LONGEST",
    "Duration",
    "Interval",
    "PerSecond",
    "Percent",
    "Timeout",
    "parse_seconds",
    "seconds_within",
    "show_seconds",
]

CALL_LONGEST: Final = 600.0
"""Seconds that any call may take at most, whatever policy says."""

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_WRITTEN: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(ms|s|m|h)")
_PERCENT: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%")
_RATE: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,15})?) ?/ ?(s|m|h)")
_HINT: Final = "write 250ms, 2s, 1m or 1h"


def parse_seconds(written: object) -> float:
    """Return the seconds that `25ms`, `2s`, `1m` or `1h` mean; a bare number is refused: units are not guessed."""
    if isinstance(written, int | float) and not isinstance(written, bool):
        raise refuse(f"{written} has no unit", f"did you mean {written}s?")
    match = _WRITTEN.fullmatch(written) if isinstance(written, str) else None
    if match is None:
        raise refuse("must be a length of time", _HINT)
    # Thousandths are divided, not multiplied: 25ms is then the float that 0.025 is.
    number = float(match[1])
    return number / 1000 if match[2] == "ms" else number * _UNITS[match[2]]


def show_seconds(seconds: float) -> str:
    """Return seconds as a person would write them, in the largest unit that needs no fraction."""
    for unit in ("h", "m", "s"):
        if seconds >= _UNITS[unit] and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:.0f}{unit}"
    return f"{seconds * 1000:.12g}ms"


def seconds_within(low: float, high: float) -> BeforeValidator:
    """Return the validator of a length of time that may be `low` to `high` seconds."""

    def check(written: object) -> float:
        seconds = parse_seconds(written)
        if not low <= seconds <= high:
            raise refuse(f"{show_seconds(seconds)} is not within {show_seconds(low)} and {show_seconds(high)}")
        return seconds

    return BeforeValidator(check)


def _percent(written: object) -> float:
    """Return the hundredths that `70%` or 5 mean."""
    match = _PERCENT.fullmatch(written) if isinstance(written, str) else None
    number = float(match[1]) if match else written
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise refuse("must be a share of a hundred", "write 5 or 70%")
    if not 0.0 <= number <= 100.0:
        raise refuse(f"{number:g} is not within 0 and 100")
    return float(number)


def _per_second(written: object) -> float:
    """Return the number a second that `100/s`, `600/m` or `50/h` means."""
    match = _RATE.fullmatch(written) if isinstance(written, str) else None
    if match is None:
        raise refuse("must be a number in a time", "write 100/s, 600/m or 50/h")
    number = float(match[1]) / _UNITS[match[2]]
    if not 0.0 < number <= 1e6:
        raise refuse(f"{number:g}/s is not over 0 and up to 1000000/s")
    return number


_SHOWN: Final = PlainSerializer(show_seconds, when_used="json")

Timeout = Annotated[float, seconds_within(0.001, CALL_LONGEST), _SHOWN]
"""Seconds a call may take, written with a unit: 1ms to 10m."""

Duration = Annotated[float, seconds_within(0.0, 86400.0), _SHOWN]
"""Seconds, written with a unit: none to 24h."""

Interval = Annotated[float, seconds_within(0.1, 86400.0), _SHOWN]
"""Seconds between two of something, written with a unit: 100ms to 24h."""

Percent = Annotated[float, BeforeValidator(_percent)]
"""Hundredths, 0 to 100."""

PerSecond = Annotated[float, BeforeValidator(_per_second), PlainSerializer(lambda n: f"{n:.12g}/s", when_used="json")]
"""A number a second, written with its time: over 0, at most a million."""
