"""What a node says of itself: which process it is, by which key it is reached, and what it serves.

One document and one signature per node, the same bytes on the subject of each of its services. The chain that certifies
the node travels as the document's hint, so the key can be found before anything is read; the signed body holds the
chain's SHA-256, so nobody can pair a node's word with an older certificate of it.
"""

from hashlib import sha256
from typing import Any, Final, NamedTuple

from bus_mesh.identity import document
from bus_mesh.identity.certificate import NodeCertificate
from bus_mesh.identity.keys import NodeKey, strong
from bus_mesh.identity.refusal import Reason, Untrusted
from bus_mesh.protocol import names
from bus_mesh.protocol.frames import MAX_TTL_MS, Method

__all__ = [
    "ANNOUNCEMENT_LIMIT",
    "MOST_LEASE_US",
    "Announcement",
    "Instance",
    "Offer",
    "decode_announcement",
    "encode_announcement",
    "read_announcement",
]

ANNOUNCEMENT_LIMIT: Final = 64 * 1024
"""Bytes that an announcement may take, its chain included: some 300 methods, or 700 instances with a label each."""
MOST_LEASE_US: Final = 60_000_000
"""The longest time that one announcement may speak for."""
_TYPE: Final = "busmesh announcement 1"
_FIELDS: Final = (str, str, bytes, str, int, int, int, int, bytes, bytes, tuple, bool, str)
_MOST_LABELS: Final = 32
_MOST_TEXT: Final = 128


class Instance(NamedTuple):
    """One process that serves. `id` is the node's name, a hyphen and a token; `load` counts its calls in flight.

    `state` is joining, up, full, unwell or leaving, or a word of a later version: whoever reads it does not take that
    for up.
    """

    id: str
    version: str
    labels: dict[str, str]
    state: str
    load: int


class Offer(NamedTuple):
    """A service with the instances that one node has of it, and its methods."""

    service: str
    instances: tuple[Instance, ...]
    methods: tuple[Method, ...]


class Announcement(NamedTuple):
    """A node's word about itself. Times are microseconds since 1970 by the node's own clock.

    `key` is the public epoch key, `previous` the one before it or b"", `version` that of the program. Only a higher
    (boot_started_us, sequence) replaces.
    """

    mesh: str
    node: str
    chain: bytes
    boot: str
    boot_started_us: int
    sequence: int
    issued_us: int
    expires_us: int
    key: bytes
    previous: bytes
    offers: tuple[Offer, ...]
    withdrawn: bool
    version: str

    @property
    def mark(self) -> tuple[int, int]:
        """What must grow: (boot_started_us, sequence)."""
        return self.boot_started_us, self.sequence


def encode_announcement(said: Announcement, key: NodeKey) -> bytes:
    """Return the signed document; raise ValueError when it is over the limit."""
    fields = (*said[:2], sha256(said.chain).digest(), *said[3:])
    data = document.sign(_TYPE, fields, key, hint=said.chain)
    if len(data) > ANNOUNCEMENT_LIMIT:
        raise ValueError(
            f"the announcement of node {said.node} takes {len(data)} bytes, over the limit of {ANNOUNCEMENT_LIMIT}: "
            f"serve fewer than its {len(said.offers)} services here, or fewer methods and labels"
        )
    return data


def read_announcement(data: bytes) -> document.Document:
    """Return the outer parts of an announcement, the hint being its chain; raise Untrusted (MALFORMED, TOO_LARGE)."""
    if len(data) > ANNOUNCEMENT_LIMIT:
        raise Untrusted(
            Reason.TOO_LARGE, f"an announcement of {len(data)} bytes, over the limit of {ANNOUNCEMENT_LIMIT}"
        )
    return document.read(data, _TYPE)


def decode_announcement(found: document.Document, certificate: NodeCertificate) -> Announcement:
    """Return what the node of `certificate` said, its signature verified first; raise Untrusted otherwise.

    Offers of services that the certificate does not grant are left out.
    """
    fields = document.verified(found, certificate.key)
    if tuple(map(type, fields)) != _FIELDS:
        raise _malformed("fields")
    mesh, node, chain_hash, boot, started, sequence, issued, expires, key, previous, offers, withdrawn, version = fields
    if chain_hash != sha256(found.hint).digest():
        raise Untrusted(Reason.BAD_SIGNATURE, "the announcement was made with another certificate than it came with")
    if mesh != certificate.mesh or node != certificate.node:
        raise Untrusted(Reason.WRONG_NODE, f"node {certificate.node} announces {node[:80]!r} of mesh {mesh[:80]!r}")
    if not names.is_token(boot) or not 0 < issued < expires <= issued + MOST_LEASE_US or sequence < 1:
        raise _malformed("boot, sequence or times")
    if len(version) > _MOST_TEXT or not version.isprintable():
        raise _malformed("version")
    strong(key, signing=False)
    if previous and strong(previous, signing=False) == key:
        raise _malformed("previous key")
    known = tuple(offer for offer in map(_offer, offers) if offer.service in certificate.serve)
    for instance in (instance for offer in known for instance in offer.instances):
        if instance.id.rpartition("-")[0] != node:  # else it could take the place of another node's in directories
            raise Untrusted(Reason.WRONG_NODE, f"node {node} announces an instance {instance.id[:80]!r}")
    return Announcement(
        mesh, node, found.hint, boot, started, sequence, issued, expires, key, previous, known, withdrawn, version
    )


def _offer(fields: Any) -> Offer:
    if type(fields) is not tuple or tuple(map(type, fields)) != (str, tuple, tuple) or not names.is_service(fields[0]):
        raise _malformed("offer")
    service, instances, methods = fields
    return Offer(service, tuple(map(_instance, instances)), tuple(map(_method, methods)))


def _instance(fields: Any) -> Instance:
    if type(fields) is not tuple or tuple(map(type, fields)) != (str, str, dict, str, int):
        raise _malformed("instance")
    found = Instance._make(fields)
    short = len(found.version) <= _MOST_TEXT and len(found.labels) <= _MOST_LABELS
    named = names.is_token(found.id) and names.is_token(found.state)
    if not named or not short or not 0 <= found.load < 1 << 32:
        raise _malformed("instance")
    if not all(type(text) is str and len(text) <= _MOST_TEXT for label in found.labels.items() for text in label):
        raise _malformed("labels")
    return found


def _method(fields: Any) -> Method:
    if type(fields) is not tuple or tuple(map(type, fields)) != (str, bool, int, str):
        raise _malformed("method")
    found = Method._make(fields)
    if not names.is_method(found.name) or not 0 <= found.timeout_ms <= MAX_TTL_MS or len(found.schema) > _MOST_TEXT:
        raise _malformed("method")
    return found


def _malformed(what: str) -> Untrusted:
    return Untrusted(Reason.MALFORMED, f"wrong {what} in an announcement")
