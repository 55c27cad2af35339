"""Receipts of real agents: what a policy that says `envelope: signed` leaves on the disks of both, and proves."""

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from bus_mesh_sdk import Mesh, MeshError
from mesh_world import BUSMESH, World, program, until

from bus_mesh.identity.receipt_file import read_receipts

pytestmark = pytest.mark.timeout(60)
POLICY = """\
kind: Service
name: ledger
access: {allow: [{from: [tester], methods: ["*"]}]}
envelope: signed
methods: {who: {envelope: sealed}}
"""
NODES = ("node-a", "node-b")
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("receipts")
    with World(folder, POLICY) as world:
        ledger = {"command": program("ledger.py", folder / "receipts.record")}
        world.node("node-a", call_as=["tester"])
        world.node("node-b", serve=["ledger"], call_as=["ledger"], services={"ledger": ledger})
        world.until_up("node-a", {"ledger": 1})
        yield world


def folder_of(world: World, node: str) -> Path:
    return world.nodes[node].folder / "state" / "receipts"


def verify(world: World, file: Path, *more: str) -> Done:
    command = [*BUSMESH, "receipt", "verify", str(file), "--root", str(world.home.path / "root.pub"), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


async def each(*commands: Callable[[], Done]) -> list[Done]:
    """Run commands beside each other."""
    return await asyncio.gather(*(asyncio.to_thread(command) for command in commands))


def written(world: World, node: str) -> int:
    file = folder_of(world, node) / "receipts.log"
    return len(read_receipts(file.read_bytes()).rows) if file.exists() else 0


async def test_both_agents_keep_what_proves_a_call_and_a_changed_byte_is_found(world: World, tmp_path: Path) -> None:
    async with Mesh.connect(app="tester", socket=world.nodes["node-a"].socket) as mesh:
        await mesh.call("ledger", "who")
        assert [written(world, node) for node in NODES] == [0, 0], "sealed calls leave nothing"
        assert await mesh.call("ledger", "echo", {"data": b"marker-in-a-receipt"}) == b"marker-in-a-receipt"
        with pytest.raises(MeshError):
            await mesh.call("ledger", "fail", {"text": "not today"})
    for node in NODES:
        until(lambda: written(world, node) == 2, f"two receipts are on the disk of {node}")  # noqa: B023 - called at once

    told = []
    for done in await each(*(partial(verify, world, folder_of(world, node), "-o", "json") for node in NODES)):
        assert done.returncode == 0, done.stdout + done.stderr
        told.append([json.loads(line) for line in done.stdout.splitlines()])
        for one in told[-1]:
            del one["place"]
    assert told[0] == told[1], "the same proof at both ends"
    echo, fail = told[0]
    assert (echo["node"], echo["caller"], echo["service"], echo["method"]) == ("node-a", "tester", "ledger", "echo")
    assert (echo["answered_by"], echo["failed"]) == ("node-b", None)
    assert (fail["method"], fail["failed"]["reason"]) == ("fail", "OUT_OF_LUCK")

    whole = (folder_of(world, "node-a") / "receipts.log").read_bytes()
    copies = []
    for at in (2, 40, whole.index(b"marker-in-a-receipt"), len(whole) - 1):
        copies.append(tmp_path / f"changed-at-{at}.log")
        copies[-1].write_bytes(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :])
    for done in await each(*(partial(verify, world, copy) for copy in copies)):
        assert done.returncode == 1
        assert "NOT VERIFIED" in done.stdout
    assert not any("marker-in-a-receipt" in world.nodes[node].log for node in NODES)


def test_an_agent_that_is_restarted_goes_on_with_its_receipts(world: World) -> None:
    async def call() -> None:
        async with Mesh.connect(app="tester", socket=world.nodes["node-a"].socket) as mesh:
            await mesh.call("ledger", "echo", {"data": b"again"})

    world.run(call())
    until(lambda: written(world, "node-a") == 1, "the receipt is on the disk")
    world.nodes["node-a"].kill()
    world.nodes["node-a"].start()
    world.until_up("node-a", {"ledger": 1})

    world.run(call())
    until(lambda: written(world, "node-a") == 2, "one more receipt")
    assert verify(world, folder_of(world, "node-a")).returncode == 0
    assert "\nbusmesh_receipts_dropped_total 0.0\n" in world.nodes["node-a"].page("/metrics")
