"""A small mesh for tests: one root, one issuer, nodes with keyrings, and clocks that only move when told to."""

import hashlib
from collections.abc import Callable, Iterable

import msgpack

from bus_mesh.identity.certificate import Role, certify_node, delegate
from bus_mesh.identity.keyring import EnvelopeKind, Keyring, Now, Own, Peer, Sealed, own_identity
from bus_mesh.identity.keys import NodeKey

START_US = 1_800_000_000_000_000
DAY_US = 86_400_000_000
RPC = "mesh.demo.rpc.orders.get"


def stream(seed: str) -> Callable[[int], bytes]:
    """Entropy that is the same in every run."""
    drawn = 0

    def entropy(size: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return hashlib.shake_256(f"{seed}/{drawn}".encode()).digest(size)

    return entropy


def at(seconds: float, ahead: float = 0.0) -> Now:
    """The clocks `seconds` after the start, on a machine whose wall clock is `ahead`."""
    us = round(seconds * 1e6)
    return Now(1000.0 + seconds, 1_000_000_000 + us, START_US + us + round(ahead * 1e6))


class World:
    """Who can certify nodes, and the nodes it certified."""

    def __init__(self, mesh: str = "demo", seed: str = "world") -> None:
        self.mesh = mesh
        self.root = NodeKey.generate(stream(f"{seed} root"))
        self.issuer = NodeKey.generate(stream(f"{seed} issuer"))
        times = {"not_before_us": START_US - 60_000_000, "not_after_us": START_US + 365 * DAY_US}
        self.delegation = delegate(self.root, mesh, Role.ISSUER, self.issuer.public, term=1, **times)

    def own(
        self,
        node: str,
        serve: Iterable[str] = ("orders",),
        call_as: Iterable[str] = ("web",),
        key: NodeKey | None = None,
        until_us: int = START_US + DAY_US,
        from_us: int = START_US - 60_000_000,
    ) -> Own:
        key = key or NodeKey.generate(stream(f"{self.mesh} {node}"))
        chain = certify_node(
            self.issuer,
            self.delegation,
            mesh=self.mesh,
            node=node,
            key=key.public,
            serve=serve,
            call_as=call_as,
            not_before_us=from_us,
            not_after_us=until_us,
            serial=f"{node}-1",
        )
        return own_identity(key, chain, self.mesh, self.root.public, START_US)

    def ring(self, node: str, boot: str = "b1", now: Now | None = None, own: Own | None = None) -> Keyring:
        return Keyring(own or self.own(node), boot, stream(f"{node} {boot}"), now or at(0))


def meet(one: Keyring, other: Keyring, now: Now | None = None) -> None:
    """Let both hear the other's announcement."""
    one.accept(other.announcement, now or at(0))
    other.accept(one.announcement, now or at(0))


def known(ring: Keyring, other: Keyring) -> Peer:
    """What `ring` knows `other` as."""
    peer = ring.peer_of(other.own.node, other.boot)
    assert peer is not None
    return peer


def befriend(one: Keyring, other: Keyring) -> None:
    """Let both hear each other, and know that they are known: no introduction is attached any more."""
    meet(one, other)
    for sender, receiver in ((one, other), (other, one), (one, other)):
        sent = call(sender, [receiver], now=at(0))
        receiver.open(RPC, sent.data, at(0))


def packed(frame: bytes) -> bytes:
    """What stands for a frame here: an envelope holds MessagePack, and does not care which."""
    return bytes(msgpack.packb(frame))


def call(ring: Keyring, to: Iterable[Keyring], *frames: bytes, now: Now | None = None, signed: bool = False) -> Sealed:
    """Seal a call for the group, of frames that are bytes and nothing more."""
    peers = [known(ring, other) for other in to]
    return ring.seal(
        EnvelopeKind.CALLS, RPC, list(map(packed, frames or (b"frame",))), peers, now or at(0), signed=signed
    )


def inbox(ring: Keyring) -> str:
    return f"mesh.demo.node.{ring.own.node}.{ring.boot}"


def friends(world: World, n: int) -> tuple[Keyring, list[Keyring]]:
    """A caller, and `n` nodes of a group that know it."""
    a, group = world.ring("a"), [world.ring(f"b{i}") for i in range(n)]
    for b in group:
        befriend(a, b)
    return a, group
