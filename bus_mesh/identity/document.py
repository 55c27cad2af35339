"""Signed documents: bytes that carry their own proof, and are verified before they are read.

A document is the MessagePack array `[type, body, hint, signature]`, the last three `bin`. The signature is over DSSE's
pre-authentication encoding of type and body (secure-systems-lab/dsse, protocol.md), so a document of one type is never
taken for another. `hint` is outside the signature: it says where to find the key (an announcement's holds its
certificate chain), and a wrong one only makes the document fail. Nothing but four lengths is interpreted before the
signature has held.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgpack

from bus_mesh.identity.keys import NodeKey, verifies
from bus_mesh.identity.refusal import Reason, Untrusted

__all__ = ["Document", "claimed", "pack_row", "pre_authentication", "read", "read_row", "sign", "verified"]

# The first byte of a MessagePack `bin`, and how many bytes its length then takes.
_LENGTH_BYTES: Final = {b"\xc4": 1, b"\xc5": 2, b"\xc6": 4}


class Document(NamedTuple):
    """The four parts of a document, none of them believed yet."""

    type: str
    body: bytes
    hint: bytes
    signature: bytes


def pre_authentication(type: str, body: bytes) -> bytes:
    """Return what is signed: DSSE v1's PAE of type and body."""
    kind = type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


def sign(type: str, fields: Sequence[Any], key: NodeKey, hint: bytes = b"") -> bytes:
    """Return a document of `type` that says `fields`, signed by `key`."""
    body: bytes = msgpack.packb(fields)
    packed: bytes = msgpack.packb((type, body, hint, key.sign(pre_authentication(type, body))))
    return packed


def read(data: bytes, type: str) -> Document:
    """Return the parts of a document that calls itself `type`; raise Untrusted (MALFORMED) for anything else."""
    head: bytes = b"\x94" + msgpack.packb(type)
    if not data.startswith(head):
        raise Untrusted(Reason.MALFORMED, f"not a document of type {type!r}")
    return Document(type, *_bins(data, len(head), 3))


def verified(document: Document, key: bytes) -> tuple[Any, ...]:
    """Return what the document says, once its signature by the public `key` has held; raise Untrusted otherwise."""
    if not verifies(key, document.signature, pre_authentication(document.type, document.body)):
        raise Untrusted(Reason.BAD_SIGNATURE, f"{document.type} is not signed by key {key.hex()[:16]}…")
    return _fields(document)


def claimed(document: Document, count: int) -> tuple[Any, ...]:
    """Return the `count` fields of a document that nothing is known of yet: to learn as of when to verify it."""
    fields = _fields(document)
    if len(fields) != count:
        raise Untrusted(Reason.MALFORMED, f"{len(fields)} fields in {document.type}, not {count}")
    return fields


def _fields(document: Document) -> tuple[Any, ...]:
    try:
        fields = msgpack.unpackb(document.body, use_list=False, strict_map_key=True, max_ext_len=0)
    except Exception as error:  # msgpack raises a dozen unrelated classes
        raise Untrusted(Reason.MALFORMED, f"body of {document.type}: {type(error).__name__}") from None
    if type(fields) is not tuple:
        raise Untrusted(Reason.MALFORMED, f"body of {document.type} is not an array")
    return fields


def pack_row(parts: Sequence[bytes]) -> bytes:
    """Return byte strings as one MessagePack array."""
    row: bytes = msgpack.packb(tuple(parts))
    return row


def read_row(data: bytes, most: int) -> list[bytes]:
    """Return 1 to `most` byte strings packed as an array; raise Untrusted (MALFORMED) for anything else."""
    count = data[0] - 0x90 if data else 0
    if not 0 < count <= most:
        raise Untrusted(Reason.MALFORMED, f"not a row of 1 to {most} byte strings")
    return _bins(data, 1, count)


def _bins(data: bytes, at: int, count: int) -> list[bytes]:
    # By hand, because an unpacker would build whatever nest of arrays a stranger put in place of the byte strings.
    found = []
    for _ in range(count):
        width = _LENGTH_BYTES.get(data[at : at + 1], 0)
        start = at + 1 + width
        stop = start + int.from_bytes(data[at + 1 : start], "big")
        if not width or stop > len(data):
            raise Untrusted(Reason.MALFORMED, f"no byte string at offset {at}")
        found.append(data[start:stop])
        at = stop
    if at != len(data):
        raise Untrusted(Reason.MALFORMED, f"{len(data) - at} bytes too many")
    return found
