"""Real agents on a broker that `busmesh nats config` wrote: calls go through, and the server has nothing to refuse."""

import asyncio
import os
import random
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from broker_world import Broker, broker, until
from bus_mesh_sdk import Mesh, MeshError, NoInstances
from mesh_world import BUSMESH, Node, program

from bus_mesh.bus.contract import BusState
from bus_mesh.bus.nats_bus import NatsBus
from bus_mesh.cli.mesh import add
from bus_mesh.control import permissions
from bus_mesh.process.kept import Keeper

POLICY = """\
kind: Service
name: ledger
access: {allow: [{from: [tester], methods: ["*"]}]}
traffic: {balance: BALANCE}
---
kind: Service
name: nobody
access: {allow: [{from: [tester], methods: ["*"]}]}
"""


@pytest.fixture
async def bus(keeper: Keeper, tmp_path: Path) -> AsyncIterator[Broker]:
    async with broker(keeper, tmp_path) as bus:
        yield bus


def admitted(bus: Broker, name: str, serve: str = "", call_as: str = "", **settings: object) -> Node:
    """Admit a node as a person would, and change of its node.yaml what a test needs."""
    add(name, serve=serve, call_as=call_as, home=bus.home.path)
    folder = bus.home.path / name
    written = yaml.safe_load((folder / "node.yaml").read_text())
    written["bus"]["url"] = bus.url  # the port was chosen by the server
    return Node(folder, {**written, "http": "127.0.0.1:0", "log": {"format": "json"}, **settings})


async def test_publishing_while_the_broker_is_killed_raises_nothing_and_all_knock_again(bus: Broker) -> None:
    access = bus.access(bus.user(permissions.node("demo", "node-a")))
    clients = [NatsBus(bus.url, name=f"c{number}", roll=random.random, access=access) for number in range(6)]
    for client in clients:
        await client.start()
        await client.ready(10.0)
    killed = False
    async with asyncio.timeout(20):
        while any(client.state is BusState.CONNECTED for client in clients):
            for client in clients:
                client.publish("mesh.demo.ctl.ack.node-a", b"x" * random.choice((10, 2_000, 100_000)))
            await asyncio.sleep(0.001)
            if not killed:
                killed = True
                assert bus.child is not None
                bus.child.signal(signal.SIGKILL)
    await asyncio.sleep(0.5)

    assert not any(client.publish("mesh.demo.ctl.ack.node-a", b"x") for client in clients)
    assert [client._keeping.done() for client in clients if client._keeping is not None] == [False] * len(clients)
    for client in clients:
        await client.close()


async def test_a_bus_that_is_closed_while_it_dials_is_closed_at_once(bus: Broker) -> None:
    access = bus.access(bus.user(permissions.node("demo", "node-a")))
    for moment in range(12):
        dialling = NatsBus(bus.url, name="test", roll=random.random, access=access)
        await dialling.start()
        await asyncio.sleep(moment * 0.0007)  # in each part of the handshake at some time

        async with asyncio.timeout(3.0):
            await dialling.close()


async def ended(node: Node) -> int:
    """Have an agent end, and return its exit code."""
    return await asyncio.to_thread(node.terminate)


@pytest.mark.parametrize("balance", ["queue", "round_robin"])
async def test_an_agent_calls_and_serves_without_one_violation(bus: Broker, tmp_path: Path, balance: str) -> None:
    ledger = {"command": program("ledger.py", tmp_path / "record"), "replicas": 2}
    nodes = [
        admitted(bus, "node-a", call_as="tester"),
        admitted(bus, "node-b", serve="ledger", services={"ledger": ledger}),
    ]
    for node in nodes:
        (node.folder / "policy" / "policy.yaml").write_text(POLICY.replace("BALANCE", balance))
        node.start()
    try:
        async with Mesh.connect(app="tester", socket=nodes[0].socket, patience=20.0) as mesh:
            await until_up(mesh, "ledger", 2)
            told = [await mesh.call("ledger", "echo", {"data": b"x"}) for _ in range(20)]
            slow = {"id": "slow", "until": time.monotonic() + 5, "work": 0.3}
            await mesh.call("ledger", "read", slow, timeout=5.0)  # long enough to be probed
            seen = {one["node"] for one in await mesh.call("busmesh", "nodes", {})}
            with pytest.raises(NoInstances):
                await mesh.call("nobody", "get", {}, timeout=1.0)
            codes = [await ended(nodes[1])]
    finally:
        codes = [await ended(node) for node in nodes if node.process is not None and node.process.poll() is None]

    assert len(told) == 20
    assert seen == {"node-a", "node-b"}
    assert codes == [0]
    for said in (nodes[0].log, nodes[1].log, (bus.folder / "log").read_text()):
        assert "iolation" not in said


