"""A mesh of real processes for live tests: a broker, node agents, and the services that they start.

    with World(folder) as world:
        node = world.node("node-a", serve=["ledger"], call_as=["tester"], services={...})
        world.until_up("node-a", {"ledger": 2})

Nothing here waits for a time to pass: each wait is for a condition, and names it when it does not come true.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import nats
import psutil
import pytest
import yaml
from bus_mesh_sdk import Mesh, MeshError
from nats.aio.client import Client

from bus_mesh.bus.embedded import EmbeddedServer
from bus_mesh.cli.home import MeshHome

T = TypeVar("T")
PROGRAMS = Path(__file__).parent / "programs"
BUSMESH = [sys.executable, "-m", "bus_mesh.cli"]
NOTHING: Mapping[str, int] = {}
NOISE = 0.25
"""Seconds that the scheduler of a small machine may add to any of ours when a dozen processes start at once."""


def until(
    fact: Callable[[], object], what: str | Callable[[], str], seconds: float = 20.0, every: float = 0.01
) -> float:
    """Return after how many seconds `fact` came true; fail with `what` when it did not in time."""
    began = time.monotonic()
    while not fact():
        if time.monotonic() - began > seconds:
            pytest.fail(f"after {seconds:g} s still not so: {what if isinstance(what, str) else what()}")
        time.sleep(every)
    return time.monotonic() - began


class Node:
    """One node: its files, and its agent while it runs."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.name = settings["node"]
        self.folder = folder
        self.socket = folder / "agent.sock"
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"Node({self.name}, pid={self.process.pid if self.process else 0})"

    @property
    def log(self) -> str:
        """What the agent said so far."""
        return (self.folder / "agent.log").read_text()

    @property
    def pid(self) -> int:
        """The agent's process."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start the agent; `World.until_up` waits for it."""
        (self.folder / "node.yaml").write_text(yaml.safe_dump(self.settings))
        with (self.folder / "agent.log").open("ab") as log:
            command = [*BUSMESH, "agent", "-c", str(self.folder / "node.yaml")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def family(self) -> list[psutil.Process]:
        """The agent, its keeper and everything that runs below it."""
        agent = psutil.Process(self.pid)
        return [agent, *agent.children(recursive=True)]

    def services(self) -> list[psutil.Process]:
        """The processes of services that run now: the keeper's children."""
        agent = psutil.Process(self.pid)
        return [service for keeper in agent.children() for service in keeper.children()]

    def kill(self) -> list[psutil.Process]:
        """Kill the agent with -9 and return all the processes that it had, itself included."""
        family = self.family()
        os.kill(self.pid, signal.SIGKILL)
        assert self.process is not None
        self.process.wait()
        return family

    def terminate(self, seconds: float = 40.0) -> int:
        """Have the agent drain and end, and return its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(seconds)

    def page(self, path: str) -> str:
        """Return a page of the agent's HTTP port."""
        port = next(json.loads(line)["http"] for line in reversed(self.log.splitlines()) if '"agent up"' in line)
        with urllib.request.urlopen(port + path, timeout=5) as answer:
            text: str = answer.read().decode()
        return text

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in self.page("/metrics").splitlines() if line.partition("{")[0].split(" ")[0] == name]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(one in line for one in wanted))


class World:
    """A broker and some nodes. Its own loop runs on a thread, so a fixture of any scope and any loop may hold it."""

    def __init__(self, folder: Path, policy: str) -> None:
        self.folder = folder
        self.nodes: dict[str, Node] = {}
        self.seen: list[str] = []
        self._policy = policy
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="world")

    def __enter__(self) -> Self:
        self._before = psutil.Process().children(recursive=True)
        self._thread.start()
        self.home = MeshHome(self.folder / "home")
        self.home.init("test")
        (self.folder / "policy").mkdir()
        (self.folder / "policy" / "policy.yaml").write_text(self._policy)
        # Not restarted by itself: when it comes back is part of what is tested.
        self.server = EmbeddedServer(self.folder / "bus", restart=False)
        self.run(self.server.start())
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.server.pid, signal.SIGCONT)
        below = psutil.Process().children(recursive=True)
        started = [node.process for node in self.nodes.values() if node.process is not None]
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.run(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        _, left = psutil.wait_procs([one for one in below if one not in self._before], timeout=5)
        assert not left, f"left running: {left}"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the world's loop, and return what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def node(
        self,
        name: str,
        *,
        serve: Iterable[str] = (),
        call_as: Iterable[str] = (),
        services: dict[str, Any] | None = None,
        start: bool = True,
        **settings: Any,
    ) -> Node:
        """Admit a node and start its agent."""
        folder = self.folder / name
        self.home.admit(name, serve, call_as, folder / "identity")
        written = {
            "mesh": "test",
            "node": name,
            "bus": {"url": self.server.url},
            "http": "127.0.0.1:0",
            "socket": "agent.sock",
            "state": "state",
            "policy_dir": str(self.folder / "policy"),
            "log": {"format": "json"},
            "services": services or {},
            **settings,
        }
        node = self.nodes[name] = Node(folder, written)
        if start:
            node.start()
        return node

    def ask(self, node: str, what: str, app: str = "tester") -> list[dict[str, Any]]:
        """Return the `nodes`, `services` or `instances` of the mesh that a node's agent finds."""

        async def ask() -> list[dict[str, Any]]:
            async with Mesh.connect(app=app, socket=self.nodes[node].socket, patience=10.0) as mesh:
                found: list[dict[str, Any]] = await mesh.call("busmesh", what, {}, timeout=5.0)
                return found

        return self.run(ask())

    def until_up(
        self, node: str, wanted: Mapping[str, int] = NOTHING, app: str = "tester", seconds: float = 30.0
    ) -> float:
        """Wait until a node's agent answers and knows so many instances of each service as up; return the seconds."""

        def there() -> bool:
            process = self.nodes[node].process
            assert process is None or process.poll() is None, f"the agent of {node} ended:\n{self.nodes[node].log}"
            try:
                up = [one["service"] for one in self.ask(node, "instances", app) if one["state"] == "up"]
            except MeshError:
                return False
            self.seen = up
            return all(up.count(service) == count for service, count in wanted.items())

        # Not sooner: each look is a session and a call, and takes the processor from those that are starting.
        return until(there, lambda: f"{node} knows {wanted}, it knows {self.seen}", seconds, every=0.04)

    def kill_broker(self) -> None:
        """Kill the broker with -9, and return once it is gone."""
        gone = psutil.Process(self.server.pid)
        os.kill(self.server.pid, signal.SIGKILL)
        gone.wait(5)
        until(lambda: self.server.state.value == "stopped", "the broker's end is noticed")

    def start_broker(self) -> None:
        """Start the broker again, on the same port."""
        self.run(self.server.start())


@contextlib.asynccontextmanager
async def stranger(world: World) -> AsyncIterator[Client]:
    """A client of the broker that is no part of the mesh, for the length of a block."""
    client = await nats.connect(world.server.url)
    try:
        yield client
    finally:
        await client.close()


def program(name: str, *arguments: object) -> list[str]:
    """Return the command of one of tests/live/programs."""
    return [sys.executable, str(PROGRAMS / name), *map(str, arguments)]
