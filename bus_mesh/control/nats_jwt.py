"""The tokens of NATS in operator mode: who says what about whom.

    operator ──its signing key──▶ account ──its signing key──▶ user
    (in the server's configuration)  (in its resolver)          (shown at every connection)

A token is a JWT whose algorithm is `ed25519-nkey`: the issuer is a public nkey, and the signature is by it. A user's
token holds all that the user may do, so admitting a node touches no server; what a user is no longer allowed stands in
the account's token, `revocations`: user → seconds since 1970 up to which its tokens are void.
Account signing keys are *unscoped*: a scoped one has a template of permissions, in which nats-server 2.15.1 silently
drops queue permissions. Formats: nats-io/jwt v2.

Pure: times (seconds since 1970) are handed in.
"""

import base64
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from bus_mesh.control.permissions import Permissions
from bus_mesh.identity.keys import verifies
from bus_mesh.identity.nkeys import BadNkey, Kind, Nkey, public_bytes

__all__ = [
    "UNLIMITED",
    "BadToken",
    "Limits",
    "account_of",
    "account_token",
    "decode",
    "operator_token",
    "revoked",
    "user_token",
]

EVERYONE: Final = "*"
"""Stands for all users in `revocations`."""
_VERSION: Final = 2
_NO_LIMIT: Final = -1
_HEADER: Final = {"typ": "JWT", "alg": "ed25519-nkey"}
_KINDS: Final = {"O": Kind.OPERATOR, "A": Kind.ACCOUNT}


class BadToken(ValueError):
    """A token that does not hold; the message says why."""


class Limits(NamedTuple):
    """What an account may use; -1 is no limit."""

    connections: int = _NO_LIMIT
    subscriptions: int = _NO_LIMIT
    payload: int = _NO_LIMIT
    """Bytes of one message, below what the server allows."""
    leaf_nodes: int = 0


UNLIMITED: Final = Limits()


def operator_token(
    operator: Nkey, *, name: str, issued_at: int, signing_keys: Iterable[str], system_account: str
) -> str:
    """Return the operator's word for itself: the keys that sign accounts for it, and the system's account."""
    said = {"signing_keys": sorted(signing_keys), "system_account": system_account}
    return _token(operator, operator.public, name, "operator", said, issued_at)


def account_token(
    issuer: Nkey,
    account: str,
    *,
    name: str,
    issued_at: int,
    signing_keys: Iterable[str] = (),
    limits: Limits = UNLIMITED,
    revocations: Mapping[str, int] | None = None,
) -> str:
    """Return the operator's word for an account. JetStream is none of its rights."""
    said = {
        "limits": {
            "subs": limits.subscriptions,
            "data": _NO_LIMIT,
            "payload": limits.payload,
            "imports": 0,
            "exports": 0,
            "wildcards": False,
            "disallow_bearer": True,
            "conn": limits.connections,
            "leaf": limits.leaf_nodes,
        },
        "signing_keys": sorted(signing_keys),
        "revocations": dict(sorted((revocations or {}).items())),
    }
    return _token(issuer, account, name, "account", said, issued_at)


def user_token(
    issuer: Nkey,
    user: str,
    *,
    name: str,
    issued_at: int,
    expires_at: int,
    permissions: Permissions,
    account: str | None = None,
) -> str:
    """Return an account's word for a user; `account` when the issuer is one of its signing keys."""
    public_bytes(user, Kind.USER)
    said: dict[str, Any] = {
        **_permitted(permissions),
        "subs": _NO_LIMIT,
        "data": _NO_LIMIT,
        "payload": _NO_LIMIT,
        # No websocket, no leaf node, no MQTT: agents are plain clients.
        "allowed_connection_types": ["STANDARD"],
    }
    if account is not None:
        said["issuer_account"] = account
    return _token(issuer, user, name, "user", said, issued_at, expires_at)


def decode(token: str, issuers: Collection[str]) -> dict[str, Any]:
    """Return the claims of a token that one of these public keys signed; raise BadToken for any other."""
    parts = token.split(".")
    if len(parts) != 3:
        raise BadToken(f"a token has three parts with dots between, not {len(parts)}")
    signed = f"{parts[0]}.{parts[1]}".encode()
    for issuer in issuers:
        try:
            key = public_bytes(issuer, _KINDS.get(issuer[:1], Kind.USER))
            signature = _unspelled(parts[2])
        except (BadNkey, ValueError) as error:
            raise BadToken(str(error)) from None
        if verifies(key, signature, signed):
            return _claims(parts[0], parts[1], issuer)
    raise BadToken("the token is not signed by who should have")


def account_of(token: str, signing_key: str) -> str:
    """Return the public key of the account that a token is about, and that `signing_key` signs users of.

    Raises BadToken. Not verified: it is our own file, and servers believe only what their operator signed.
    """
    try:
        claims = json.loads(_unspelled(token.strip().split(".")[1]))
        account, signing = str(claims["sub"]), claims["nats"]["signing_keys"]
        public_bytes(account, Kind.ACCOUNT)
    except (ValueError, LookupError, TypeError):
        raise BadToken("it is no token of an account") from None
    if signing_key not in signing:
        raise BadToken("the account of this token knows another signing key than the one beside it")
    return account


def revoked(token: str, issuer: Nkey, users: Iterable[str], now: int) -> str:
    """Return an account's token anew, in which every token that these users have until now is void.

    Its time of issue is later than that of the one before, also within a second: servers keep the newer of two.
    """
    claims = decode(token, {issuer.public})
    at = max(now, claims["iat"] + 1)
    for user in users:
        if user != EVERYONE:
            public_bytes(user, Kind.USER)
        claims["nats"]["revocations"][user] = at
    return _sealed(issuer, {**claims, "iat": at})


def _permitted(permissions: Permissions) -> dict[str, dict[str, list[str]]]:
    ways = {"pub": (permissions.publish, permissions.never_publish), "sub": (permissions.subscribe, ())}
    # To NATS an empty list of what is allowed is no list, and all is allowed.
    return {
        way: {"allow": list(allow), "deny": list(deny)} if allow else {"deny": [">"]}
        for way, (allow, deny) in ways.items()
    }


def _token(
    issuer: Nkey,
    subject: str,
    name: str,
    kind: str,
    said: Mapping[str, Any],
    issued_at: int,
    expires_at: int | None = None,
) -> str:
    claims = {
        "iat": issued_at,
        "name": name,
        "sub": subject,
        "nats": {**said, "type": kind, "version": _VERSION},
    }
    return _sealed(issuer, claims if expires_at is None else {**claims, "exp": expires_at})


def _sealed(issuer: Nkey, claims: Mapping[str, Any]) -> str:
    said = {**claims, "iss": issuer.public, "jti": ""}
    said["jti"] = base64.b32encode(hashlib.sha256(_json(said)).digest()).decode().rstrip("=")
    signed = f"{_spelled(_json(_HEADER))}.{_spelled(_json(said))}"
    return f"{signed}.{_spelled(issuer.sign(signed.encode()))}"


def _claims(header: str, body: str, issuer: str) -> dict[str, Any]:
    try:
        head, claims = json.loads(_unspelled(header)), json.loads(_unspelled(body))
    except ValueError:
        raise BadToken("the token is signed and still no JSON") from None
    if head != _HEADER or not isinstance(claims, dict) or claims.get("iss") != issuer:
        raise BadToken("the token names another algorithm, or another issuer than who signed it")
    return claims


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _spelled(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unspelled(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
