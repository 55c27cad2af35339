"""Whose keys we trust, and what they last said.

Two things end apart. A node is **leased** while its announcements keep coming (15 s each): that is what a directory
shows. Its keys are **trusted** until the earliest expiry in its chain, a newer boot, or two newer epochs: a caller
that serves nothing announces itself once, inside an envelope, and is known from then on; and one whose beats are lost
for 20 s can still be answered. While a key is trusted its window is kept, so nothing it sealed is opened twice.

A node that withdrew, or whose certificate ended, is forgotten once nothing it ever said can be accepted again
(`Sender.over`): two minutes after its last word. Until then its record is the tombstone that older words run into.
"""

from typing import Final

from bus_mesh.identity.announcement import Announcement
from bus_mesh.identity.certificate import NodeCertificate
from bus_mesh.identity.epochs import Epoch, Now
from bus_mesh.identity.keys import SUITE, Pair, key_id
from bus_mesh.identity.refusal import Misfit, Reason, Untrusted
from bus_mesh.identity.replay import Window
from bus_mesh.protocol.subjects import Subjects

__all__ = ["MOST_SENDERS", "SKEW_US", "Peer", "Peers"]

SKEW_US: Final = 60_000_000
"""How far the clocks of two machines may be apart."""
QUIET_US: Final = 120_000_000
"""How long a node must be quiet before its windows go: as long as our retired keys open what it sealed."""
MOST_SENDERS: Final = 4096
"""Nodes known at one time. The next is refused: the living are never evicted for a stranger."""


class Peer:
    """One epoch of one agent process: what a call is sealed for, and who sent one. Equal only to itself."""

    __slots__ = (
        "__weakref__",
        "announcement",
        "boot",
        "certificate",
        "heard_us",
        "inbox",
        "key",
        "key_id",
        "knows_me",
        "least_us",
        "node",
        "pairs",
        "said_us",
        "suite",
        "trust_ends_us",
        "window",
    )

    def __init__(self, key: bytes, said: Announcement, certificate: NodeCertificate) -> None:
        self.node, self.boot = said.node, said.boot
        self.inbox = Subjects(said.mesh).inbox(said.node, said.boot)
        """Where everything that is sealed for this process goes."""
        self.key = key
        self.key_id = key_id(said.mesh, said.node, key)
        self.suite = SUITE
        self.window = Window()
        self.pairs: dict[bytes, Pair] = {}
        self.knows_me = False
        """Whether it has sealed something for our current key, so needs no introduction. May be set to False."""
        self.least_us = 1 << 64
        """Smallest (our boottime − sent_at) seen: the difference of the clocks plus the fastest way."""
        self.said_us = self.heard_us = 0
        self.update(said, certificate)

    def __repr__(self) -> str:
        return f"Peer({self.node}, {self.key_id.hex()}, boot={self.boot}, knows_me={self.knows_me})"

    def update(self, said: Announcement, certificate: NodeCertificate) -> None:
        """Take what the node said last, and by which certificate."""
        self.announcement = said
        self.certificate = certificate
        self.trust_ends_us = certificate.not_after_us

    def arrived(self, sent_at_us: int, boottime_us: int) -> int:
        """Note an authentic envelope; return the microseconds it took beyond the fastest one so far."""
        way_us = boottime_us - sent_at_us
        if way_us < self.least_us:
            self.least_us = way_us
        if sent_at_us > self.said_us:
            self.said_us = sent_at_us
        self.heard_us = boottime_us
        return way_us - self.least_us

    def pair(self, epoch: Epoch, mesh: str, me: str) -> Pair:
        """Return the ciphers between an epoch of ours and this peer; 70 µs the first time."""
        found = self.pairs.get(epoch.id)
        if found is None:
            found = self.pairs[epoch.id] = epoch.key.pair(mesh, me, self.node, self.key)
        return found


class Sender:
    """A node, with its one or two live epochs (the current one first)."""

    __slots__ = ("announcement", "digest", "heard_us", "lease_ends_us", "leased", "peers", "said_us")

    def __init__(self, said: Announcement) -> None:
        self.announcement = said
        self.digest = b""
        self.peers: tuple[Peer, ...] = ()
        self.leased = False
        self.lease_ends_us = self.heard_us = self.said_us = 0

    def __repr__(self) -> str:
        return f"Sender({self.announcement.node}, leased={self.leased}, epochs={len(self.peers)})"

    def heard(self, said: Announcement, digest: bytes, now: Now, fresh: bool) -> None:
        """Take the node's latest word; only a fresh one makes or prolongs the lease."""
        self.announcement, self.digest = said, digest
        self.said_us = max(self.said_us, said.expires_us)
        self.leased = fresh and not said.withdrawn
        self.lease_ends_us = now.boottime_us + said.expires_us - said.issued_us
        self.heard_us = now.boottime_us

    def over(self, now: Now, clock_us: int) -> bool:
        """Tell whether this node is quiet, and everything it ever dated too old to be accepted now.

        Its windows may go then: a replay fails on its date. Both clocks are asked: ours may have been set forward.
        """
        heard_us = max(self.heard_us, *(peer.heard_us for peer in self.peers))
        said_us = max(self.said_us, *(peer.said_us for peer in self.peers))
        return now.boottime_us >= heard_us + QUIET_US and clock_us > said_us + SKEW_US


