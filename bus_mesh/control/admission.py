"""Who is let into the mesh, and for how long: tokens, the certificates they are exchanged for, and renewals.

    operator ──token──▶ kept, without its secret ──enrol──▶ certificate of 24 h ──renew, at half of it──▶ the next
                              └── spent once; ended; another node's ──▶ refused, and told why

The same request again gets the same answer, because an answer may be lost. Another request under a spent token, or
a spent serial, is made by a second holder of what only one may hold: an alarm, and refused.

Holds the issuer's key. Used by the desk's thread; times are handed in, and so is entropy.
"""

from collections.abc import Callable
from hashlib import sha256
from math import ceil
from typing import Any, Final, NamedTuple

import msgpack

from bus_mesh.control import permissions
from bus_mesh.control.arguments import Arguments, field
from bus_mesh.control.nats_authority import Users
from bus_mesh.control.store import RenewalRow, Store, TokenRow
from bus_mesh.identity.certificate import NodeCertificate, certify_node
from bus_mesh.identity.enrolment import (
    SECRET_BYTES,
    Answer,
    Request,
    Token,
    fingerprint,
    read_request,
    secret_key,
    sign_answer,
)
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.nkeys import BadNkey
from bus_mesh.identity.refusal import Untrusted
from bus_mesh.identity.renewal import read_renewal
from bus_mesh.policy.models import Revocation
from bus_mesh.protocol import names
from bus_mesh.protocol.errors import FailedPrecondition, InvalidArgument, MeshError, PermissionDenied, Ran
from bus_mesh.telemetry.log import Limited, get_logger

__all__ = ["LIFE_US", "Admission", "Issuer", "RenewalSpent", "Way"]

LIFE_US: Final = 24 * 3600 * 1_000_000
"""How long a certificate is good for; renewed at half of it."""
BACKDATED_US: Final = 60_000_000
"""Certificates start a minute ago: the clock of whoever reads one may be behind."""
LONGEST_TOKEN: Final = 3600.0
"""Seconds that a token may be good for."""
REMEMBERED_US: Final = 24 * 3600 * 1_000_000
"""How long after its end a token is still known: to say that it has ended, and that it was used."""


class RenewalRefused(PermissionDenied, reason="RENEWAL_REFUSED"):
    """This is no request to renew the certificate by which its sender is known."""


class RenewalSpent(PermissionDenied, reason="RENEWAL_SPENT"):
    """This certificate was renewed already, by another request: somebody holds a copy of the node's identity."""


class Issuer(NamedTuple):
    """The key that certifies nodes, and the root's delegation of it."""

    key: NodeKey
    delegation: bytes


class Way(NamedTuple):
    """How a joiner comes to the bus; `users` makes users of it, None where the bus wants none."""

    urls: tuple[str, ...]
    ca: str = ""
    tls_first: bool = True
    users: Users | None = None


