"""How a machine that nobody knows becomes a node: a token, one request, one answer. All of it authenticated both ways.

    operator ──makes──▶ token ──by a safe way──▶ joiner
    joiner   ──request: signed by its new key, and with the token's secret──▶ policy agent
    joiner   ◀──answer: signed by the issuer, whom the token's root vouches for, and with the secret── policy agent

The **token** is one line: where the bus is and by which CA, the fingerprint of the root, a secret, and for a bus that
wants users one that may do nothing but ask. Whoever has it may become that node, once, while it is good.

The policy agent keeps `secret_key(…)` and not the secret. A request or an answer is a row of two: a document
(`identity/document.py`) and its HMAC-SHA256 under that key. A refusal has no HMAC, because it may be the secret that is
wrong; it is signed, and a joiner believes it of the issuer alone. Pure: times and entropy are handed in.
"""

import base64
import hmac
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgpack

from bus_mesh.identity import document
from bus_mesh.identity.certificate import Role, verify_chain, verify_delegation
from bus_mesh.identity.keys import KEY_BYTES, NodeKey, prefixed, strong
from bus_mesh.identity.refusal import Reason, Untrusted
from bus_mesh.protocol import names

__all__ = [
    "ANSWER_LIMIT",
    "NONCE_BYTES",
    "REQUEST_LIMIT",
    "SECRET_BYTES",
    "TOKEN_SECONDS",
    "Admitted",
    "Answer",
    "BadToken",
    "EnrolmentRefused",
    "Request",
    "Token",
    "fingerprint",
    "read_request",
    "secret_key",
    "sign_answer",
    "sign_request",
    "verify_answer",
]

TOKEN_SECONDS: Final = 600
"""How long a token is good for when nobody says."""
SECRET_BYTES: Final = 16
NONCE_BYTES: Final = 16
REQUEST_LIMIT: Final = 4096
"""Bytes that a request may take."""
ANSWER_LIMIT: Final = 64 * 1024
"""Bytes that an answer may take."""
_TOKEN_LIMIT: Final = 32 * 1024
_PREFIX: Final = "busmesh-join-1."
_CHECK_BYTES: Final = 4
_TOKEN_SHAPE: Final = (str, str, tuple, str, bool, bytes, str, bytes, int, str, str)
_REQUEST: Final = "busmesh enrolment request 1"
_REQUEST_SHAPE: Final = (str, str, str, bytes, str, bytes)
_ANSWER: Final = "busmesh enrolment answer 1"
_ANSWER_SHAPE: Final = (str, str, bytes, bytes, bytes, bytes, str, str, str)


class BadToken(ValueError):
    """Text that is no token; the message says what is wrong with it and never repeats it."""


