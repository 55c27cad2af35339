"""A bus, two agents and an echo service as processes of their own, for as long as a benchmark runs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import psutil

from bus_mesh.bus.embedded import EmbeddedServer
from bus_mesh.cli.home import MeshHome

POLICY = """\
kind: Service
name: echo
access: {allow: [{from: [bench], methods: ["*"]}]}
---
kind: Service
name: echo-direct
access: {allow: [{from: [bench], methods: ["*"]}]}
traffic: {balance: round_robin}
---
kind: Service
name: echo-bare
access: {allow: [{from: [bench], methods: ["*"]}]}
traffic: {retry: off, breaker: off, limit: off}
---
kind: Service
name: echo-signed
access: {allow: [{from: [bench], methods: ["*"]}]}
envelope: signed
"""
SERVICES = ("echo", "echo-direct", "echo-bare", "echo-signed")


class Stage:
    """Processes by name; all of them are ended when the stage is left.

    With `control` the agents follow a policy agent, else they read a file.
    """

    def __init__(self, home: Path, *, control: bool = False) -> None:
        self.home = home
        self._control = control
        self.url = ""
        self.processes: dict[str, psutil.Process] = {}
        self._stack = AsyncExitStack()
        self._started: list[subprocess.Popen[str]] = []

    async def __aenter__(self) -> Stage:
        server = await self._stack.enter_async_context(EmbeddedServer(self.home / "bus"))
        self.url = server.url
        self.processes["nats-server"] = psutil.Process(server.pid)
        mesh = MeshHome(self.home)
        mesh.init("bench")
        (self.home / "policy").mkdir()
        (self.home / "policy" / "echo.yaml").write_text(POLICY)
        if self._control:
            self._policy_agent(mesh)
        for node in ("a", "b"):
            self._agent(mesh, f"node-{node}")
        self._role("service", "serve", self.socket("node-b"))
        self._role("plain-service", "plain_serve", self.url)
        return self

    async def __aexit__(self, *error: object) -> None:
        for process in reversed(self._started):
            process.terminate()
        for process in self._started:
            await asyncio.to_thread(process.wait, 20)
        await self._stack.aclose()

    def socket(self, node: str) -> str:
        return str(self.home / node / "agent.sock")

    def client(self, *args: str) -> dict[str, float]:
        """Run a load and return what it measured."""
        command = [sys.executable, "-m", "benchmarks.roles", *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise SystemExit(f"{' '.join(args)} failed:\n{done.stderr}")
        measured: dict[str, float] = json.loads(done.stdout)
        return measured

    def cpu(self) -> dict[str, float]:
        """Return the processor seconds that each process has used."""
        return {name: sum(process.cpu_times()[:2]) for name, process in self.processes.items()}

    def _agent(self, mesh: MeshHome, node: str) -> None:
        folder = self.home / node
        mesh.admit(node, SERVICES, ("bench",), folder / "identity")
        config = folder / "node.yaml"
        config.write_text(
            f"mesh: bench\nnode: {node}\nbus: {{url: {self.url}}}\nhttp: 127.0.0.1:0\nsocket: agent.sock\n"
            f"state: state\nlog: {{level: warning}}\n" + ("" if self._control else "policy_dir: ../policy\n")
        )
        self.processes[f"agent {node}"] = self._busmesh("agent", config)

    def _policy_agent(self, mesh: MeshHome) -> None:
        folder = self.home / "control"
        mesh.admit("control", (), (), folder / "identity")
        config = folder / "policy.yaml"
        config.write_text(
            f"mesh: bench\nnode: control\nbus: {{url: {self.url}}}\nhttp: off\nsigner: {self.home}\n"
            f"initial: ../policy\nlog: {{level: warning}}\n"
        )
        self.processes["policy-agent"] = self._busmesh("policy-agent", config)

    def _busmesh(self, command: str, config: Path) -> psutil.Process:
        environment = {**os.environ, "BUSMESH_HOME": str(self.home)}
        words = [sys.executable, "-m", "bus_mesh.cli", command, "-c", str(config)]
        process = subprocess.Popen(words, env=environment, text=True)
        self._started.append(process)
        return psutil.Process(process.pid)

    def _role(self, name: str, *args: str) -> None:
        self.processes[name] = self.module("benchmarks.roles", *args)

    def module(self, name: str, *args: str) -> psutil.Process:
        """Start `python -m name args`, and return it once it has printed `ready`."""
        process = subprocess.Popen([sys.executable, "-m", name, *args], stdout=subprocess.PIPE, text=True)
        self._started.append(process)
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"{name} {' '.join(args)} did not start")
        return psutil.Process(process.pid)
