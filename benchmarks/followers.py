"""`python -m benchmarks.followers URL HOME FIRST COUNT`: so many light agents in one process, on a real bus.

Each has its own node certificate, keys, connection and folder on disk, and follows policy with the agent's own code: it
verifies heads, fetches by hash in sealed envelopes, checks every document, writes to disk with fsync, swaps, and
acknowledges under its signature. What it lacks of an agent: sockets, apps, calls, metrics.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

import uvloop

from bus_mesh.agent.control import Control
from bus_mesh.agent.follow import Follow
from bus_mesh.agent.kept_policy import KeptPolicy
from bus_mesh.agent.requests import Requests
from bus_mesh.agent.revocation import Revocations
from bus_mesh.agent.run import read_clocks
from bus_mesh.bus.nats_bus import NatsBus
from bus_mesh.cli.home import MeshHome
from bus_mesh.identity.keyring import Accepted, Keyring, Own, Untrusted, own_identity
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.refusal import IdentityError
from bus_mesh.policy.access import Access
from bus_mesh.policy.bundle import PolicySet
from bus_mesh.protocol.frames import fit
from bus_mesh.protocol.subjects import Subjects
from bus_mesh.telemetry import log


class Follower:
    """One light agent."""

    def __init__(self, own: Own, bus: NatsBus, folder: Path) -> None:
        self.bus = bus
        self.policy: tuple[PolicySet, Access] | None = None
        self.keyring = Keyring(own, os.urandom(8).hex(), os.urandom, read_clocks())
        self.subjects = Subjects(own.mesh)
        self.requests = Requests(own.node, self.keyring, bus, read_clocks)
        self.control = Control(own.node, self.keyring, bus, self.subjects, self.requests)
        self.publishers: set[str] = set()
        revocations = Revocations(self, None)  # nobody is revoked here, so nothing else is asked of it
        work = self._enforce, self.spawn, revocations
        self.follow = Follow(own, self.control, self, KeptPolicy(folder), read_clocks, random.random, *work)
        self.document = self.keyring.announcement
        self.own = own
        self._tasks: set[asyncio.Task[None]] = set()

    def learn(self, data: bytes, claimed: str | None = None) -> Accepted | None:
        """Take in an announcement."""
        try:
            return self.keyring.accept(data, read_clocks(), claimed)
        except Untrusted:
            return None

    async def start(self) -> None:
        self.follow.start()
        await self.bus.subscribe(self.subjects.inbox(self.own.node, self.keyring.boot), self._on_inbox)
        await self.bus.subscribe(self.subjects.policy, self.follow.on_policy)
        self.follow.greet()

    def _on_inbox(self, subject: str, reply: str, data: bytes, status: int) -> None:
        try:
            opened = self.keyring.open(subject, data, read_clocks())
        except IdentityError:
            return
        for said in opened.frames:
            self.requests.answered(opened.peer, fit(said))

    def _enforce(self, policy: PolicySet, access: Access) -> None:
        self.policy = policy, access

    def spawn(self, work: object) -> None:
        task = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def main(url: str, home: Path, first: int, count: int) -> None:
    log.configure("error")
    mesh, followers = MeshHome(home), []
    for number in range(first, first + count):
        name = f"light-{number}"
        folder = home / name
        mesh.admit(name, (), (), folder)
        read_files = [(folder / file).read_bytes() for file in ("node.key", "node.chain", "root.pub")]
        key, chain, root = NodeKey.from_bytes(read_files[0]), *read_files[1:]
        own = own_identity(key, chain, mesh.mesh, root, read_clocks().wall_us)
        bus = NatsBus(url, name=name, roll=random.random)
        await bus.start()
        await bus.ready(10.0)
        followers.append(Follower(own, bus, folder / "policy"))
        await followers[-1].start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
