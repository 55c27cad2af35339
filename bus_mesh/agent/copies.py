"""Copies of calls, for a service that is to see real calls and can harm none: nobody waits for their answers.

A copy has a path of its own, without another copy, retries, budget or circuit, and what becomes of it is only counted.
"""

from collections.abc import Callable
from typing import Final

from bus_mesh.agent.drive import Driver
from bus_mesh.gates.gate import Flight, Path, Stage

MOST: Final = 256
"""Copies under way at once; beyond that no more are made."""
MIRRORED: Final = "mirrored"
"""What the head of a copy says, so that its target can tell it from a call."""


class Copies:
    """Makes copies; to the driver it is a session that calls. `counted(result)`: `sent`, or `dropped` for too many."""

    app = ""

    def __init__(
        self, driver: Driver, compile_path: Callable[[str, str], Path], counted: Callable[[str], None]
    ) -> None:
        self.flights: dict[int, Flight] = {}
        self.serving: dict[int, Flight] = {}
        self.due: list[tuple[Flight, bytes, str]] = []
        """The calls to copy, with what they carry, and to whom."""
        self._driver = driver
        self._compile = compile_path
        self._counted = counted
        self._paths: dict[tuple[str, str], Path] = {}
        self._made = 0

    def __repr__(self) -> str:
        return f"Copies(under way={len(self.flights)}, made={self._made})"

    def recompile(self) -> None:
        """Take up a newer policy."""
        self._paths = {}

    def want(self, call: Flight, to: str) -> None:
        """Note that a call is to be copied to the service `to`."""
        self.due.append((call, call.payload, to))  # a call that is refused at once lets go of what it carries

    def send(self, now: float) -> None:
        """Send the copies that are due; their calls are on their way by now."""
        due, self.due = self.due, []
        for call, payload, to in due:
            if len(self.flights) >= MOST:
                self._counted("dropped")
            else:
                self._counted("sent")
                self._send(call, payload, to, now)

    def write(self, frame: bytes) -> None:
        """Drop an answer."""

    def _send(self, call: Flight, payload: bytes, to: str, now: float) -> None:
        path = self._paths.get((to, call.method))
        if path is None:
            path = self._paths[to, call.method] = self._compile(to, call.method)
        self._made += 1
        head = {key: said for key, said in (call.head or {}).items() if key not in ("instance", "idempotency_key")}
        head[MIRRORED] = True
        copy = Flight(path, self, self._made, to, call.method, call.caller, head, payload, now, call.deadline)
        copy.key = call.key
        self.flights[self._made] = copy
        self._driver.begin(copy, now)
        if copy.stage is Stage.SENT:
            copy.payload = b""  # it is never sent again, and its service may take its time
