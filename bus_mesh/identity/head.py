"""The head of a policy: the signed word which bundle is in force, and until when.

A document (`identity/document.py`) whose hint is the root's delegation of the policy signer. `term` is the version of
that delegation, never the signer's choice: a store restored from an old copy, which would number its bundles anew,
needs a new delegation, and its heads then go before all earlier ones. `node` is whom to ask for what the bundle lists:
the policy agent in office, and nobody else who repeats its heads. What a head means beside the one in force is
`policy/follow.py`'s affair.
"""

from typing import Final, NamedTuple

from bus_mesh.identity import document
from bus_mesh.identity.certificate import Role, verify_delegation
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.peers import SKEW_US
from bus_mesh.identity.refusal import Reason, Untrusted
from bus_mesh.protocol import names

__all__ = ["HASH_BYTES", "HEAD_LIMIT", "Head", "sign_head", "verify_head", "verify_kept_head"]

HEAD_LIMIT: Final = 4096
"""Bytes that a head with its delegation may take."""
HASH_BYTES: Final = 32
_TYPE: Final = "busmesh policy head 1"
_SHAPE: Final = (str, int, int, bytes, str, int, int)


class Head(NamedTuple):
    """Bundle `number` of `term` is in force; `manifest` is the SHA-256 of its list. Microseconds since 1970.

    `node` is the policy agent that says so, and hands the bundle out.
    """

    mesh: str
    term: int
    number: int
    manifest: bytes
    node: str
    issued_us: int
    expires_us: int


def sign_head(
    signer: NodeKey,
    delegation: bytes,
    *,
    mesh: str,
    term: int,
    number: int,
    manifest: bytes,
    node: str,
    issued_us: int,
    life_us: int,
) -> bytes:
    """Return a head signed by the policy signer that `delegation` of version `term` names.

    Raises ValueError for a number below 1, a hash that is not 32 bytes or a life that is not positive.
    """
    if number < 1 or len(manifest) != HASH_BYTES or life_us < 1:
        raise ValueError(f"no head: number {number}, {len(manifest)} bytes of hash, {life_us} µs to live")
    said = names.mesh_name(mesh), term, number, manifest, names.node_name(node)
    fields = (*said, issued_us, issued_us + life_us)
    return document.sign(_TYPE, fields, signer, delegation)


def verify_head(data: bytes, mesh: str, root: bytes, now_us: int) -> Head:
    """Return the head that `data` is, verified from the public key `root` down; `now_us` is the wall clock.

    Raises Untrusted: TOO_LARGE, MALFORMED, BAD_SIGNATURE, WRONG_MESH, WRONG_ROLE, WEAK_KEY, NOT_YET_VALID or EXPIRED
    (the delegation's, or the head's own), CLOCK_SKEW for one that is dated over a minute ahead.
    """
    head = _signed(data, mesh, root, now_us)
    if head.issued_us > now_us + SKEW_US:
        ahead = (head.issued_us - now_us) / 1e6
        raise Untrusted(Reason.CLOCK_SKEW, f"head {head.number} is dated {ahead:.0f}s ahead: compare the clocks")
    if now_us >= head.expires_us:
        over = (now_us - head.expires_us) / 1e6
        raise Untrusted(Reason.EXPIRED, f"head {head.number} expired {over:.0f}s ago: is the policy agent running?")
    return head


def verify_kept_head(data: bytes, mesh: str, root: bytes) -> Head:
    """Return a head that was in force once, as of when it was issued: for what an agent kept on its own disk.

    Raises Untrusted as `verify_head` does, save for what has ended since.
    """
    issued_us = document.claimed(document.read(data[:HEAD_LIMIT], _TYPE), len(_SHAPE))[5]
    if type(issued_us) is not int:
        raise Untrusted(Reason.MALFORMED, "wrong fields for a head")
    return _signed(data, mesh, root, issued_us)


def _signed(data: bytes, mesh: str, root: bytes, at_us: int) -> Head:
    """Return the head that `data` is, by a signer whose delegation held at `at_us`; its own times are not looked at."""
    if len(data) > HEAD_LIMIT:
        raise Untrusted(Reason.TOO_LARGE, f"a head of {len(data)} bytes, over {HEAD_LIMIT}")
    parts = document.read(data, _TYPE)
    signer = verify_delegation(parts.hint, mesh, root, at_us, Role.POLICY)
    fields = document.verified(parts, signer.key)
    if tuple(map(type, fields)) != _SHAPE:
        raise Untrusted(Reason.MALFORMED, "wrong fields for a head")
    head = Head._make(fields)
    if head.mesh != mesh:
        raise Untrusted(Reason.WRONG_MESH, f"a head of mesh {head.mesh!r}, not {mesh!r}")
    timeless = head.expires_us <= head.issued_us
    if head.number < 1 or len(head.manifest) != HASH_BYTES or timeless or not names.is_node(head.node):
        raise Untrusted(Reason.MALFORMED, f"head {head.number} names no bundle, no node or no time")
    if head.term != signer.term:
        raise Untrusted(Reason.WRONG_ROLE, f"a head of term {head.term} by the signer of term {signer.term}")
    return head
