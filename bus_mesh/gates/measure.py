"""Counts every call, refusals included, and how long it took; outermost, so nothing escapes it."""

from collections.abc import Callable
from typing import Final, Protocol

from bus_mesh.gates.gate import Flight, Gate
from bus_mesh.protocol.call import Outcome


class Meter(Protocol):
    """What is counted of one (service, method, caller)."""

    inflight: int
    retries: int

    def record(self, code: int, seconds: float) -> None:
        """Note a call that ended with a gRPC code."""


FIRST: Final = 1
"""The number of a call's first try."""


class Measure(Gate):
    """Counts the calls of one method by caller. `meter(caller)` returns the same meter for the same caller."""

    def __init__(self, meter: Callable[[str], Meter], side: str) -> None:
        self.side = side
        self._meter = meter
        self._meters: dict[str, Meter] = {}

    def enter(self, call: Flight, now: float) -> None:
        """Count the call as in flight."""
        meter = self._meters.get(call.caller)
        if meter is None:
            meter = self._meters[call.caller] = self._meter(call.caller)
        meter.inflight += 1
        call.meter = meter

    def leave(self, call: Flight, outcome: Outcome, now: float) -> None:
        """Book how it ended."""
        meter: Meter = call.meter
        meter.inflight -= 1
        if call.attempt > FIRST:
            meter.retries += call.attempt - FIRST
        meter.record(outcome.code, now - call.started)
