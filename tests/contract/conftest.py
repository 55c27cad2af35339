"""Both buses behind one handle, so that every test of the contract runs on each."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest
import uvloop

from bus_mesh.bus.contract import Bus
from bus_mesh.bus.embedded import EmbeddedServer
from bus_mesh.bus.memory import MemoryBroker
from bus_mesh.bus.nats_bus import NatsBus


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test on both loops: agents run on uvloop where it is installed."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Broker(Protocol):
    """A broker with its faults at hand."""

    async def connect(self) -> Bus: ...
    async def stop(self) -> None: ...
    async def start(self) -> None: ...
    def stall(self) -> None: ...
    def resume(self) -> None: ...


class Connections:
    """The buses of a test, closed at its end."""

    def __init__(self) -> None:
        self.open: list[Bus] = []

    async def close(self) -> None:
        for bus in self.open:
            await bus.close()


class InMemory(Connections):
    def __init__(self) -> None:
        super().__init__()
        self.broker = MemoryBroker(random.Random(7).randrange)

    async def connect(self) -> Bus:
        bus: Bus = self.broker.connect()
        self.open.append(bus)
        return bus

    async def stop(self) -> None:
        self.broker.stop()

    async def start(self) -> None:
        self.broker.start()

    def stall(self) -> None:
        self.broker.stall()

    def resume(self) -> None:
        self.broker.resume()


class OnNats(Connections):
    def __init__(self, server: EmbeddedServer) -> None:
        super().__init__()
        self.server = server

    async def connect(self) -> Bus:
        bus: Bus = NatsBus(self.server.url, name=f"test {len(self.open)}", roll=random.Random(7).random)
        self.open.append(bus)
        await bus.start()
        await bus.ready(5.0)
        return bus

    async def stop(self) -> None:
        os.kill(self.server.pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            while self.server.state.value == "running":
                await asyncio.sleep(0.005)

    async def start(self) -> None:
        await self.server.start()

    def stall(self) -> None:
        os.kill(self.server.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.server.pid, signal.SIGCONT)


@pytest.fixture(params=["memory", pytest.param("nats", marks=pytest.mark.live)])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    if request.param == "memory":
        memory = InMemory()
        yield memory
        await memory.close()
        return
    async with EmbeddedServer(tmp_path, restart=False) as server:
        nats = OnNats(server)
        yield nats
        await nats.close()


@pytest.fixture
async def bus(broker: Broker) -> Bus:
    return await broker.connect()


@pytest.fixture
async def other(broker: Broker) -> Bus:
    return await broker.connect()


Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def until() -> Until:
    """Wait until a condition holds; the test fails after five seconds."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.002)

    return wait
