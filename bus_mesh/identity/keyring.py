"""Everything an agent needs to know who sent what: one object, synchronous, handed the time at every call.

What comes in is checked from cheap to dear, and nothing is decoded, kept or moved before it is authentic:
    length, magic, reserved ▶ kind fits subject ▶ sender known or introduced ▶ suite ▶ addressed to me ▶ AES-GCM ▶
    signature, where there is one ▶ counter
"""

from collections.abc import Callable, Collection, Sequence
from hashlib import sha256
from typing import Any, Final, NoReturn

from bus_mesh.identity import envelope
from bus_mesh.identity.announcement import Announcement, Offer
from bus_mesh.identity.envelope import HEADER, INTRODUCED, MOST_FRAMES, MOST_RECIPIENTS, PREFIX, SIGNED, EnvelopeKind
from bus_mesh.identity.epochs import Epoch, Now
from bus_mesh.identity.herald import LEASE_US, ROTATE_SECONDS, Herald, Own, own_identity
from bus_mesh.identity.keys import KEY_BYTES, SUITE, Pair, verifies
from bus_mesh.identity.misfits import Misfits
from bus_mesh.identity.opened import Accepted, NotARecipient, Opened, Sealed
from bus_mesh.identity.peers import SKEW_US, Peer, Peers
from bus_mesh.identity.receipt import Proof
from bus_mesh.identity.refusal import Dropped, Misfit, Reason, Untrusted
from bus_mesh.identity.trust import Trust
from bus_mesh.protocol.bunches import bunches, read_bunches
from bus_mesh.protocol.frames import FrameError
from bus_mesh.protocol.subjects import Subjects

__all__ = [
    "LEASE_US",
    "Accepted",
    "Dropped",
    "EnvelopeKind",
    "Keyring",
    "Misfit",
    "NotARecipient",
    "Now",
    "Opened",
    "Own",
    "Peer",
    "Reason",
    "Sealed",
    "Untrusted",
    "own_identity",
]

_SIGNATURE: Final = 64
_KINDS: Final = {int(kind): kind for kind in EnvelopeKind}
_ONE_RECIPIENT: Final = frozenset({EnvelopeKind.ANSWERS, EnvelopeKind.CONTROL})