class Peers:
    """The senders of one mesh, ourselves among them."""

    def __init__(self, own_node: str, most: int = MOST_SENDERS) -> None:
        self.by_id: dict[bytes, Peer] = {}
        self._own_node = own_node
        self._most = most
        self._senders: dict[str, Sender] = {}
        self._digests: dict[bytes, Sender] = {}
        self._holders: dict[bytes, str] = {}
        self._revoked: set[str] = set()

    def __repr__(self) -> str:
        leased = sum(sender.leased for sender in self._senders.values())
        senders, epochs, revoked = len(self._senders), len(self.by_id), len(self._revoked)
        return f"Peers(senders={senders}, leased={leased}, epochs={epochs}, revoked={revoked})"

    def __len__(self) -> int:
        return len(self._senders)

    def latest(self, node: str) -> Peer | None:
        """Return the current epoch of `node`."""
        sender = self._senders.get(node)
        return sender.peers[0] if sender else None

    def epochs_of(self, node: str) -> tuple[Peer, ...]:
        """Return the live epochs of `node`, the current one first."""
        sender = self._senders.get(node)
        return sender.peers if sender else ()

    def saying(self, digest: bytes) -> Peer | None:
        """Return the current epoch of the node whose latest announcement has this SHA-256."""
        sender = self._digests.get(digest)
        return sender.peers[0] if sender else None

    def admit(self, said: Announcement, certificate: NodeCertificate, digest: bytes, now: Now, clock_us: int) -> bool:
        """Take a verified announcement; return False when it is not newer than what is known.

        Raises Untrusted: REVOKED, CLOCK_SKEW (from the future: it would block the node's later word), FULL or
        KEY_ID_HELD. One from over a minute ago makes its keys trusted, so the sender can be told the time, and is not
        leased.
        """
        if said.node in self._revoked:
            raise Untrusted(Reason.REVOKED, f"node {said.node} is revoked")
        ahead = said.issued_us - clock_us
        if ahead > SKEW_US:
            text = f"the clock of node {said.node} is {ahead / 1e6:.0f}s ahead of ours"
            raise Misfit(Reason.CLOCK_SKEW, text, said.node, said.boot, ahead, said.mark)
        sender = self._senders.get(said.node)
        fresh = clock_us <= said.expires_us + SKEW_US
        if sender is not None:
            # A boot may begin before the last one did when the machine's clock was set back in between.
            if said.mark <= sender.announcement.mark and not (fresh and sender.over(now, clock_us)):
                return False
        elif len(self._senders) >= self._most:
            raise Untrusted(Reason.FULL, f"{self._most} nodes are known already: node {said.node} is not taken in")
        keys = [key for key in (said.key, said.previous) if key]
        self._refuse_held(said, keys)
        if sender is None:
            sender = self._senders[said.node] = Sender(said)
        self._replace(sender, said, certificate, keys)
        self._digests.pop(sender.digest, None)
        self._digests[digest] = sender
        sender.heard(said, digest, now, fresh)
        return True

    def is_revoked(self, node: str) -> bool:
        """Tell whether `node` is out for good."""
        return node in self._revoked

    def is_outdated(self, node: str, mark: tuple[int, int]) -> bool:
        """Tell whether a word of `node` is no newer than what the directory shows of it."""
        sender = self._senders.get(node)
        return sender is not None and sender.leased and mark <= sender.announcement.mark

    def is_leased(self, node: str) -> bool:
        """Tell whether the directory may show `node`."""
        sender = self._senders.get(node)
        return sender is not None and sender.leased

    def leased(self) -> list[Announcement]:
        """Return the last word of every node whose lease runs."""
        return [sender.announcement for sender in self._senders.values() if sender.leased]

    def sweep(self, now: Now, clock_us: int) -> list[Peer]:
        """End leases, forget those no longer trusted; return the peers whose lease ended, each once."""
        gone: list[Peer] = []
        for node, sender in list(self._senders.items()):
            if node == self._own_node:
                continue
            expired = now.wall_us >= sender.peers[0].trust_ends_us
            if sender.leased and (expired or now.boottime_us >= sender.lease_ends_us):
                sender.leased = False
                gone += sender.peers
            if (expired or sender.announcement.withdrawn) and sender.over(now, clock_us):
                self._forget(node)
        return gone

    def revoke(self, node: str) -> None:
        """Trust `node` no more, whatever it shows."""
        self._revoked.add(node)
        if node in self._senders and node != self._own_node:
            self._forget(node)

    def unpair(self, epoch_id: bytes) -> None:
        """Forget what was derived from an epoch of ours."""
        for peer in self.by_id.values():
            peer.pairs.pop(epoch_id, None)

    def _refuse_held(self, said: Announcement, keys: list[bytes]) -> None:
        for key in keys:
            holder = self.by_id.get(key_id(said.mesh, said.node, key))
            held_by = self._holders.get(key, said.node) if holder is None else holder.node
            if held_by != said.node:
                raise Untrusted(
                    Reason.KEY_ID_HELD, f"node {said.node} announces a key that node {held_by} announced first"
                )

    def _replace(self, sender: Sender, said: Announcement, certificate: NodeCertificate, keys: list[bytes]) -> None:
        """Give `sender` exactly the epochs of `said`; those it had before keep their windows."""
        had = {peer.key: peer for peer in sender.peers if peer.boot == said.boot}
        peers = tuple(had.get(key) or Peer(key, said, certificate) for key in keys)
        for peer in sender.peers:
            if peer not in peers:
                sender.said_us = max(sender.said_us, peer.said_us)
                self._drop(peer)
        for peer in peers:
            peer.update(said, certificate)
            self.by_id[peer.key_id] = peer
            self._holders[peer.key] = said.node
        sender.peers = peers

    def _forget(self, node: str) -> None:
        sender = self._senders.pop(node)
        del self._digests[sender.digest]
        for peer in sender.peers:
            self._drop(peer)

    def _drop(self, peer: Peer) -> None:
        peer.trust_ends_us = 0
        del self.by_id[peer.key_id]
        del self._holders[peer.key]
