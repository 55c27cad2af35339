"""The life of one `busmesh up`, from its lock to its last process.

    lock ▶ keeper ▶ bus ▶ policy agent, two agents (each starts its services) ▶ READY … SIGTERM or SIGINT: backwards

Everything is a child of one keeper, so nothing outlives this process, `kill -9` included. An agent that ends is started
again on the same socket and HTTP port.
"""

import asyncio
import fcntl
import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from bus_mesh.agent.restart import Phase
from bus_mesh.agent.supervise import Place, Standing, Supervisor
from bus_mesh.bus.embedded import EmbeddedServer
from bus_mesh.cli import apply, plan, screen, show
from bus_mesh.cli.home import private_folder, replace
from bus_mesh.cli.operator import Operator
from bus_mesh.cli.plan import Node, Wanted
from bus_mesh.cli.problem import Problem
from bus_mesh.cli.ready import Readiness
from bus_mesh.cli.show import Output
from bus_mesh.config import Program
from bus_mesh.process.kept import Keeper

AGENT_GRACE: Final = "35s"
"""What an agent may take to drain and end: its own 30 seconds and some."""
APPLY_SECONDS: Final = 10.0
"""How long both agents may take to apply what `--policy` names."""


class Running(NamedTuple):
    """One agent as `up` sees it."""

    node: Node
    supervisor: Supervisor

    @property
    def pid(self) -> int:
        """Its process, or 0 while there is none."""
        return next(iter(self.supervisor.pids), 0)