class Keyring:
    """Our identity, our epoch keys, and the peers we know.

    `boot_started_us` should be higher at every start of a node: give the last one kept plus 1 where the clock may have
    been set back (default: the wall clock of `now`). Otherwise peers ignore the new boot for up to two minutes.
    """

    def __init__(
        self,
        own: Own,
        boot: str,
        entropy: Callable[[int], bytes],
        now: Now,
        *,
        lease_us: int = LEASE_US,
        rotate_every: float = ROTATE_SECONDS,
        boot_started_us: int | None = None,
    ) -> None:
        self.boot = boot
        self.dropped = dict.fromkeys(map(str, Reason), 0)
        """Envelopes and documents not believed, by reason."""
        started_us = now.wall_us if boot_started_us is None else boot_started_us
        self._entropy = entropy
        self._herald = Herald(own, boot, started_us, lease_us, entropy, now, rotate_every)
        self._epochs = self._herald.epochs
        self._trust = Trust(own.mesh, own.root)
        self._peers = Peers(own.node)
        self._by_id = self._peers.by_id
        self.misfits = Misfits()
        subjects = Subjects(own.mesh)
        self._inbox = subjects.inbox(own.node, boot)
        self._prefixes: dict[int, tuple[str, ...]] = {
            EnvelopeKind.CALLS: (f"{subjects.root}.rpc.",),
            EnvelopeKind.ANSWERS: (),
            EnvelopeKind.EVENT: (f"{subjects.root}.event.",),
            EnvelopeKind.CONTROL: (f"{subjects.root}.ctl.",),
        }
        self.announce((), now)

    def __repr__(self) -> str:
        return f"Keyring({self._herald}, {self._epochs.current}, {self._peers})"

    @property
    def own(self) -> Own:
        """Who we are at present."""
        return self._herald.own

    @property
    def key_id(self) -> bytes:
        """The id of our current epoch key."""
        return self._epochs.current.id

    @property
    def key_ids(self) -> Collection[bytes]:
        """The ids of all our epoch keys that still open envelopes."""
        return self._epochs.by_id.keys()

    @property
    def announcement(self) -> bytes:
        """The document signed last: what `find` is answered with, and what introduces us inside envelopes."""
        return self._herald.document

    # Speaking of ourselves

    def announce(self, offers: Sequence[Offer], now: Now, withdrawn: bool = False) -> bytes:
        """Sign what we serve under the next sequence and return the document, which introduces us from now on.

        Raises ValueError when it takes over 64 KiB.
        """
        said = self._herald.announce(offers, now, withdrawn)
        document = self._herald.document
        self._peers.admit(said, self.own.certificate, sha256(document).digest(), now, said.issued_us)
        # We are a peer of ourselves: the broker may choose us from the group that we call. No introduction is needed.
        for me in self._peers.epochs_of(self.own.node):
            me.knows_me = True
        return document

    def rotate(self, now: Now) -> None:
        """Make a new epoch key and sign an `announcement` of it, to be published soon.

        The old private key is kept 120 s, and then while somebody holds it.
        """
        self._epochs.rotate(now)
        for peer in self._by_id.values():
            peer.knows_me = False
        self._announce_again(now)

    def due(self, now: Now) -> bool:
        """Tell whether to rotate: hourly, or when the wall clock stepped by over a second since the key was made."""
        return self._epochs.due(now)

    def renew(self, own: Own, now: Now) -> bytes:
        """Go on with a new certificate (and key) of the same node; return the announcement that carries it."""
        if (own.mesh, own.node) != (self.own.mesh, self.own.node):
            raise Untrusted(Reason.WRONG_NODE, f"a certificate of node {own.node}, not of {self.own.node}")
        self._herald.own = own
        return self._announce_again(now)

    def hold(self) -> Epoch:
        """Keep the current private key until this is released: a call begun under it is open."""
        epoch = self._epochs.current
        epoch.holds += 1
        return epoch

    def release(self, held: Epoch) -> None:
        """Let go of what `hold` returned."""
        held.holds -= 1

    def clock_us(self, now: Now) -> int:
        """Return microseconds since 1970 by a clock that does not step while an epoch key is in use."""
        return now.boottime_us + self._epochs.current.offset_us

    # Hearing of others

    def accept(self, data: bytes, now: Now, claimed: str | None = None) -> Accepted:
        """Take an announcement off the bus; `claimed` is the node in its subject, which must be the one that speaks.

        Raises Untrusted, its `alarm` set for KEY_ID_HELD and CLONE; counted in `dropped`.
        """
        try:
            accepted = self._accept(data, now, claimed)
            said = accepted.announcement
            if accepted.news and not said.withdrawn and not self._peers.is_leased(said.node):
                text = f"what node {said.node} announced is over a minute old by our clock"
                behind = said.issued_us - self.clock_us(now)
                raise Misfit(Reason.CLOCK_SKEW, text, said.node, said.boot, behind, said.mark)
        except Untrusted as error:
            refused = self._unfit(error, now) if isinstance(error, Misfit) else error
            self.dropped[refused.reason] += 1
            raise refused from None
        if accepted.news:
            self.misfits.forget(said.node)
        return accepted

    def peer_of(self, node: str, boot: str) -> Peer | None:
        """Return the current epoch of one process of a node, or None when it is not trusted (any more)."""
        peer = self._peers.latest(node)
        return peer if peer is not None and peer.boot == boot else None

    def latest(self, node: str) -> Peer | None:
        """Return the current epoch of whatever process of a node is its newest, or None when none is trusted."""
        return self._peers.latest(node)

    def is_leased(self, node: str) -> bool:
        """Tell whether a node has spoken lately, in time; only such a one may be shown."""
        return self._peers.is_leased(node)

    def leased(self) -> list[Announcement]:
        """Return the last word of every node that has spoken lately, our own among them."""
        return self._peers.leased()

    def revoke(self, node: str) -> tuple[Peer, ...]:
        """Believe nothing of `node` from now on; return its epochs that were trusted, for the directory to drop.

        Our own node is only noted: stopping is up to the agent.
        """
        had = self._peers.epochs_of(node)
        self.misfits.forget(node)
        self._peers.revoke(node)
        return had

    def sweep(self, now: Now) -> list[Peer]:
        """Forget what has ended; return the peers whose lease ended since, for the directory to drop (each once).

        Their keys may go on being trusted, so what they still send is opened and answered.
        """
        for id in self._epochs.sweep(now):
            self._peers.unpair(id)
        return self._peers.sweep(now, self.clock_us(now))

    # Envelopes

    def seal(
        self,
        kind: EnvelopeKind,
        subject: str,
        frames: Sequence[bytes],
        peers: Sequence[Peer],
        now: Now,
        *,
        signed: bool = False,
    ) -> Sealed:
        """Return encoded frames (1 to 128) as one envelope that `peers` (1 to 64; one for answers, control) can open.

        `signed` adds our node's signature, which a recipient can show to others; control is always signed. Carries our
        announcement until every recipient is known to know us. A peer whose key was replaced gets it under its
        process's present one; raises Untrusted (EXPIRED) for a process that is trusted no more.
        """
        n, epoch = len(peers), self._epochs.current
        flags = SIGNED if signed or kind == EnvelopeKind.CONTROL else 0
        if not 0 < len(frames) <= MOST_FRAMES or not 0 < n <= (1 if kind in _ONE_RECIPIENT else MOST_RECIPIENTS):
            raise ValueError(f"{len(frames)} frames for {n} recipients do not go into one envelope of {kind!r}")
        ids, seals = b"", []
        for peer in peers:
            if now.wall_us >= peer.trust_ends_us:
                peer = self._successor(peer, now)
            if not peer.knows_me:
                flags |= INTRODUCED
            ids += peer.key_id
            seals.append((peer.pairs.get(epoch.id) or self._pair(peer, epoch)).seal)
        intro = self._introduction(now) if flags & INTRODUCED else b""
        epoch.counter = counter = epoch.counter + 1
        sent_at_us = now.boottime_us + epoch.offset_us
        head = HEADER.pack(PREFIX, kind, SUITE, flags, n, epoch.id, counter, sent_at_us) + ids
        where, plain, proof = subject.encode(), bunches(frames), None
        if flags & SIGNED:
            proof = Proof.make(envelope.signed_part(head, where, plain), self.own.key, self.own.chain)
            plain = proof.signature + plain
        if n == 1:
            return Sealed(envelope.seal_for_one(head, intro, where, plain, seals[0]), counter, proof)
        data = envelope.seal_for_many(head, intro, where, plain, seals, self._entropy(KEY_BYTES))
        return Sealed(data, counter, proof)

    def open(self, subject: str, data: bytes, now: Now) -> Opened:
        """Return what a trusted peer sealed for us on this very subject, the first time it comes.

        Raises Dropped (answer nothing; counted in `dropped`) or NotARecipient. A `skew_us` other than 0 is for the
        caller to refuse.
        """
        if not envelope.is_envelope(data):
            self._drop(Reason.FORMAT)
        _, kind, suite, flags, n, sender, counter, sent_at_us = HEADER.unpack_from(data)
        body = envelope.body_offset(data, n, flags)
        if not body:
            self._drop(Reason.FORMAT)
        if not self._fits(kind, flags, n, subject):
            self._drop(Reason.KIND)
        peer, introduced = self._by_id.get(sender), None
        if peer is None:
            peer, introduced = self._meet(data, n, flags, body, sender, now)
        if now.wall_us >= peer.trust_ends_us:
            self._drop(Reason.EXPIRED)
        if suite != peer.suite:
            self._drop(Reason.SUITE)
        epoch, place = self._addressed(data, n)
        if epoch is None:
            self.dropped[Reason.NOT_A_RECIPIENT] += 1
            raise NotARecipient(peer, counter, introduced)
        where, pair = subject.encode(), peer.pairs.get(epoch.id) or self._pair(peer, epoch)
        plain = envelope.open_sealed(data, where, n, place, body, pair.open)
        if plain is None:
            self._drop(Reason.FORGED)
        proof = self._proof(data, n, where, plain, peer) if flags & SIGNED else None
        if not peer.window.first(counter):
            self._drop(Reason.REPLAYED)
        current = self._epochs.current
        if epoch is current:
            peer.knows_me = True
        late_us = peer.arrived(sent_at_us, now.boottime_us)
        skew_us = now.boottime_us + current.offset_us - sent_at_us
        if -SKEW_US <= skew_us <= SKEW_US:
            skew_us = 0
        frames = self._frames(plain if proof is None else plain[_SIGNATURE:])
        return Opened(peer, _KINDS[kind], counter, late_us, skew_us, frames, introduced, proof)

    def _drop(self, reason: Reason) -> NoReturn:
        self.dropped[reason] += 1
        raise Dropped(reason)

    def _successor(self, peer: Peer, now: Now) -> Peer:
        """Return the present epoch of the process whose epoch `peer` was; raise Untrusted when there is none."""
        found = self.peer_of(peer.node, peer.boot)
        if found is None or now.wall_us >= found.trust_ends_us:
            raise Untrusted(Reason.EXPIRED, f"boot {peer.boot} of node {peer.node} is revoked, replaced, or expired")
        return found

    def _frames(self, plain: bytes) -> list[Any]:
        try:
            return read_bunches(plain, MOST_FRAMES)
        except FrameError:
            self._drop(Reason.FRAMES)

    def _fits(self, kind: int, flags: int, n: int, subject: str) -> bool:
        prefixes = self._prefixes.get(kind)
        if prefixes is None or (n != 1 and kind in _ONE_RECIPIENT):
            return False
        if kind == EnvelopeKind.CONTROL and not flags & SIGNED:
            return False
        if subject == self._inbox:
            return kind != EnvelopeKind.EVENT
        return subject.startswith(prefixes) and subject.isascii()

    def _addressed(self, data: bytes, n: int) -> tuple[Epoch | None, int]:
        """Return the epoch of ours that the envelope names, and its place among the recipients."""
        mine = self._epochs.by_id
        if n == 1:
            return mine.get(data[32:40]), 0
        for place, id in enumerate(envelope.recipients(data, n)):
            if id in mine:
                return mine[id], place
        return None, 0

    def _proof(self, data: bytes, n: int, where: bytes, plain: bytes, peer: Peer) -> Proof:
        """Return the sender's signature with all that it covers, once it has held."""
        signature, signed = plain[:_SIGNATURE], envelope.signed_part(data[: 32 + 8 * n], where, plain[_SIGNATURE:])
        if not verifies(peer.certificate.key, signature, signed):
            self._drop(Reason.FORGED)
        return Proof.of(signed, signature, peer.announcement.chain)

    def _pair(self, peer: Peer, epoch: Epoch) -> Pair:
        return peer.pair(epoch, self.own.mesh, self.own.node)

    def _announce_again(self, now: Now) -> bytes:
        return self.announce(self._herald.offers, now, self._herald.withdrawn)

    def _introduction(self, now: Now) -> bytes:
        if self._herald.lapsed(now):
            self._announce_again(now)
        return self._herald.introduction

    def _unfit(self, error: Misfit, now: Now) -> Untrusted:
        """Keep the word of a node that cannot be believed; return what it is refused with."""
        if self._peers.is_revoked(error.node):
            return Untrusted(Reason.REVOKED, f"node {error.node} is revoked")
        if not self._peers.is_outdated(error.node, error.mark):  # else somebody repeats an old word of one that is well
            self.misfits.note(error, now)
        return error

    def _meet(
        self, data: bytes, n: int, flags: int, body: int, sender: bytes, now: Now
    ) -> tuple[Peer, Announcement | None]:
        """Get to know the sender of an envelope by the announcement inside it."""
        if not flags & INTRODUCED:
            self._drop(Reason.STRANGER)
        try:
            accepted = self._accept(envelope.introduction(data, n, body), now, None)
        except Untrusted as error:
            self.dropped[error.reason] += 1
            raise Dropped(error.reason, error.message) from None
        peer = self._by_id.get(sender)
        if peer is None:
            self._drop(Reason.STRANGER)
        said = accepted.announcement
        return peer, said if accepted.news and self._peers.is_leased(said.node) else None

    def _accept(self, data: bytes, now: Now, claimed: str | None) -> Accepted:
        digest = sha256(data).digest()
        peer = self._peers.saying(digest)
        if peer is not None and claimed in (None, peer.node):
            return Accepted(peer, peer.announcement, False)
        said, certificate = self._trust.verify(data, digest, claimed, now.monotonic, now.wall_us)
        if said.node == self.own.node:
            self._herald.refuse_clone(said)
            news = False
        else:
            news = self._peers.admit(said, certificate, digest, now, self.clock_us(now))
        peer = self._peers.latest(said.node)
        if peer is None:
            raise Untrusted(Reason.STRANGER, f"node {said.node} is not known")
        return Accepted(peer, said if news else peer.announcement, news)