async def test_policy_is_applied_over_it_and_acknowledged_without_one_violation(bus: Broker) -> None:
    policy_agent, node = control(bus), admitted(bus, "node-a", call_as="cli")
    del node.settings["policy_dir"]
    node.start()
    try:
        await until(lambda: node.process is not None and '"agent up"' in node.log, 20.0)
        environment = {**os.environ, "BUSMESH_SOCKET": str(node.socket), "BUSMESH_HOME": str(bus.home.path)}
        (bus.folder / "policy.yaml").write_text(POLICY.replace("BALANCE", "queue"))
        command = [*BUSMESH, "policy", "apply", "-f", str(bus.folder / "policy.yaml"), "--wait"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, env=environment)
    finally:
        codes = [await ended(node), await asyncio.to_thread(stopped, policy_agent)]

    assert done.returncode == 0, done.stderr
    assert codes == [0, 0]
    for said in (node.log, (bus.home.path / "control" / "log").read_text(), (bus.folder / "log").read_text()):
        assert "iolation" not in said


def control(bus: Broker) -> subprocess.Popen[bytes]:
    """Start a policy agent as docs/operations.md says."""
    add("control", policy_agent=True, home=bus.home.path)
    folder = bus.home.path / "control"
    settings = {
        "mesh": "demo",
        "node": "control",
        "bus": {"url": bus.url, "credentials": "identity/bus.creds", "tls": {"ca": "identity/ca.pem"}},
        "signer": str(bus.home.path),
        "http": "off",
        "log": {"format": "json"},
    }
    (folder / "policy.yaml").write_text(yaml.safe_dump(settings))
    with (folder / "log").open("ab") as log:
        command = [*BUSMESH, "policy-agent", "-c", str(folder / "policy.yaml")]
        return subprocess.Popen(command, stdout=log, stderr=log)


def stopped(process: subprocess.Popen[bytes]) -> int:
    """Have a process end, and return its exit code."""
    process.terminate()
    return process.wait(20)


async def test_an_agent_that_is_revoked_says_so_and_is_not_ready(bus: Broker) -> None:
    node = admitted(bus, "node-a", call_as="tester")
    node.start()
    try:
        await until(lambda: node.process is not None and '"agent up"' in node.log, 20.0)
        await until(lambda: node.metric("busmesh_bus_connected") == 1, 10.0)
        token = bus.side.revoke(bus.side.users("node-a"))

        await bus.push(token)

        await until(lambda: node.metric("busmesh_bus_connected") == 0, 2.0)
        await until(lambda: "rejected" in node.log, 5.0)
    finally:
        assert await ended(node) == 0


async def test_an_agent_without_its_credentials_says_what_to_do(bus: Broker) -> None:
    node = admitted(bus, "node-a")
    (node.folder / "identity" / "bus.creds").unlink()
    node.start()
    assert node.process is not None

    code = await asyncio.to_thread(node.process.wait, 20)

    assert code == 2
    assert "bus.creds: cannot be read: No such file or directory" in node.log
    assert "busmesh node add" in node.log


async def until_up(mesh: Mesh, service: str, count: int) -> None:
    """Wait until an agent knows so many instances as up."""
    async with asyncio.timeout(30):
        while True:
            try:
                known = await mesh.call("busmesh", "instances", {}, timeout=5.0)
            except MeshError:
                known = []
            if [one["state"] for one in known if one["service"] == service].count("up") == count:
                return
            await asyncio.sleep(0.05)
