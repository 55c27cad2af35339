"""A real broker for live tests, and the proof that they leave nothing running."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from bus_mesh.bus.embedded import EmbeddedServer
from bus_mesh.process.kept import Keeper

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture
async def keeper() -> AsyncIterator[Keeper]:
    """Holds the children of a test."""
    keeper = await Keeper.start()
    yield keeper
    await keeper.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A nats-server on a free port of loopback."""
    async with EmbeddedServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture(autouse=True)
def stopped_processes() -> Iterator[None]:
    """Fail a test that leaves a process behind."""
    before = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
    yield
    after = psutil.Process(os.getpid()).children(recursive=True)
    left = [child for child in after if child.pid not in before]
    _, alive = psutil.wait_procs(left, timeout=5)
    assert not alive, f"left running: {alive}"


@pytest.fixture(autouse=True)
async def finished_tasks() -> AsyncIterator[None]:
    """Fail a test that leaves a task behind."""
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
    _, running = await asyncio.wait(left, timeout=5) if left else (left, left)
    assert not running, f"left running: {running}"