class Admission:
    """Lets nodes in. `life_us` is how long their certificates live."""

    def __init__(
        self,
        store: Store,
        mesh: str,
        root: bytes,
        issuer: Issuer,
        way: Way,
        entropy: Callable[[int], bytes],
        life_us: int = LIFE_US,
    ) -> None:
        self.alarms = 0
        """Requests under a token, or a serial, that another request had spent."""
        self._store = store
        self._mesh = mesh
        self._root = root
        self._issuer = issuer
        self._way = way
        self._entropy = entropy
        self._life_us = life_us
        self._log = get_logger("admission")
        self._limited = Limited(self._log)

    def __repr__(self) -> str:
        return f"Admission({self._mesh}, users={self._way.users is not None}, alarms={self.alarms})"

    def create(self, arguments: Arguments, by: str, now_us: int, revoked: Revocation) -> Arguments:
        """Make a token for one node; raise MeshError."""
        node = names.node_name(field(arguments, "node", str))
        serve, call_as = (_services(field(arguments, what, tuple)) for what in ("serve", "call_as"))
        seconds, urls = float(field(arguments, "ttl", float)), field(arguments, "urls", tuple) or self._way.urls
        if not 0 < seconds <= LONGEST_TOKEN:
            raise InvalidArgument(f"a token is good for up to {LONGEST_TOKEN:g} s, not for {seconds:g} s", ran=Ran.NO)
        if not all(type(url) is str and url.startswith(("nats://", "tls://")) for url in urls):
            raise InvalidArgument("an address of the bus starts with nats:// or tls://", ran=Ran.NO)
        if node in revoked.nodes:
            raise FailedPrecondition(f"node {node} is revoked, and its name not used again: give another", ran=Ran.NO)
        id, secret, expires_us = self._entropy(8).hex(), self._entropy(SECRET_BYTES), now_us + int(seconds * 1e6)
        jwt, seed = self._joiner(id, now_us, ceil(seconds))
        root = fingerprint(self._root)
        way = tuple(urls), self._way.ca, self._way.tls_first
        token = Token(self._mesh, node, *way, root, id, secret, expires_us, jwt, seed)
        row = TokenRow(id, node, serve, call_as, secret_key(id, secret), expires_us, by)
        self._store.add_token(row, now_us - REMEMBERED_US)
        self._log.info("token made", id=id, admits=node, serve=serve, call_as=call_as, made_by=by)
        return {"token": token.text(), "id": id, "node": node, "expires_us": expires_us}

    def enrol(self, id: str, data: bytes, now_us: int, revoked: Revocation) -> bytes:
        """Return the answer to who asks to be let in by the token of this id; a refusal says why."""
        digest = sha256(data).digest()
        row = self._store.token(id)
        if row is None:
            return self._refused(id, digest, "UNKNOWN_TOKEN", "it was not made here, or ended over a day ago")
        try:
            request = read_request(data, row.secret_key)
        except Untrusted as error:
            self._limited.warning("a request with a token is not believed", id=id, why=str(error))
            return self._refused(id, digest, "BAD_REQUEST", f"{error.message}; copy the whole token again")
        if row.request == digest and row.answer is not None:
            return row.answer
        if row.request is not None:
            self._alarm("a token is used a second time", id=id, admits=row.node, then="was its line seen by another?")
            return self._refused(id, digest, "TOKEN_SPENT", f"it admitted {row.node} already, and is good for one")
        why = _objection(row, request, now_us, revoked)
        if why is not None:
            self._limited.warning("admission refused", id=id, admits=row.node, why=why[0])
            return self._refused(id, digest, *why)
        try:
            answer = self._admitted(row, request, digest, now_us)
        except (BadNkey, Untrusted) as error:
            return self._refused(id, digest, "BAD_REQUEST", str(error))
        self._store.spend(id, digest, answer)
        self._log.info("node admitted", admits=row.node, serve=row.serve, call_as=row.call_as, token_by=row.made_by)
        return answer

    def renew(self, arguments: Arguments, held: NodeCertificate | None, now_us: int) -> Arguments:
        """Return the next certificate of who is known by `held`; raise RenewalRefused, or RenewalSpent."""
        asked = field(arguments, "request", bytes)
        try:
            said = read_renewal(asked)
        except Untrusted as error:
            raise RenewalRefused(error.message, ran=Ran.NO) from None
        if held is None or (said.mesh, said.node, said.serial) != (held.mesh, held.node, held.serial):
            raise RenewalRefused("it names another certificate than the one that you are known by", ran=Ran.NO)
        digest, row = sha256(asked).digest(), self._store.renewal(said.serial)
        if row is None:
            answer = self._renewed(held, said.key, said.user, now_us)
            self._store.renewed(RenewalRow(said.serial, said.node, digest, answer, held.not_after_us), now_us)
        elif row.request == digest:
            answer = row.answer
        else:
            self._alarm("a node's identity is copied", copied=said.node, then=f"busmesh node revoke {said.node}")
            raise RenewalSpent(f"the certificate of {said.node} was renewed by another request already", ran=Ran.NO)
        told: Arguments = msgpack.unpackb(answer)
        return told

    # Inside.

    def _joiner(self, id: str, now_us: int, seconds: int) -> tuple[str, str]:
        if self._way.users is None:
            return "", ""
        allowed, now = permissions.joiner(self._mesh, id), now_us // 1_000_000
        user = self._way.users.user(f"joiner {id}", allowed, now=now, life=seconds, entropy=self._entropy)
        return user.jwt, user.key.seed

    def _admitted(self, row: TokenRow, request: Request, digest: bytes, now_us: int) -> bytes:
        chain = self._certified(row.node, request.key, row.serve, row.call_as, now_us)
        jwt = self._user(row.node, request.user, row.serve, row.call_as, now_us)
        told = Answer(self._mesh, row.id, digest, self._root, self._issuer.delegation, chain, jwt, "", "")
        return sign_answer(told, self._issuer.key, row.secret_key)

    def _refused(self, id: str, digest: bytes, reason: str, message: str) -> bytes:
        told = Answer(self._mesh, id, digest, self._root, self._issuer.delegation, b"", "", reason, message)
        return sign_answer(told, self._issuer.key, None)

    def _renewed(self, held: NodeCertificate, key: bytes, user: str, now_us: int) -> bytes:
        serve, call_as = sorted(held.serve), sorted(held.call_as)
        try:
            said = {
                "chain": self._certified(held.node, key, serve, call_as, now_us),
                "user": self._user(held.node, user, serve, call_as, now_us),
            }
        except BadNkey as error:
            raise RenewalRefused(str(error), ran=Ran.NO) from None
        self._log.info("certificate renewed", renewed=held.node)
        packed: bytes = msgpack.packb(said)
        return packed

    def _certified(self, node: str, key: bytes, serve: Any, call_as: Any, now_us: int) -> bytes:
        return certify_node(
            self._issuer.key,
            self._issuer.delegation,
            mesh=self._mesh,
            node=node,
            key=key,
            serve=serve,
            call_as=call_as,
            not_before_us=now_us - BACKDATED_US,
            not_after_us=now_us + self._life_us,
            serial=self._entropy(8).hex(),
        )

    def _user(self, node: str, user: str, serve: Any, call_as: Any, now_us: int) -> str:
        if self._way.users is None or not user:
            return ""
        allowed = permissions.node(self._mesh, node, serve, call_as)
        now, life = now_us // 1_000_000, ceil(self._life_us / 1e6)
        token = self._way.users.user_token(node, user, allowed, now=now, life=life)
        self._store.note_user(node, user)
        return token

    def _alarm(self, what: str, **about: object) -> None:
        self.alarms += 1
        self._limited.warning(f"ALARM: {what}", **about)


def _objection(row: TokenRow, request: Request, now_us: int, revoked: Revocation) -> tuple[str, str] | None:
    """Return the reason why a believed request is not granted, and words; None when it is."""
    if now_us >= row.expires_us:
        return "TOKEN_EXPIRED", f"it ended {(now_us - row.expires_us) / 1e6:.0f} s ago; have another one made"
    if request.node != row.node:
        return "WRONG_NODE", f"it admits {row.node}, and not {request.node}"
    if row.made_by in revoked.operators:
        return "OPERATOR_REVOKED", f"operator {row.made_by}, who had it made, is revoked; have another one made"
    if row.node in revoked.nodes:
        return "NODE_REVOKED", f"node {row.node} is revoked; have a token made for another name"
    return None


def _services(given: tuple[object, ...]) -> tuple[str, ...]:
    if not all(type(name) is str for name in given):
        raise InvalidArgument("services are named by text", ran=Ran.NO)
    return tuple(sorted({names.service_name(str(name)) for name in given}))


def no_issuer(what: str) -> MeshError:
    """Return the error of a policy agent that cannot admit anybody."""
    text = f"{what}: this policy agent does not hold the issuer's key; set `issuer:` in its policy.yaml"
    return FailedPrecondition(text, ran=Ran.NO)