class Development:
    """A mesh for development in one home."""

    def __init__(self, home: Path, wanted: Wanted, output: Output) -> None:
        self.home, self.wanted, self.output = home, wanted, output
        self._agents: list[Running] = []
        self._policy: Supervisor | None = None
        self._policy_http = ""
        self._logs = home / "logs"
        self._bus = ""
        self._ready = False

    def __repr__(self) -> str:
        return f"Development({self.home}, {'ready' if self._ready else 'starting'}, agents={len(self._agents)})"

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, stop all that was started, and return the exit code."""
        self._listen_for_signals()
        try:
            async with AsyncExitStack() as stack:
                stack.enter_context(locked(self.home))
                await self._start(stack)
                self._announce()
                await self._stay()
        except asyncio.CancelledError:
            return 0

    async def _stay(self) -> NoReturn:
        """Stay until told to end; on a terminal with a table of what goes on."""
        if self.output is Output.TEXT and sys.stdout.isatty():
            from bus_mesh.cli import live

            await live.watch(self._agents[0].node.socket, plan.CALLER, Operator.read(self.home))
        await asyncio.Event().wait()
        raise AssertionError("an event that nobody sets was set")

    async def _start(self, stack: AsyncExitStack) -> None:
        elsewhere = plan.sockets_elsewhere(self.home)
        if elsewhere is not None:
            show.say(f"the path of {self.home} is too long for sockets: they are in {elsewhere}")
            stack.callback(shutil.rmtree, elsewhere, ignore_errors=True)
        *ports, port = [stack.enter_context(plan.reserve_port()).getsockname()[1] for _ in (*plan.NODES, plan.CONTROL)]
        nodes = plan.prepare(self.home, self.wanted, elsewhere, ports)
        keeper = await Keeper.start()
        stack.push_async_callback(keeper.close)
        self._bus = await self._start_bus(stack, keeper)
        stack.callback((self.home / "up.json").unlink, missing_ok=True)
        # Both at once, not one after the other: each waits up to its grace for calls that run.
        stack.push_async_callback(self._stop_agents)
        self._policy_http = f"http://127.0.0.1:{port}"
        config = plan.write_policy_settings(self.home, self._bus, port)
        self._policy = self._supervised(
            keeper, "policy-agent", config, Place(nodes[0].socket, plan.CONTROL, self._logs)
        )
        for node in nodes:
            plan.write_settings(self.home, node, self.wanted, self._bus)
            place = Place(node.socket, node.name, self._logs)
            self._agents.append(Running(node, self._supervised(keeper, "agent", node.config, place)))
        await Readiness(nodes, plan.instances(self.wanted), self._standings).wait()
        await self._apply(nodes[0])
        self._ready = True

    async def _apply(self, node: Node) -> None:
        """Apply what `--policy` names; where the store is new, it is in it already."""
        if not self.wanted.policy:
            return
        from bus_mesh_sdk import Mesh

        texts = {name: text for path in self.wanted.policy for name, text in apply.read(path).items()}
        async with Mesh.connect(app=plan.CALLER, socket=node.socket) as mesh:
            said = await apply.apply(mesh, Operator.read(self.home), texts)
            await apply.wait(mesh, said["number"], APPLY_SECONDS, plan.NODES)

    async def _start_bus(self, stack: AsyncExitStack, keeper: Keeper) -> str:
        configuration = plan.write_server(self.home)
        server = EmbeddedServer(configuration.parent, keeper=keeper, configuration=configuration)
        await stack.enter_async_context(server)
        plan.note_address(self.home, server.url)
        return server.url

    def _supervised(self, keeper: Keeper, command: str, config: Path, place: Place) -> Supervisor:
        """Start one of our own processes, and keep it."""
        supervisor = Supervisor(keeper, place, jitter=random.random, changed=self._changed)
        words = [sys.executable, "-m", "bus_mesh.cli", command, "-c", str(config)]
        environment = {"BUSMESH_HOME": str(self.home)}
        program = Program.model_validate({"command": words, "grace": AGENT_GRACE, "env": environment})
        supervisor.start({place.node: program})
        return supervisor

    async def _stop_agents(self) -> None:
        if self._ready:
            show.say("stopping: the agents finish the calls that run")
        await asyncio.gather(*(running.supervisor.stop() for running in reversed(self._agents)))
        if self._policy is not None:
            await self._policy.stop()

    def _standings(self) -> list[Standing]:
        supervisors = [running.supervisor for running in self._agents] + ([self._policy] if self._policy else [])
        return [standing for supervisor in supervisors for standing in supervisor.standings]

    def _changed(self, standing: Standing) -> None:
        if standing.phase is Phase.RUNNING:
            if self._ready:
                show.say(f"{standing.service} runs again as process {standing.pid}")
                self._write()
        elif self._ready:
            show.say(
                f"{standing.service} ended ({screen.ended(standing)}): it is started again, see {self.home / 'logs'}"
            )

    def _listen_for_signals(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, task)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _stop(self, task: asyncio.Task[Any]) -> None:
        # A second signal does not wait for calls that run: the keeper kills what is left.
        if task.cancelling():
            os._exit(130)
        task.cancel()

    def _reload(self) -> None:
        for running in self._agents:
            if running.pid:
                os.kill(running.pid, signal.SIGHUP)
        show.say("told the agents to read their settings again")

    def as_dict(self) -> dict[str, Any]:
        """Return what `-o json` prints and `up.json` holds."""
        return {
            "ready": self._ready,
            "bus": self._bus,
            "home": str(self.home),
            "pid": os.getpid(),
            "policy": {"http": self._policy_http, "pid": next(iter(self._policy.pids), 0) if self._policy else 0},
            "nodes": {
                node.name: {"socket": str(node.socket), "http": f"http://127.0.0.1:{node.http}", "pid": running.pid}
                for node, running in ((running.node, running) for running in self._agents)
            },
        }

    def _write(self) -> None:
        import json

        replace(self.home / "up.json", json.dumps(self.as_dict()).encode() + b"\n")

    def _announce(self) -> None:
        self._write()
        if self.output is Output.JSON:
            show.json_line(self.as_dict())
            return
        for text in screen.first(self.as_dict(), self.wanted):
            show.line(text)


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the home for this process alone, or raise Problem naming who has it."""
    private_folder(home)
    with (home / "up.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Problem(
                f"another `busmesh up` runs in {home} (process {file.read().strip() or 'unknown'})",
                "a home belongs to one of them at a time",
                "stop it, or give this one a home of its own: busmesh up --home ANOTHER/DIRECTORY",
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
