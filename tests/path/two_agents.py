"""Two whole agents in one process, on a bus in memory: a caller's and a service's, whose clock may be wrong."""

import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from bus_mesh_sdk import Mesh, Service, Serving, rpc

from bus_mesh.agent.apps import Apps
from bus_mesh.agent.local import claim, identify, serve
from bus_mesh.agent.node import Node
from bus_mesh.agent.run import read_clocks
from bus_mesh.agent.world import Setting, World
from bus_mesh.bus.memory import MemoryBroker
from bus_mesh.cli.home import MeshHome
from bus_mesh.clock import monotonic
from bus_mesh.identity.keyring import Now, own_identity
from bus_mesh.identity.keys import NodeKey
from bus_mesh.policy.bundle import PolicySet
from bus_mesh.policy.load import parse
from bus_mesh.telemetry.metrics import Metrics

POLICY = "kind: Service\nname: ledger\naccess: {allow: [{from: [tester], methods: ['*']}]}\n"


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


class Pair(NamedTuple):
    """`mesh` calls, `service` is called by it; `nodes` are the caller's and the service's."""

    mesh: Mesh
    service: Counting
    serving: Serving
    nodes: tuple[Node, Node]


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
    world = World(skewed(by_us), monotonic, os.urandom, rng.randrange, rng.random)
    node = Node(own, bus, apps, world, Setting({}, 3600.0, None, os.getuid()), Metrics())
    node.enforce(PolicySet.of(parse(POLICY, "policy.yaml")))
    await node.start()
    server = await serve(claim(identity / "agent.sock"), lambda: node.session(identify))
    try:
        yield node
    finally:
        server.close()
        await node.stop()
        await bus.close()


@asynccontextmanager
async def pair(folder: Path, by_us: int = 0) -> AsyncIterator[Pair]:
    """A caller's and a service's node, the latter's clock wrong by so much."""
    home, broker = MeshHome(folder / "home"), MemoryBroker()
    home.init("test")
    async with AsyncExitStack() as stack:
        right = await stack.enter_async_context(agent("right", home, broker, folder, 0))
        wrong = await stack.enter_async_context(agent("wrong", home, broker, folder, by_us))
        there = await stack.enter_async_context(Mesh.connect(app="ledger", socket=folder / "wrong" / "agent.sock"))
        here = await stack.enter_async_context(Mesh.connect(app="tester", socket=folder / "right" / "agent.sock"))
        counting = Counting()
        serving = await there.serve(counting)
        yield Pair(here, counting, serving, (right, wrong))
