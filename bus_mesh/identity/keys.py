"""Keys, and what is derived from them. Nothing here reads a clock or makes its own randomness.

A **node key** (Ed25519) signs for as long as a node lives. An **epoch key** (X25519) is made at every boot and every
hour; two of them make a **pair key** per direction, so whoever holds one end's secret can forge only to itself.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bus_mesh.identity.refusal import Reason, Untrusted

__all__ = ["KEY_BYTES", "SUITE", "Cipher", "EpochKey", "NodeKey", "Pair", "key_id", "prefixed", "strong", "verifies"]

SUITE: Final = 1
"""X25519, HKDF-SHA256 and AES-256-GCM; the only suite so far."""
KEY_BYTES: Final = 32

Cipher = Callable[[bytes, bytes, bytes], bytes]
"""Encrypts or decrypts: (nonce of 12 bytes, data, associated data) to data."""


def _small_order(*points: str) -> frozenset[bytes]:
    return frozenset(map(bytes.fromhex, points))


_EDGES: Final = ("00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f", "ed" + "ff" * 30 + "7f", "ee" + "ff" * 30 + "7f")
# The y of every Ed25519 point whose order divides 8, in every spelling (libsodium, ge25519_has_small_order).
_SMALL_ED25519: Final = _small_order(
    *_EDGES,
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
)
# The same for X25519's u (RFC 7748 section 6.1): a shared secret with one of these is all zeros.
_SMALL_X25519: Final = _small_order(
    *_EDGES,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
)


def strong(key: bytes, *, signing: bool) -> bytes:
    """Return a public key (Ed25519 if `signing`, else X25519), or raise Untrusted for one of small order."""
    small = _SMALL_ED25519 if signing else _SMALL_X25519
    # The top bit is the sign of x in one curve and is ignored by the other.
    if len(key) != KEY_BYTES or key[:31] + bytes((key[31] & 0x7F,)) in small:
        raise Untrusted(Reason.WEAK_KEY, f"public key {key[:8].hex()}… is not 32 bytes of large order: make a new key")
    return key


def prefixed(*parts: bytes) -> bytes:
    """Return the parts in a row, each after its length as u32, so that no two rows read the same."""
    return b"".join([len(part).to_bytes(4, "big") + part for part in parts])


def key_id(mesh: str, node: str, public: bytes) -> bytes:
    """Return the 8 bytes that name an epoch key in envelopes; the same key under another node has another id."""
    return sha256(b"busmesh key id 1" + prefixed(mesh.encode(), node.encode(), public)).digest()[:8]


def verifies(public: bytes, signature: bytes, data: bytes) -> bool:
    """Tell whether `signature` over `data` was made by the Ed25519 key whose public half is `public`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


class NodeKey:
    """An Ed25519 private key: a node's, an issuer's, a signer's or the root's. Never leaves its machine."""

    __slots__ = ("_key", "public", "raw")

    def __init__(self, raw: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(raw)
        self.raw = raw
        self.public = self._key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"NodeKey(public={self.public.hex()[:16]}…)"

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes]) -> "NodeKey":
        """Make a key from 32 bytes of `entropy` (`os.urandom` in service)."""
        return cls(entropy(KEY_BYTES))

    @classmethod
    def from_bytes(cls, raw: bytes) -> "NodeKey":
        """Return the key whose `raw` 32 bytes were kept."""
        return cls(raw)

    def sign(self, data: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._key.sign(data)


class Pair(NamedTuple):
    """The two ciphers between one own epoch and one peer's: what we seal, and what we open."""

    seal: Cipher
    open: Cipher


class EpochKey:
    """An X25519 private key, short-lived and never written down."""

    __slots__ = ("_key", "public")

    def __init__(self, raw: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(raw)
        self.public = self._key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"EpochKey(public={self.public.hex()[:16]}…)"

    def pair(self, mesh: str, me: str, peer: str, peer_key: bytes) -> Pair:
        """Return the ciphers between node `me` and node `peer`; names, keys and direction are in what derives them."""
        secret = self._key.exchange(X25519PublicKey.from_public_bytes(peer_key))
        mine, theirs = (me.encode(), self.public), (peer.encode(), peer_key)
        return Pair(
            AESGCM(_pair_key(secret, mesh, *mine, *theirs)).encrypt,
            AESGCM(_pair_key(secret, mesh, *theirs, *mine)).decrypt,
        )


def _pair_key(
    secret: bytes, mesh: str, sender: bytes, sender_key: bytes, recipient: bytes, recipient_key: bytes
) -> bytes:
    parts = (bytes((SUITE,)), mesh.encode(), sender, sender_key, recipient, recipient_key)
    return HKDF(SHA256(), 32, salt=None, info=b"busmesh pair 1" + prefixed(*parts)).derive(secret)
