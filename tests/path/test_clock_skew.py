"""Two agents whose clocks differ: a minute is tolerated, and an hour runs nothing and is said."""

import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from bus_mesh_sdk import Mesh, MeshError, Ran, Service, rpc

from bus_mesh.agent.apps import Apps
from bus_mesh.agent.local import claim, identify, serve
from bus_mesh.agent.node import Node, Setting, World
from bus_mesh.agent.run import read_clocks
from bus_mesh.bus.memory import MemoryBroker
from bus_mesh.cli.home import MeshHome
from bus_mesh.identity.keyring import Now, own_identity
from bus_mesh.identity.keys import NodeKey
from bus_mesh.policy.bundle import PolicySet
from bus_mesh.policy.load import parse
from bus_mesh.telemetry.metrics import Metrics

POLICY = "kind: Service\nname: ledger\naccess: {allow: [{from: [tester], methods: ['*']}]}\n"
MINUTE_US, HOUR_US = 60_000_000, 3_600_000_000


class Ledger(Service, name="ledger"):
    @rpc
    async def write(self) -> str:
        raise NotImplementedError


class Counting(Ledger):
    def __init__(self) -> None:
        self.runs = 0

    async def write(self) -> str:
        self.runs += 1
        return "written"


def skewed(by_us: int) -> Callable[[], Now]:
    """Return the clocks of a machine whose wall clock is wrong by so much, and whose others are right."""

    def read() -> Now:
        now = read_clocks()
        return now._replace(wall_us=now.wall_us + by_us)

    return read


@asynccontextmanager
async def agent(name: str, home: MeshHome, broker: MemoryBroker, folder: Path, by_us: int) -> AsyncIterator[Node]:
    identity = folder / name
    home.admit(name, ["ledger"], ["tester", "ledger"], identity)
    read = [(identity / file).read_bytes() for file in ("node.key", "node.chain", "root.pub")]
    own = own_identity(NodeKey.from_bytes(read[0]), read[1], "test", read[2], read_clocks().wall_us)
    bus = broker.connect()
    await bus.start()
    apps = Apps({}, frozenset(("tester", "ledger")), os.getuid(), int, int, lambda token, pid: None)
    rng = random.Random(name)
    world = World(skewed(by_us), os.urandom, rng.randrange, rng.random)
    node = Node(own, bus, apps, world, Setting({}, 3600.0, None, os.getuid()), Metrics())
    node.enforce(PolicySet.of(parse(POLICY, "policy.yaml")))
    await node.start()
    server = await serve(claim(identity / "agent.sock"), lambda: node.session(identify))
    yield node
    server.close()
    await node.stop()
    await bus.close()


@asynccontextmanager
async def pair(folder: Path, by_us: int) -> AsyncIterator[tuple[Mesh, Counting, Node, Node]]:
    """A caller's and a service's node, the latter's clock wrong by so much."""
    home, broker = MeshHome(folder / "home"), MemoryBroker()
    home.init("test")
    async with AsyncExitStack() as stack:
        right = await stack.enter_async_context(agent("right", home, broker, folder, 0))
        wrong = await stack.enter_async_context(agent("wrong", home, broker, folder, by_us))
        there = await stack.enter_async_context(Mesh.connect(app="ledger", socket=folder / "wrong" / "agent.sock"))
        here = await stack.enter_async_context(Mesh.connect(app="tester", socket=folder / "right" / "agent.sock"))
        counting = Counting()
        await there.serve(counting)
        yield here, counting, right, wrong


@pytest.mark.parametrize("by_us", [MINUTE_US // 2, -MINUTE_US // 2], ids=["ahead", "behind"])
async def test_calls_pass_between_clocks_that_differ_by_half_a_minute(tmp_path: Path, by_us: int) -> None:
    async with pair(tmp_path, by_us) as (mesh, counting, _, _):
        assert await mesh.call("ledger", "write", timeout=2.0) == "written"
        assert counting.runs == 1


@pytest.mark.parametrize("by_us", [HOUR_US, -HOUR_US], ids=["ahead", "behind"])
async def test_nothing_runs_between_clocks_that_differ_by_an_hour_and_both_say_so(tmp_path: Path, by_us: int) -> None:
    async with pair(tmp_path, by_us) as (mesh, counting, right, wrong):
        with pytest.raises(MeshError) as caught:
            await mesh.call("ledger", "write", timeout=1.0)

        assert (counting.runs, caught.value.ran) == (0, Ran.NO)
        for node in (right, wrong):
            assert node.metrics.envelope_failures.values.get("CLOCK_SKEW", 0) > 0, node
