"""What the keyring gives back: what it believed, sealed and opened, and what was sealed for somebody else."""

from typing import Any, NamedTuple

from bus_mesh.identity.announcement import Announcement
from bus_mesh.identity.envelope import EnvelopeKind
from bus_mesh.identity.peers import Peer
from bus_mesh.identity.receipt import Proof
from bus_mesh.identity.refusal import IdentityError, Reason

__all__ = ["Accepted", "NotARecipient", "Opened", "Sealed"]


class Accepted(NamedTuple):
    """An announcement that held. `news` is False when it says nothing newer than what `peer` said before."""

    peer: Peer
    announcement: Announcement
    news: bool


class Sealed(NamedTuple):
    """An envelope as it goes on the bus, its counter, and what a signed one proves to third parties."""

    data: bytes
    counter: int
    proof: Proof | None


class Opened(NamedTuple):
    """An authentic envelope, opened for the first time. Only `Keyring.open` makes one.

    `frames` are what `protocol.frames.fit` makes frames of, if they are any. `late_us` is what it took beyond the
    fastest envelope of this sender; `skew_us` is our clock minus the sender's when that is over a minute, else 0;
    `introduced` is the sender's announcement when this envelope brought it as news; `proof` is None unless the sender
    signed the frames.
    """

    peer: Peer
    kind: EnvelopeKind
    counter: int
    late_us: int
    skew_us: int
    frames: list[Any]
    introduced: Announcement | None
    proof: Proof | None


class NotARecipient(IdentityError):
    """A known sender's envelope, sealed for others. Nothing of it is authentic: answer sparingly."""

    def __init__(self, peer: Peer, counter: int, introduced: Announcement | None) -> None:
        super().__init__(Reason.NOT_A_RECIPIENT, f"envelope {counter} of node {peer.node} is sealed for others")
        self.peer = peer
        self.counter = counter
        self.introduced = introduced