class EnrolmentRefused(Exception):
    """The policy agent refused, by its own signed word; `reason` is a stable name."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class Token(NamedTuple):
    """What admits one node, once. `expires_us` is the policy agent's; it alone decides."""

    mesh: str
    node: str
    urls: tuple[str, ...]
    ca: str
    """The authorities of the bus as PEM text; empty: the system's, or a bus without TLS."""
    tls_first: bool
    root: bytes
    """The fingerprint of the root's public key."""
    id: str
    secret: bytes
    expires_us: int
    jwt: str
    """A user of the bus that may only ask to be let in; empty where the bus wants none, or one of one's own."""
    seed: str

    def __repr__(self) -> str:
        return f"Token({self.id}, {self.node} of {self.mesh})"

    def text(self) -> str:
        """Return the one line that is handed on. It holds a secret: never into logs."""
        body: bytes = msgpack.packb(tuple(self))
        return _PREFIX + base64.urlsafe_b64encode(body + _check(body)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Token":
        """Return the token that a line holds; raise BadToken for one that was cut, changed or is none."""
        text = text.strip()
        if not text.startswith(_PREFIX):
            raise BadToken(f"this is no token of this version: one starts with {_PREFIX}")
        spelled = text[len(_PREFIX) :]
        try:
            data = base64.b64decode(spelled + "=" * (-len(spelled) % 4), altchars=b"-_", validate=True)
        except ValueError:
            data = b""
        body = data[:-_CHECK_BYTES]
        # One spelling for one token: the last character may hold bits that no byte needs.
        if len(text) > _TOKEN_LIMIT or not hmac.compare_digest(_check(body), data[len(body) :]) or not body:
            raise BadToken("this token is not whole: a part of it was cut or changed on the way, copy all of it again")
        fields = _unpacked(body)
        if fields is None or tuple(map(type, fields)) != _TOKEN_SHAPE:
            raise BadToken("this token is whole, and says nothing that this version understands: upgrade the older end")
        found = cls._make(fields)
        named = names.is_node(found.mesh) and names.is_node(found.node) and names.is_token(found.id)
        urls = found.urls and all(type(url) is str for url in found.urls)
        if not (named and urls and len(found.secret) == SECRET_BYTES and found.text() == text):
            raise BadToken("this token is whole, and still makes no sense: have another one made")
        return found


class Request(NamedTuple):
    """What a joiner asks: to be `node`, with this public key, and with this public key of the bus (or "")."""

    mesh: str
    id: str
    node: str
    key: bytes
    user: str
    nonce: bytes


class Answer(NamedTuple):
    """What it is told: a chain, and a user's JWT for the bus (or ""); or the `reason` why not, and words."""

    mesh: str
    id: str
    request: bytes
    """SHA-256 of the request that this answers."""
    root: bytes
    delegation: bytes
    chain: bytes
    jwt: str
    reason: str
    message: str


class Admitted(NamedTuple):
    """What a joiner has become: its chain, the root above it, and its user's JWT (or "")."""

    chain: bytes
    root: bytes
    jwt: str


def fingerprint(root: bytes) -> bytes:
    """Return the 32 bytes by which a token pins a root."""
    return sha256(b"busmesh root 1" + prefixed(root)).digest()


def secret_key(id: str, secret: bytes) -> bytes:
    """Return what the policy agent keeps of a token's secret: the key of both ends' HMACs."""
    return sha256(b"busmesh token 1" + prefixed(id.encode(), secret)).digest()


def sign_request(request: Request, key: NodeKey, mac_key: bytes) -> bytes:
    """Return a request; the same for the same key and nonce."""
    signed = document.sign(_REQUEST, request, key)
    return document.pack_row((signed, _mac(mac_key, signed)))


def read_request(data: bytes, mac_key: bytes) -> Request:
    """Return what a joiner asks who holds the secret and the key that it names.

    Raises Untrusted: TOO_LARGE, MALFORMED, FORGED for another secret, WEAK_KEY or BAD_SIGNATURE.
    """
    if len(data) > REQUEST_LIMIT:
        raise Untrusted(Reason.TOO_LARGE, f"a request of {len(data)} bytes, over {REQUEST_LIMIT}")
    signed, mac = _two(data)
    if not hmac.compare_digest(mac, _mac(mac_key, signed)):
        raise Untrusted(Reason.FORGED, "not made with the secret of this token")
    parts = document.read(signed, _REQUEST)
    fields = document.claimed(parts, len(_REQUEST_SHAPE))
    _typed(fields, _REQUEST_SHAPE)
    request = Request._make(fields)
    document.verified(parts, strong(request.key, signing=True))
    if len(request.nonce) != NONCE_BYTES or len(request.user) > 2 * KEY_BYTES or parts.hint:
        raise Untrusted(Reason.MALFORMED, "a nonce, or a key of the bus, of another length")
    return request


def sign_answer(answer: Answer, issuer: NodeKey, mac_key: bytes | None) -> bytes:
    """Return an answer; `mac_key` is None for a refusal."""
    signed = document.sign(_ANSWER, answer, issuer)
    return document.pack_row((signed, b"" if mac_key is None else _mac(mac_key, signed)))


def verify_answer(data: bytes, token: Token, request: bytes, key: bytes, now_us: int) -> Admitted:
    """Return what the answer to `request` makes of who holds the public `key`; `now_us` is the wall clock.

    Raises EnrolmentRefused where the issuer says no, and Untrusted for what is not the issuer's word on this request:
    wait on, somebody else may have said it.
    """
    if len(data) > ANSWER_LIMIT:
        raise Untrusted(Reason.TOO_LARGE, f"an answer of {len(data)} bytes, over {ANSWER_LIMIT}")
    signed, mac = _two(data)
    parts = document.read(signed, _ANSWER)
    fields = document.claimed(parts, len(_ANSWER_SHAPE))
    _typed(fields, _ANSWER_SHAPE)
    answer = Answer._make(fields)
    if not hmac.compare_digest(fingerprint(answer.root), token.root) or parts.hint:
        raise Untrusted(Reason.BAD_SIGNATURE, "an answer of another root than the token's")
    issuer = verify_delegation(answer.delegation, token.mesh, answer.root, now_us, Role.ISSUER)
    document.verified(parts, issuer.key)
    if (answer.mesh, answer.id, answer.request) != (token.mesh, token.id, sha256(request).digest()):
        raise Untrusted(Reason.NOT_ITS_ANSWER, "an answer to another request")
    if answer.reason and not mac and not answer.chain:
        raise EnrolmentRefused(answer.reason, answer.message)
    if not hmac.compare_digest(mac, _mac(secret_key(token.id, token.secret), signed)):
        raise Untrusted(Reason.FORGED, "not made with the secret of this token")
    certificate = verify_chain(answer.chain, token.mesh, answer.root, now_us)
    if (certificate.node, certificate.key) != (token.node, key):
        raise Untrusted(Reason.WRONG_NODE, f"a certificate of node {certificate.node}, or of another key")
    return Admitted(answer.chain, answer.root, answer.jwt)


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")


def _two(data: bytes) -> tuple[bytes, bytes]:
    row = document.read_row(data, 2)
    if len(row) != 2:
        raise Untrusted(Reason.MALFORMED, "not a document and its HMAC")
    return row[0], row[1]


def _check(body: bytes) -> bytes:
    return sha256(b"busmesh check 1" + body).digest()[:_CHECK_BYTES]


def _unpacked(body: bytes) -> tuple[Any, ...] | None:
    try:
        fields = msgpack.unpackb(body, use_list=False, strict_map_key=True, max_ext_len=0)
    except Exception:  # msgpack raises a dozen unrelated classes
        return None
    return fields if type(fields) is tuple else None


def _typed(fields: tuple[Any, ...], shape: tuple[type, ...]) -> None:
    if tuple(map(type, fields)) != shape:
        raise Untrusted(Reason.MALFORMED, "wrong fields")
