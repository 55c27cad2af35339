"""When a process that ended is started again.

Pure: no clock, no timer, no process. The caller says how long it ran and carries out the pause.

    STARTING ──started──▶ RUNNING ──exit──▶ PAUSED ──pause over──▶ STARTING
                             ├──fifth early exit in a row──▶ CRASH_LOOP ──30 s──▶ STARTING
                             ├──exit that its policy accepts──▶ ENDED
                             └──told to go──▶ LEAVING ──exit──▶ STOPPED

An exit is early when it comes within 10 s of the start. A crash loop is left by a run that is not early; the pauses
start again at 0.1 s after a run of a minute.
"""

from enum import StrEnum
from typing import Final

from bus_mesh.config import Restart

EARLY_SECONDS: Final = 10.0
CRASH_LOOP_EXITS: Final = 5
CRASH_LOOP_PAUSE: Final = 30.0
"""Seconds between starts while a process keeps dying early."""
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 10.0
WELL_SECONDS: Final = 60.0


class Phase(StrEnum):
    """Where a supervised process stands; see the diagram above."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    CRASH_LOOP = "crash-loop"
    ENDED = "ended"
    LEAVING = "leaving"
    STOPPED = "stopped"


class Lives:
    """One process through all its starts."""

    __slots__ = ("_early", "_pause", "phase", "restart", "starts")

    def __init__(self, restart: Restart = Restart.ALWAYS) -> None:
        self.restart = restart
        self.phase = Phase.STARTING
        self.starts = 0
        self._early = 0
        self._pause = FIRST_PAUSE

    def __repr__(self) -> str:
        return f"Lives({self.phase}, starts={self.starts}, early={self._early})"

    def started(self) -> None:
        """Note that the process runs."""
        self.phase = Phase.RUNNING
        self.starts += 1

    def exited(self, status: int, ran: float, jitter: float) -> float | None:
        """Return the seconds to wait before the next start, or None for no more starts.

        `status` is the exit code (negative: the signal), `ran` the seconds since the start, `jitter` is in [0, 1).
        """
        if self.restart is Restart.NEVER or (self.restart is Restart.ON_FAILURE and status == 0):
            self.phase = Phase.ENDED
            return None
        self._early = self._early + 1 if ran < EARLY_SECONDS else 0
        if self._early >= CRASH_LOOP_EXITS:
            self.phase = Phase.CRASH_LOOP
            return CRASH_LOOP_PAUSE
        self.phase = Phase.PAUSED
        return self._next_pause(ran) * (0.5 + jitter / 2)

    def _next_pause(self, ran: float) -> float:
        if ran >= WELL_SECONDS:
            self._pause = FIRST_PAUSE
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE)
        return pause
