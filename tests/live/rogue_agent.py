"""An agent that holds itself to nothing, and services that it may not serve."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bus_mesh_sdk import Service, rpc
from mesh_world import World

from bus_mesh.agent.apps import Apps
from bus_mesh.agent.local import claim, identify, serve
from bus_mesh.agent.node import Node
from bus_mesh.agent.node import World as Outside
from bus_mesh.agent.run import read_clocks
from bus_mesh.agent.world import Setting
from bus_mesh.bus.nats_bus import NatsBus
from bus_mesh.clock import monotonic
from bus_mesh.identity.certificate import verify_chain
from bus_mesh.identity.herald import Own
from bus_mesh.identity.keys import NodeKey
from bus_mesh.policy_files import read_policy_dir
from bus_mesh.telemetry.metrics import Metrics


class Ledger(Service, name="ledger"):
    @rpc(idempotent=True)
    async def who(self) -> str:
        raise NotImplementedError


class Stolen(Ledger):
    async def who(self) -> str:
        return "stolen"


class PlacedContract(Service, name="placed"):
    @rpc(idempotent=True)
    async def who(self) -> str:
        raise NotImplementedError


class Placed(PlacedContract):
    async def who(self) -> str:
        return "stolen"


@asynccontextmanager
async def rogue(world: World, folder: Path) -> AsyncIterator[Path]:
    """An agent that holds itself to nothing: its certificate, true on the wire, grants it nothing at all."""
    world.home.admit("rogue", [], [], folder / "identity")
    chain, root = (folder / "identity" / "node.chain").read_bytes(), (folder / "identity" / "root.pub").read_bytes()
    key = NodeKey.from_bytes((folder / "identity" / "node.key").read_bytes())
    granted = verify_chain(chain, "test", root, read_clocks().wall_us)
    everything = frozenset(("tester", "ledger", "placed"))
    own = Own("test", "rogue", root, key, chain, granted._replace(serve=everything, call_as=everything))
    bus = NatsBus(world.server.url, name="rogue", roll=lambda: 0.5)
    await bus.start()
    await bus.ready(5.0)
    apps = Apps({}, everything, os.getuid(), int, int, lambda token, pid: None)
    outside = Outside(read_clocks, monotonic, os.urandom, lambda n: 0, lambda: 0.5)
    node = Node(own, bus, apps, outside, Setting({}, 3600.0, None, os.getuid()), Metrics())
    node.enforce(read_policy_dir(world.folder / "policy"))
    await node.start()
    server = await serve(claim(folder / "agent.sock"), lambda: node.session(identify))
    try:
        yield folder / "agent.sock"
    finally:
        server.close()
        await node.stop()
        await bus.close()
