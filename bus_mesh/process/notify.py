"""What a service manager is told: ready, reloading, stopping, and that the loop still turns (sd_notify(3)).

Where nobody listens (`$NOTIFY_SOCKET` is not set) nothing happens. The variables are taken out of the environment, so
that no child speaks for its parent.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import MutableMapping
from typing import Self

from bus_mesh import clock

__all__ = ["Notifier"]

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Tells the service manager at `address`; "" tells nobody. With `watchdog` seconds, `ready` begins to beat."""

    def __init__(self, address: str, watchdog: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog
        self._beat: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"Notifier({self._address!r}, watchdog={self._watchdog:g})"

    @classmethod
    def take(cls, environ: MutableMapping[str, str] = os.environ) -> Self:
        """Return who is to be told by an environment, and take that out of it."""
        address, watchdog, pid = (environ.pop(name, "") for name in _VARIABLES)
        watched = watchdog.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, int(watchdog) / 1e6 if watched else 0.0)

    def ready(self, status: str) -> None:
        """Say that the service is up, and beat from now on, twice as often as is asked for."""
        self._tell("READY=1", f"STATUS={status}")
        if self._watchdog and self._beat is None:
            self._turn()

    def reloading(self) -> None:
        """Say that settings are read anew; `ready` follows."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={int(clock.monotonic() * 1e6)}")

    def stopping(self, status: str) -> None:
        """Say that the service is on its way out. It beats until `close`: draining may take its time."""
        self._tell("STOPPING=1", f"STATUS={status}")

    def close(self) -> None:
        """Beat no more."""
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None

    def _turn(self) -> None:
        self._tell("WATCHDOG=1")
        self._beat = asyncio.get_running_loop().call_later(self._watchdog / 2, self._turn)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # A manager that does not listen is its own affair: a full or missing socket must not harm the service.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as to,
        ):
            to.connect(self._address)
            to.send("\n".join(lines).encode())
