"""Shows calls to who watches them, as they end; only in the path of a service that somebody watches."""

from collections.abc import Callable

from bus_mesh.gates.gate import Flight, Gate
from bus_mesh.protocol.call import Outcome


class Tap(Gate):
    """Shows each call with its outcome. Outermost but for Measure: it sees what apps see."""

    def __init__(self, show: Callable[[Flight, Outcome, float], None]) -> None:
        self._show = show

    def leave(self, call: Flight, outcome: Outcome, now: float) -> None:
        """Show how it ended."""
        self._show(call, outcome, now)
