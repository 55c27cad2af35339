"""A whole control plane in one process: a policy agent and agents that follow it, on a bus in memory."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgpack

from bus_mesh.agent.apps import Apps
from bus_mesh.agent.follow import Follow
from bus_mesh.agent.kept_policy import KeptPolicy
from bus_mesh.agent.node import Node
from bus_mesh.agent.revocation import Revocations
from bus_mesh.agent.run import read_clocks
from bus_mesh.agent.world import Setting, World
from bus_mesh.bus.memory import MemoryBroker, MemoryBus
from bus_mesh.cli.home import MeshHome
from bus_mesh.clock import monotonic
from bus_mesh.control.admission import Admission, Issuer, Way
from bus_mesh.control.desk import Desk
from bus_mesh.control.office import Office, Signer
from bus_mesh.control.store import Store
from bus_mesh.identity import document
from bus_mesh.identity.command import sign_command
from bus_mesh.identity.head import sign_head
from bus_mesh.identity.keyring import Keyring, Own, own_identity
from bus_mesh.identity.keys import NodeKey
from bus_mesh.policy.manifest import hash_of
from bus_mesh.protocol.subjects import Subjects
from bus_mesh.telemetry.metrics import Metrics

CONTROL: Final = "control"
PATIENCE: Final = 10.0


def service(name: str, *callers: str) -> bytes:
    return (
        f"kind: Service\nname: {name}\naccess: {{allow: [{{from: [{', '.join(callers)}], methods: ['*']}}]}}\n".encode()
    )


async def until(fact: Callable[[], bool]) -> None:
    """Return once `fact` is true; TimeoutError after ten seconds."""
    async with asyncio.timeout(PATIENCE):
        while not fact():
            await asyncio.sleep(0.005)


class Follower:
    """One agent: its node and what follows policy for it."""

    def __init__(self, node: Node, follow: Follow, bus: MemoryBus, folder: Path, revocations: Revocations) -> None:
        self.node, self.follow, self.bus, self.folder = node, follow, bus, folder
        self.revocations = revocations

    def allows(self, caller: str, service: str) -> bool:
        return self.node.access.check(caller, service, "get").allowed

    @property
    def number(self) -> int:
        return self.node.access.number


class Plane:
    """Keys, a broker, and what runs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = MeshHome(folder / "home")
        self.home.init("test")
        self.broker = MemoryBroker()
        self.subjects = Subjects("test")
        self.signer = Signer(
            NodeKey.from_bytes((self.home.path / "policy.key").read_bytes()),
            (self.home.path / "policy.delegation").read_bytes(),
            1,
            1 << 62,
        )

    def own(self, name: str) -> Own:
        identity = self.folder / name / "identity"
        if not identity.exists():
            self.home.admit(name, ["orders"], ["web", "cli"], identity)
        read = [(identity / file).read_bytes() for file in ("node.key", "node.chain", "root.pub")]
        return own_identity(NodeKey.from_bytes(read[0]), read[1], "test", read[2], read_clocks().wall_us)

    @asynccontextmanager
    async def office(
        self,
        name: str = CONTROL,
        store: str = "store.sqlite",
        first: dict[str, bytes] | None = None,
        certificates_us: int | None = None,
    ) -> AsyncIterator[Office]:
        """A policy agent; with `certificates_us` one that admits nodes, and for so long."""
        own = self.own(name)
        bus = self.broker.connect()
        with ThreadPoolExecutor(1) as work:
            loop = asyncio.get_running_loop()
            kept = await loop.run_in_executor(work, Store, self.folder / store)
            admission = None
            if certificates_us is not None:
                key = NodeKey.from_bytes((self.home.path / "issuer.key").read_bytes())
                issuer = Issuer(key, (self.home.path / "issuer.delegation").read_bytes())
                way = Way(("nats://127.0.0.1:4222",))
                admission = Admission(kept, "test", own.root, issuer, way, os.urandom, certificates_us)
            desk = await loop.run_in_executor(work, Desk, kept, "test", own.root, name, admission)
            keyring = Keyring(own, os.urandom(8).hex(), os.urandom, read_clocks())
            office = Office(own, keyring, bus, desk, self.signer, read_clocks, work)
            await loop.run_in_executor(work, desk.start_with, first or {}, 1)
            await office.start()
            try:
                yield office
            finally:
                await office.stop()
                await bus.close()
                await loop.run_in_executor(work, kept.__exit__)

    @asynccontextmanager
    async def agent(self, name: str) -> AsyncIterator[Follower]:
        own, bus, rng = self.own(name), self.broker.connect(), random.Random(name)
        apps = Apps({}, frozenset(("web", "cli", "orders")), os.getuid(), int, int, lambda token, pid: None)
        world = World(read_clocks, monotonic, os.urandom, rng.randrange, rng.random)
        node = Node(own, bus, apps, world, Setting({}, 3600.0, None, os.getuid()), Metrics())
        folder = self.folder / name / "policy"
        revocations = Revocations(node, self.folder / name / "revoked.yaml")
        work = node.enforce, node.spawn, revocations
        follow = Follow(own, node.control, node.watch, KeptPolicy(folder), read_clocks, rng.random, *work)
        follow.start()
        await node.start()
        await bus.subscribe(node.subjects.policy, follow.on_policy)
        follow.greet()
        try:
            yield Follower(node, follow, bus, folder, revocations)
        finally:
            await node.stop()
            await bus.close()

    async def command(self, by: Follower, verb: str, **arguments: Any) -> Any:
        """Have the policy agent in office do what the first operator signs, asked by an agent."""
        office = by.node.control.office
        assert office is not None
        signed = sign_command(
            NodeKey.from_bytes((self.home.path / "operator.key").read_bytes()),
            document.pack_row(((self.home.path / "operator.delegation").read_bytes(),)),
            mesh="test",
            verb=verb,
            arguments=msgpack.packb(arguments),
            request=os.urandom(8).hex(),
            target=office.key_id,
            issued_us=read_clocks().wall_us,
        )
        return msgpack.unpackb(await by.node.control.ask(verb, msgpack.packb({"command": signed}), PATIENCE))

    async def apply(self, by: Follower, **documents: bytes) -> int:
        """Apply documents of kind Service by name; return the bundle's number."""
        await self.command(by, "stage", documents=list(documents.values()))
        hashes = {f"Service/{name}": hash_of(data) for name, data in documents.items()}
        said = await self.command(by, "apply", documents=hashes, prune=False, dry=False)
        number: int = said["number"]
        return number

    def head(self, **other: Any) -> bytes:
        """Return a signed head that says what a test wants."""
        said: dict[str, Any] = {
            "mesh": "test",
            "term": 1,
            "number": 1,
            "manifest": bytes(32),
            "node": CONTROL,
            "issued_us": read_clocks().wall_us,
            "life_us": 3_600_000_000,
        }
        key = other.pop("key", self.signer.key)
        delegation = other.pop("delegation", self.signer.delegation)
        return sign_head(key, delegation, **{**said, **other})
