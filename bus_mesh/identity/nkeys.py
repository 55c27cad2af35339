"""The keys of NATS in their own spelling: Ed25519, written as text that says what the key is for.

    public   O…, A…, U…      base32(prefix ‖ 32 bytes ‖ CRC16), without padding
    seed     SO…, SA…, SU…   base32(seed and prefix, 2 bytes ‖ 32 bytes ‖ CRC16), without padding

The first letters come out of the prefix bits, so a seed can be told from a public key, and an account from a user, at a
glance. The check sum (XMODEM, little-endian) finds slips of the hand, not forgeries. nats-py would want another package
for this; Ed25519 is here already. Formats: nats-io/nkeys, `strkey.go`.
"""

import base64
import binascii
from collections.abc import Callable
from enum import Enum
from typing import Final

from bus_mesh.identity.keys import KEY_BYTES, NodeKey

__all__ = ["BadNkey", "Kind", "Nkey", "public_bytes"]

_SEED: Final = 18 << 3
_CHECK_BYTES: Final = 2


class BadNkey(ValueError):
    """Text that is no key of NATS; the message says what is wrong with it and never repeats it."""


class Kind(Enum):
    """What a key speaks for; the value is its prefix byte."""

    OPERATOR = 14 << 3
    ACCOUNT = 0
    USER = 20 << 3


class Nkey:
    """A private key of NATS."""

    __slots__ = ("_key", "kind", "public")

    def __init__(self, kind: Kind, raw: bytes) -> None:
        self.kind = kind
        self._key = NodeKey(raw)
        self.public = _encode(bytes((kind.value,)) + self._key.public)

    def __repr__(self) -> str:
        return f"Nkey({self.public})"

    @classmethod
    def generate(cls, kind: Kind, entropy: Callable[[int], bytes]) -> "Nkey":
        """Make a key from 32 bytes of `entropy` (`os.urandom` in service)."""
        return cls(kind, entropy(KEY_BYTES))

    @classmethod
    def from_seed(cls, text: str, kind: Kind) -> "Nkey":
        """Return the key of a seed; raise BadNkey for anything but a seed of this kind."""
        wanted = f"a seed of this kind starts with {_seed_start(kind)}"
        data = _decode(text.strip(), 2, "seed")
        if data[0] & 0xF8 != _SEED:
            raise BadNkey(f"this is no seed: {wanted}, and a public key cannot stand in for it")
        if (data[0] & 7) << 5 | data[1] >> 3 != kind.value or data[1] & 7:
            raise BadNkey(f"this is the seed of another kind of key: {wanted}")
        return cls(kind, data[2:])

    @property
    def seed(self) -> str:
        """The private key as text. Never into logs."""
        return _encode(_seed_prefix(self.kind) + self._key.raw)

    def sign(self, data: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._key.sign(data)


def public_bytes(text: str, kind: Kind) -> bytes:
    """Return the 32 bytes of a public key of this kind; raise BadNkey for anything else."""
    data = _decode(text, 1, "public key")
    if data[0] != kind.value:
        raise BadNkey(f"this is no public key of this kind: one starts with {_encode(bytes((kind.value, 0)))[0]}")
    return data[1:]


def _seed_prefix(kind: Kind) -> bytes:
    return bytes((_SEED | kind.value >> 5, (kind.value & 31) << 3))


def _seed_start(kind: Kind) -> str:
    return _encode(_seed_prefix(kind))[:2]


def _encode(data: bytes) -> str:
    check = binascii.crc_hqx(data, 0).to_bytes(_CHECK_BYTES, "little")
    return base64.b32encode(data + check).decode().rstrip("=")


def _decode(text: str, prefix: int, what: str) -> bytes:
    """Return prefix and key, once length, alphabet and check sum have held."""
    size = prefix + KEY_BYTES + _CHECK_BYTES
    length = -(-size * 8 // 5)
    if len(text) != length:
        raise BadNkey(f"a {what} of NATS has {length} characters, not {len(text)}: copy all of it")
    try:
        data = base64.b32decode(text + "=" * (-length % 8))
    except ValueError:
        raise BadNkey(f"a {what} of NATS is written in A-Z and 2-7 alone: copy it again") from None
    # The last character may hold bits that no byte needs; one spelling for one key.
    if _encode(data[:-_CHECK_BYTES]) != text:
        raise BadNkey(f"the check sum of this {what} does not fit: a character of it was changed, copy it again")
    return data[:-_CHECK_BYTES]
