"""What travels on the bus: a header, who it is for, perhaps who it is from, and what only they can read.

    header, 32 bytes, big-endian                                     then
    ┌────┬───────┬────┬─────┬─────┬─┬──────┬───────┬───────┐  ┌─────┬───────┬──────────────┬────────────┬───┐
    │'BM'│version│kind│suite│flags│n│sender│counter│sent_at│  │n ids│n wraps│introduction  │ ciphertext │tag│
    │ 2  │   1   │ 1  │  1  │  1  │2│  8   │   8   │   8   │  │ 8·n │ 48·n  │u32 ‖ document│            │16 │
    └────┴───────┴────┴─────┴─────┴─┴──────┴───────┴───────┘  └─────┴───────┴──────────────┴────────────┴───┘
                                                                     if n > 1  if flag 0

n = 1: the body is sealed under the pair key. n > 1: a fresh key seals the body once and is wrapped for each under its
pair key. A wrap is bound to SHA-256 of all that follows the wraps, not to the tag alone: a fellow recipient holds the
body's key, and could change a body and keep its tag. Ids and wraps stand apart, so what is authenticated is cut out in
two slices. The nonce is counter ‖ low half of sent_at; a pair key sees each counter once. The subject is authenticated
and not carried. Pure functions over bytes: which key to use is the keyring's affair.
"""

from collections.abc import Sequence
from enum import IntEnum
from hashlib import sha256
from struct import Struct
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bus_mesh.identity.keys import Cipher

__all__ = [
    "HEADER",
    "INTRODUCED",
    "MOST_FRAMES",
    "MOST_RECIPIENTS",
    "PREFIX",
    "SIGNED",
    "EnvelopeKind",
    "Header",
    "SignedPart",
    "body_offset",
    "introduction",
    "is_envelope",
    "open_sealed",
    "parse_header",
    "read_signed",
    "recipients",
    "seal_for_many",
    "seal_for_one",
    "signed_part",
]

PREFIX: Final = b"BM\x01"
HEADER: Final = Struct(">3sBBBH8sQQ")
INTRODUCED: Final = 1
"""Flag 0: the sender's announcement stands before the ciphertext."""
SIGNED: Final = 2
"""Flag 1: the plaintext starts with the sender's Ed25519 signature, 64 bytes."""
MOST_RECIPIENTS: Final = 64
MOST_FRAMES: Final = 128
_HEADER_BYTES: Final = HEADER.size
_SHORTEST: Final = _HEADER_BYTES + 8 + 16
_ID: Final = 8
_WRAP: Final = 48
_SIGNED_DOMAIN: Final = b"busmesh signed envelope 1"


class EnvelopeKind(IntEnum):
    """What the frames inside are; it must fit the subject."""

    CALLS = 1
    ANSWERS = 2
    EVENT = 3
    CONTROL = 4


class Header(NamedTuple):
    """The first 32 bytes, taken apart; `sent_at_us` is microseconds since 1970 by the sender's stepping-free clock."""

    prefix: bytes
    kind: int
    suite: int
    flags: int
    n: int
    sender: bytes
    counter: int
    sent_at_us: int


class SignedPart(NamedTuple):
    """What a signature of flag 1 covers, taken apart; `frames` are encoded, in a row."""

    header: Header
    subject: str
    frames: bytes


def is_envelope(data: bytes) -> bool:
    """Tell whether `data` begins like an envelope and is long enough to be one; it says nothing about who made it."""
    return data.startswith(PREFIX) and len(data) >= _SHORTEST


def parse_header(data: bytes) -> Header:
    """Return the header of an envelope (`is_envelope`), nothing of it verified."""
    return Header._make(HEADER.unpack_from(data))


def recipients(data: bytes, n: int) -> list[bytes]:
    """Return the key ids that an envelope names."""
    return [data[at : at + _ID] for at in range(_HEADER_BYTES, _HEADER_BYTES + _ID * n, _ID)]


def body_offset(data: bytes, n: int, flags: int) -> int:
    """Return where the ciphertext starts, or 0 when n or a length cannot be."""
    if not 0 < n <= MOST_RECIPIENTS or flags > INTRODUCED | SIGNED:
        return 0
    at = _HEADER_BYTES + _ID if n == 1 else _after_wraps(n)
    if flags & INTRODUCED:
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    return at if at + 16 <= len(data) else 0


def introduction(data: bytes, n: int, body: int) -> bytes:
    """Return the announcement that stands before the ciphertext at offset `body`."""
    return data[_after_wraps(n) + 4 : body]


def seal_for_one(head: bytes, intro: bytes, subject: bytes, plain: bytes, seal: Cipher) -> bytes:
    """Return the envelope of `head` (header ‖ id) sealed under a pair key; `intro` is b"" or u32 ‖ document."""
    top = head + intro
    return top + seal(_nonce(head), plain, b"body" + top + subject)


def seal_for_many(
    head: bytes, intro: bytes, subject: bytes, plain: bytes, seals: Sequence[Cipher], body_key: bytes
) -> bytes:
    """Return the envelope of `head` (header ‖ ids), its `body_key` wrapped by each of `seals` in the ids' order."""
    nonce = _nonce(head)
    rest = intro + AESGCM(body_key).encrypt(nonce, plain, b"body" + head + intro + subject)
    bound = b"wrap" + head + subject + sha256(rest).digest()
    return head + b"".join([seal(nonce, body_key, bound) for seal in seals]) + rest


def open_sealed(data: bytes, subject: bytes, n: int, place: int, body: int, opens: Cipher) -> bytes | None:
    """Return the plaintext for the recipient at `place` (from 0), or None when an authenticated bit is changed."""
    nonce = data[16:24] + data[28:32]
    try:
        if n == 1:
            return opens(nonce, data[body:], b"body" + data[:body] + subject)
        ids_end = _HEADER_BYTES + _ID * n
        head = data[:ids_end]
        wraps_end, wrap = ids_end + _WRAP * n, ids_end + _WRAP * place
        bound = b"wrap" + head + subject + sha256(data[wraps_end:]).digest()
        body_key = opens(nonce, data[wrap : wrap + _WRAP], bound)
        return AESGCM(body_key).decrypt(nonce, data[body:], b"body" + head + data[wraps_end:body] + subject)
    except InvalidTag:
        return None


def signed_part(head: bytes, subject: bytes, frames: bytes) -> bytes:
    """Return what the signature of flag 1 covers, and proves to third parties; `head` is header ‖ ids."""
    return _SIGNED_DOMAIN + head + len(subject).to_bytes(4, "big") + subject + frames


def read_signed(data: bytes) -> SignedPart | None:
    """Take apart what `signed_part` made, or return None for what it cannot have made; nothing of it is verified."""
    at = len(_SIGNED_DOMAIN)
    if not data.startswith(_SIGNED_DOMAIN) or len(data) < at + _HEADER_BYTES:
        return None
    header = parse_header(data[at:])
    at += _HEADER_BYTES + _ID * header.n
    start = at + 4
    stop = start + int.from_bytes(data[at:start], "big")
    known = header.prefix == PREFIX and 0 < header.n <= MOST_RECIPIENTS and header.flags & ~INTRODUCED == SIGNED
    if not known or stop > len(data) or not data[start:stop].isascii():
        return None
    return SignedPart(header, data[start:stop].decode(), data[stop:])


def _nonce(head: bytes) -> bytes:
    return head[16:24] + head[28:32]


def _after_wraps(n: int) -> int:
    return _HEADER_BYTES + _ID * n + (_WRAP * n if n > 1 else 0)
