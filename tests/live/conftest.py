"""A real broker for live tests, and the proof that they leave nothing running."""

import asyncio
import contextlib
import os
import subprocess
import sys
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


@pytest.fixture(scope="session", autouse=True)
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the hundreds of processes started here run as a user's do.

    Where the environment forbids Python to write bytecode, each of them would compile all of bus_mesh again, a fourth
    of its start. So it is written once, to a folder of this run: nothing appears beside the sources. Where it wants
    output unbuffered, `print` writes a line and its end apart, and the lines of processes that share a pipe run
    together: one in three, with three that print at once.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONUNBUFFERED", raising=False)
        if os.environ.get("PYTHONDONTWRITEBYTECODE"):
            patch.delenv("PYTHONDONTWRITEBYTECODE")
            patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
            most = "import bus_mesh.agent.run, bus_mesh.control.run, bus_mesh.cli.main, bus_mesh.cli.development"
            subprocess.run([sys.executable, "-c", most], check=True, timeout=60)
        yield


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


@pytest.fixture(scope="session", autouse=True)
def all_processes_stopped(interpreter: None) -> Iterator[None]:
    """Fail the run when anything is left of what was started in it."""
    before = psutil.Process().children(recursive=True)
    yield
    none_left([child for child in psutil.Process().children(recursive=True) if child not in before])


@pytest.fixture(autouse=True)
def stopped_processes() -> Iterator[None]:
    """Fail a test that leaves a process behind.

    What descends from a process that was there before is not the test's: a mesh that tests share has started it, or
    started it again, and it ends with that.
    """
    before = psutil.Process().children(recursive=True)
    yield
    theirs = {child for one in before if one.is_running() for child in descendants(one)}
    after = psutil.Process().children(recursive=True)
    none_left([child for child in after if child not in before and child not in theirs])


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """All that descends from a process, which may have ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def none_left(processes: list[psutil.Process]) -> None:
    """Fail unless these end by themselves in a moment."""
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not alive, f"left running: {alive}"


@pytest.fixture(autouse=True)
async def finished_tasks() -> AsyncIterator[None]:
    """Fail a test that leaves a task behind."""
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
    _, running = await asyncio.wait(left, timeout=5) if left else (left, left)
    assert not running, f"left running: {running}"
