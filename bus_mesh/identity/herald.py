"""What this process says of itself: who it is, by which epoch key it is reached, and what it serves."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from bus_mesh import __version__
from bus_mesh.identity.announcement import Announcement, Offer, encode_announcement
from bus_mesh.identity.certificate import NodeCertificate, verify_chain
from bus_mesh.identity.epochs import Epochs, Now
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.refusal import Reason, Untrusted

__all__ = ["LEASE_US", "ROTATE_SECONDS", "Herald", "Own", "own_identity"]

LEASE_US: Final = 15_000_000
"""How long one announcement speaks for its node."""
ROTATE_SECONDS: Final = 3600.0
"""How long an epoch key is in use."""


class Own(NamedTuple):
    """Who we are: a node of a mesh, with its key and the chain that certifies it."""

    mesh: str
    node: str
    root: bytes
    key: NodeKey
    chain: bytes
    certificate: NodeCertificate


def own_identity(key: NodeKey, chain: bytes, mesh: str, root: bytes, now_us: int) -> Own:
    """Return who we are; raise Untrusted when the chain does not hold now, or certifies another key."""
    certificate = verify_chain(chain, mesh, root, now_us)
    if certificate.key != key.public:
        message = f"the certificate of node {certificate.node} is for another key: give the key that it was made for"
        raise Untrusted(Reason.WRONG_NODE, message)
    return Own(mesh, certificate.node, root, key, chain, certificate)


class Herald:
    """Signs our announcements, each under the next sequence, and keeps the last one to introduce us with."""

    def __init__(
        self,
        own: Own,
        boot: str,
        started_us: int,
        lease_us: int,
        entropy: Callable[[int], bytes],
        now: Now,
        rotate_every: float,
    ) -> None:
        self.own = own
        self.boot = boot
        self.started_us = started_us
        self.sequence = 0
        self.offers: tuple[Offer, ...] = ()
        self.withdrawn = False
        self.document = self.introduction = b""
        self.epochs = Epochs(own.mesh, own.node, entropy, now, rotate_every)
        self._lease_us = lease_us
        self._ends_us = 0

    def __repr__(self) -> str:
        return f"Herald({self.own.node}, boot={self.boot}, sequence={self.sequence}, offers={len(self.offers)})"

    def announce(self, offers: Sequence[Offer], now: Now, withdrawn: bool) -> Announcement:
        """Sign what we serve; raise ValueError, and go on as before, when it takes too many bytes."""
        epoch, previous, own = self.epochs.current, self.epochs.previous, self.own
        issued_us = now.boottime_us + epoch.offset_us
        said = Announcement(
            own.mesh,
            own.node,
            own.chain,
            self.boot,
            self.started_us,
            self.sequence + 1,
            issued_us,
            issued_us + self._lease_us,
            epoch.key.public,
            previous.key.public if previous else b"",
            tuple(offers),
            withdrawn,
            __version__,
        )
        self.document = encode_announcement(said, own.key)
        self.introduction = len(self.document).to_bytes(4, "big") + self.document
        self.sequence, self.offers, self.withdrawn = said.sequence, said.offers, withdrawn
        self._ends_us = now.boottime_us + self._lease_us
        return said

    def lapsed(self, now: Now) -> bool:
        """Tell whether the last announcement has expired, so that nobody should be shown it."""
        return now.boottime_us >= self._ends_us

    def refuse_clone(self, said: Announcement) -> None:
        """Raise Untrusted (CLONE) when our identity speaks from a process that is not this one, nor one before it."""
        ours = (said.boot, said.boot_started_us) == (self.boot, self.started_us)
        if said.sequence > self.sequence if ours else said.boot_started_us >= self.started_us:
            message = f"another process runs as node {said.node}, boot {said.boot}: revoke the node, and admit it anew"
            raise Untrusted(Reason.CLONE, message)
