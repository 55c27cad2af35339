"""How a node asks for its next certificate: signed by the key that it wants certified, under the present one's serial.

A serial is good for one renewal. The same request again, byte for byte, is a lost answer; another one under the same
serial comes from somebody who holds a copy of this node's identity. Pure.
"""

from typing import Final, NamedTuple

import msgpack

from bus_mesh.identity import document
from bus_mesh.identity.keys import KEY_BYTES, NodeKey, strong
from bus_mesh.identity.refusal import Reason, Untrusted

__all__ = ["NONCE_BYTES", "RENEWAL_LIMIT", "Renewal", "pack_asked", "read_answered", "read_renewal", "sign_renewal"]

NONCE_BYTES: Final = 16
RENEWAL_LIMIT: Final = 4096
"""Bytes that a request may take."""
_TYPE: Final = "busmesh renewal 1"
_SHAPE: Final = (str, str, str, bytes, str, bytes)


class Renewal(NamedTuple):
    """`serial` is the present certificate's; `key` the one to certify; `user` a public key of the bus, or ""."""

    mesh: str
    node: str
    serial: str
    key: bytes
    user: str
    nonce: bytes


def sign_renewal(said: Renewal, key: NodeKey) -> bytes:
    """Return a request, signed by the key that it is for."""
    return document.sign(_TYPE, said, key)


def read_renewal(data: bytes) -> Renewal:
    """Return a request, whose key is its asker's; raise Untrusted (TOO_LARGE, MALFORMED, WEAK_KEY, BAD_SIGNATURE)."""
    if len(data) > RENEWAL_LIMIT:
        raise Untrusted(Reason.TOO_LARGE, f"a request of {len(data)} bytes, over {RENEWAL_LIMIT}")
    parts = document.read(data, _TYPE)
    fields = document.claimed(parts, len(_SHAPE))
    if tuple(map(type, fields)) != _SHAPE or parts.hint:
        raise Untrusted(Reason.MALFORMED, "wrong fields for a renewal")
    said = Renewal._make(fields)
    document.verified(parts, strong(said.key, signing=True))
    if len(said.nonce) != NONCE_BYTES or len(said.user) > 2 * KEY_BYTES:
        raise Untrusted(Reason.MALFORMED, "a nonce, or a key of the bus, of another length")
    return said


def pack_asked(request: bytes) -> bytes:
    """Return what the policy agent's `renew` is asked with."""
    packed: bytes = msgpack.packb({"request": request})
    return packed


def read_answered(data: bytes) -> tuple[bytes, str]:
    """Return what `renew` was answered: a chain, and a user's JWT for the bus or ""; raise Untrusted (MALFORMED)."""
    try:
        said = msgpack.unpackb(data, use_list=False, strict_map_key=True, max_ext_len=0)
        chain, user = said["chain"], said["user"]
    except Exception:  # msgpack raises a dozen unrelated classes
        chain = user = None
    if type(chain) is not bytes or type(user) is not str:
        raise Untrusted(Reason.MALFORMED, "the policy agent's answer holds no certificate")
    return chain, user
