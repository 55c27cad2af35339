"""Has some calls copied to another service, which learns from real calls and can harm none."""

from collections.abc import Callable

from bus_mesh.balance import mirror
from bus_mesh.gates.gate import Flight, Gate


class Mirror(Gate):
    """Has calls copied; the copy travels by itself, and the call goes on as if there were none.

    `roll()` returns 0 to below 1; `copy(call, to)` sends a copy to the service `to` once the call is on its way.
    """

    def __init__(self, choice: mirror.Mirror, roll: Callable[[], float], copy: Callable[[Flight, str], None]) -> None:
        self._choice = choice
        self._roll = roll
        self._copy = copy

    def __repr__(self) -> str:
        return repr(self._choice)

    def enter(self, call: Flight, now: float) -> None:
        """Let the call on, and have it copied where its lot says so."""
        to = self._choice.choose(self._roll)
        if to is not None:
            self._copy(call, to)
