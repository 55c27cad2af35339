"""The only import of `time`: every other module is handed its readings.

Three clocks, told apart by name. `monotonic` seconds never step and are what deadlines are kept in. `boottime_us` also
runs while the machine sleeps, so a suspended node's messages are seen to be late. `wall_us` is what people and
certificates use, and may jump.
"""

import time
from functools import partial
from typing import Final

monotonic: Final = time.monotonic
"""Seconds since an arbitrary start; the same clock as `loop.time()`, and the same for all processes of a machine."""

process_cpu: Final = time.process_time
"""Seconds of processor time that this process has used."""

sleep: Final = time.sleep
"""Block this thread for so many seconds (never inside a running loop)."""


def wall() -> float:
    """Seconds since 1970 by the machine's clock."""
    return time.time()


wall_ns: Final = time.time_ns
"""Nanoseconds since 1970 by the machine's clock."""

boottime_ns: Final = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
"""Nanoseconds since the machine started, sleep included (CLOCK_BOOTTIME)."""


def wall_us() -> int:
    """Microseconds since 1970 by the machine's clock."""
    return wall_ns() // 1000


def boottime_us() -> int:
    """Microseconds since the machine started, sleep included (CLOCK_BOOTTIME)."""
    return boottime_ns() // 1000
