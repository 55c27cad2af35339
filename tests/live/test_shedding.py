"""An instance that is unwell or stuck is not chosen by the broker until it is well: real processes, a real broker."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bus_mesh_sdk import Mesh
from mesh_world import NOISE, World, program, stranger, until

pytestmark = [pytest.mark.timeout(90), pytest.mark.alone]
POLICY = """\
kind: Service
name: moody
access: {allow: [{from: [tester], methods: ["*"]}]}
health: {interval: 200ms, timeout: 200ms, failures: 2}
"""
SUBJECT = "mesh.test.rpc.moody.who"
PLAIN = 60


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("shedding")
    with World(folder, POLICY) as world:
        for name in ("node-a", "node-b"):
            (folder / f"{name}.mood").touch()
            service = {"command": program("unwell.py", folder / f"{name}.mood")}
            world.node(name, serve=["moody"], call_as=["tester"], services={"moody": service})
        yield world


@pytest.fixture(autouse=True)
def stopped_processes() -> None:
    """The processes outlive each test; the world sees to their end."""


@pytest.fixture
def calm(world: World) -> World:
    for name in world.nodes:
        world.until_up(name, {"moody": 2})
    return world


def state(world: World, node: str) -> str:
    return next(str(row["state"]) for row in world.ask("node-a", "instances") if row["node"] == node)


def plain_seen(world: World, node: str) -> float:
    """How many messages of those who know nothing of the mesh reached a node."""
    return world.nodes[node].metric("busmesh_envelope_failures_total", reason="NOT_AN_ENVELOPE")


def spread(world: World) -> tuple[float, float]:
    """Publish to the queue group as any NATS client does; return how many reached node-a and node-b."""

    async def publish() -> None:
        async with stranger(world) as client:
            for _ in range(PLAIN):
                await client.publish(SUBJECT, b"hello")
            await client.flush()

    before = plain_seen(world, "node-a"), plain_seen(world, "node-b")
    world.run(publish())

    def got() -> tuple[float, float]:
        return plain_seen(world, "node-a") - before[0], plain_seen(world, "node-b") - before[1]

    until(lambda: sum(got()) == PLAIN, lambda: f"all {PLAIN} arrive, of which came {got()}")
    return got()


async def answers(world: World, count: int) -> set[str]:
    """Call from node-a and return the nodes of those who answered; none of the calls may fail."""
    async with Mesh.connect(app="tester", socket=world.nodes["node-a"].socket) as mesh:
        found = await asyncio.gather(*(mesh.call("moody", "who", timeout=5.0) for _ in range(count)))
    return {instance.rpartition("-")[0] for instance in found}


async def is_out(world: World) -> None:
    """Assert that node-b's instance gets nothing by the group any more, and no call fails by it."""
    await asyncio.to_thread(until, lambda: state(world, "node-b") == "unwell", "node-b is unwell")
    await asyncio.to_thread(until, lambda: "an instance leaves its group" in world.nodes["node-b"].log, "it is logged")
    await asyncio.sleep(0.25 + NOISE)  # what it had announced has settled, and its subscription is drained
    assert await asyncio.to_thread(spread, world) == (PLAIN, 0.0)
    assert await answers(world, 50) == {"node-a"}
    assert world.nodes["node-b"].metric("busmesh_sheds_total", service="moody", why="unwell") >= 1


async def test_an_instance_that_fails_its_check_gets_nothing_by_the_group_and_returns_when_it_is_well(
    calm: World,
) -> None:
    mood: Path = calm.folder / "node-b.mood"
    before = await asyncio.to_thread(spread, calm)
    assert min(before) > 0, "the broker chooses both"
    mood.write_text("a bad day")
    try:
        await is_out(calm)
        assert "a bad day" in calm.nodes["node-b"].log
    finally:
        mood.write_text("")
    well = time.monotonic()
    await asyncio.to_thread(until, lambda: state(calm, "node-b") == "up", "node-b is up again", 10.0, 0.05)
    took = time.monotonic() - well

    assert min(await asyncio.to_thread(spread, calm)) > 0
    print(f"back {took:.2f} s after it was well, up to 0.2 s of them until it was asked, and 0.2 s to look")
    assert took < 2.0 + NOISE


async def test_a_process_that_is_stuck_is_unwell_and_no_call_waits_for_it(calm: World) -> None:
    (process,) = await asyncio.to_thread(calm.nodes["node-b"].services)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        await is_out(calm)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    await asyncio.to_thread(until, lambda: state(calm, "node-b") == "up", "node-b is up again", 10.0)

    assert min(await asyncio.to_thread(spread, calm)) > 0
