import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus_mesh.process.notify import Notifier


class Manager:
    """What a service manager hears."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    found = Manager(str(tmp_path / "notify") if request.param == "path" else f"@busmesh-test-{os.getpid()}")
    yield found
    found.close()


async def test_a_life_is_told_in_order(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    notifier.ready("passing calls")
    notifier.reloading()
    notifier.ready("passing calls")
    notifier.stopping("draining")

    first, reloading, again, last = manager.heard()
    assert (first, again) == ("READY=1\nSTATUS=passing calls",) * 2
    kind, _, at = reloading.partition("\nMONOTONIC_USEC=")
    assert kind == "RELOADING=1"
    assert abs(int(at) / 1e6 - time.monotonic()) < 5.0
    assert last == "STOPPING=1\nSTATUS=draining"


async def test_the_loop_beats_twice_as_often_as_asked_and_a_loop_that_stands_still_does_not(manager: Manager) -> None:
    notifier = Notifier(manager.address, watchdog=0.02)
    notifier.ready("")
    async with asyncio.timeout(5):
        beats = 0
        while beats < 3:
            await asyncio.sleep(0.005)
            beats += sum("WATCHDOG=1" in one for one in manager.heard())
    time.sleep(0.1)  # noqa: ASYNC251 - the loop is to stand still

    assert manager.heard() == []
    notifier.close()
    await asyncio.sleep(0.05)
    assert sum("WATCHDOG=1" in one for one in manager.heard()) <= 1


def test_the_environment_is_taken_and_nothing_of_it_is_left_for_children() -> None:
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}

    assert repr(Notifier.take(environ)) == "Notifier('/x', watchdog=2)"
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize("environ", [{}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}])
async def test_without_a_manager_or_a_watchdog_of_ours_nothing_happens(environ: dict[str, str]) -> None:
    notifier = Notifier.take(environ)
    notifier.ready("up")

    assert repr(notifier) == "Notifier('', watchdog=0)"


@pytest.mark.parametrize("address", ["/nowhere/at/all", "/" + "x" * 200])
async def test_a_manager_that_is_not_there_harms_nobody(address: str) -> None:
    Notifier(address).ready("up")
