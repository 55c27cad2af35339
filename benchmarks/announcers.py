"""`python -m benchmarks.announcers URL HOME NODES INSTANCES`: so many light nodes in one process, on a real bus.

Each has its own certificate, keys and connection, announces so many instances of `crowd`, and answers who asks, with
documents that it signs for real. What it lacks of an agent: everything else.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

import uvloop

from bus_mesh.agent.run import read_clocks
from bus_mesh.bus.nats_bus import NatsBus
from bus_mesh.cli.home import MeshHome
from bus_mesh.identity.announcement import Instance, Offer
from bus_mesh.identity.keyring import Keyring, own_identity
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.refusal import IdentityError
from bus_mesh.protocol.frames import Method
from bus_mesh.protocol.subjects import EVERYONE, Subjects

SERVICE = "crowd"
BEAT = 5.0


class Announcer:
    """One light node."""

    def __init__(self, home: MeshHome, name: str, bus: NatsBus, instances: int) -> None:
        folder = home.path / name
        home.admit(name, [SERVICE], (), folder)
        key, chain, root = [(folder / file).read_bytes() for file in ("node.key", "node.chain", "root.pub")]
        own = own_identity(NodeKey.from_bytes(key), chain, home.mesh, root, read_clocks().wall_us)
        self.bus = bus
        self.subjects = Subjects(own.mesh)
        self.keyring = Keyring(own, os.urandom(8).hex(), os.urandom, read_clocks())
        there = tuple(Instance(f"{name}-{number:04x}", "1.0.0", {}, "up", 0) for number in range(instances))
        self.offers = (Offer(SERVICE, there, (Method("get", True, 1000, "0" * 16),)),)
        self.own = own
        self.document = b""

    def announce(self) -> None:
        self.document = self.keyring.announce(self.offers, read_clocks())
        self.bus.publish(self.subjects.found(SERVICE, self.own.node), self.document)

    async def start(self) -> None:
        for service in (EVERYONE, SERVICE):
            await self.bus.subscribe(self.subjects.find_of(service), self._asked)
        self.announce()

    def _asked(self, subject: str, reply: str, data: bytes, status: int) -> None:
        try:
            accepted = self.keyring.accept(data, read_clocks())
        except IdentityError:
            return
        self.bus.publish(self.subjects.inbox(accepted.peer.node, accepted.peer.boot), self.document)


async def main(url: str, home: Path, nodes: int, instances: int) -> None:
    mesh, announcers = MeshHome(home), []
    for number in range(nodes):
        bus = NatsBus(url, name=f"light-{number}", roll=random.random)
        await bus.start()
        await bus.ready(10.0)
        announcers.append(Announcer(mesh, f"light-{number}", bus, instances))
        await announcers[-1].start()
    print("ready", flush=True)
    while True:
        for one in announcers:
            await asyncio.sleep(BEAT / nodes)
            one.announce()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
