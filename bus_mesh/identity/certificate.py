"""What the root granted: to the issuer, the policy signer and the first operator directly, to nodes through the issuer.

    root ──delegates──▶ issuer ──certifies──▶ node        may serve …, may call as …
      │                    └─────certifies──▶ operator    may: policy | services | observe | admit
      ├────delegates──▶ policy signer
      └────delegates──▶ first operator (may everything)

A **chain** is the documents from below the root down, as one row of bytes: [delegation, certificate], or [delegation]
alone.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final, NamedTuple

from bus_mesh.identity import document
from bus_mesh.identity.keys import NodeKey, strong
from bus_mesh.identity.refusal import Reason, Untrusted
from bus_mesh.protocol import names

__all__ = [
    "CHAIN_LIMIT",
    "Delegation",
    "May",
    "NodeCertificate",
    "OperatorCertificate",
    "Role",
    "certify_node",
    "certify_operator",
    "delegate",
    "verify_chain",
    "verify_delegation",
    "verify_node",
    "verify_operator",
]

CHAIN_LIMIT: Final = 16 * 1024
"""Bytes that a chain may take."""
_DELEGATION: Final = "busmesh delegation 1"
_NODE: Final = "busmesh node 1"
_OPERATOR: Final = "busmesh operator 1"


class Role(StrEnum):
    """What a key that the root delegated to may do."""

    ISSUER = "issuer"
    POLICY = "policy"
    OPERATOR = "operator"


class May(StrEnum):
    """What an operator may do."""

    POLICY = "policy"
    SERVICES = "services"
    OBSERVE = "observe"
    ADMIT = "admit"


class Delegation(NamedTuple):
    """The root's word that `key` has `role`. `term` is its version: the policy signer's heads carry it."""

    mesh: str
    role: Role
    key: bytes
    term: int
    not_before_us: int
    not_after_us: int
    name: str


class NodeCertificate(NamedTuple):
    """What a node may do, and until when. From `verify_chain`, `not_after_us` is the earliest expiry in the chain."""

    mesh: str
    node: str
    key: bytes
    serve: frozenset[str]
    call_as: frozenset[str]
    not_before_us: int
    not_after_us: int
    serial: str


class OutOfForce(Untrusted):
    """A node certificate that its issuer signed, of another mesh or of another time."""

    def __init__(self, reason: Reason, message: str, certificate: NodeCertificate) -> None:
        super().__init__(reason, message)
        self.certificate = certificate


class OperatorCertificate(NamedTuple):
    """What a person may do, and until when; `not_after_us` is the earliest expiry in the chain."""

    mesh: str
    name: str
    key: bytes
    may: frozenset[May]
    not_before_us: int
    not_after_us: int
    serial: str


def delegate(
    root: NodeKey,
    mesh: str,
    role: Role,
    key: bytes,
    *,
    term: int,
    not_before_us: int,
    not_after_us: int,
    name: str = "",
) -> bytes:
    """Return the root's delegation of `role` to the public `key`; times in microseconds since 1970."""
    fields = (names.mesh_name(mesh), str(role), strong(key, signing=True), term, not_before_us, not_after_us, name)
    return document.sign(_DELEGATION, fields, root)


def certify_node(
    issuer: NodeKey,
    delegation: bytes,
    *,
    mesh: str,
    node: str,
    key: bytes,
    serve: Iterable[str],
    call_as: Iterable[str],
    not_before_us: int,
    not_after_us: int,
    serial: str,
) -> bytes:
    """Return the chain that certifies `node` with the public `key`; raises InvalidName, or Untrusted for a weak key."""
    services = [sorted(map(names.service_name, group)) for group in (serve, call_as)]
    fields = (names.mesh_name(mesh), names.node_name(node), strong(key, signing=True), *services)
    certificate = document.sign(_NODE, (*fields, not_before_us, not_after_us, serial), issuer)
    return document.pack_row((delegation, certificate))


def certify_operator(
    issuer: NodeKey,
    delegation: bytes,
    *,
    mesh: str,
    name: str,
    key: bytes,
    may: Iterable[May],
    not_before_us: int,
    not_after_us: int,
    serial: str,
) -> bytes:
    """Return the chain that certifies an operator with the public `key`."""
    fields = (names.mesh_name(mesh), names.node_name(name), strong(key, signing=True), sorted(map(str, may)))
    certificate = document.sign(_OPERATOR, (*fields, not_before_us, not_after_us, serial), issuer)
    return document.pack_row((delegation, certificate))


def verify_delegation(data: bytes, mesh: str, root: bytes, now_us: int, role: Role) -> Delegation:
    """Return the delegation of `role` that `root` signed, if it holds at `now_us` (wall clock), or raise Untrusted."""
    fields = document.verified(document.read(data, _DELEGATION), root)
    _typed(fields, _DELEGATION, (str, str, bytes, int, int, int, str))
    found = Delegation._make(fields)
    if found.role != role:
        raise Untrusted(Reason.WRONG_ROLE, f"delegated as {found.role!r} where {role.value!r} is needed")
    strong(found.key, signing=True)
    _in_force(found, mesh, now_us)
    return found._replace(role=role)


def verify_node(data: bytes, issuer: Delegation, now_us: int) -> NodeCertificate:
    """Return the node certificate signed by `issuer`, if it holds at `now_us`; raise Untrusted otherwise."""
    fields = document.verified(document.read(data, _NODE), issuer.key)
    _typed(fields, _NODE, (str, str, bytes, tuple, tuple, int, int, str))
    mesh, node, key, serve, call_as, not_before_us, not_after_us, serial = fields
    if not names.is_node(node) or not all(type(name) is str and names.is_service(name) for name in serve + call_as):
        raise Untrusted(Reason.MALFORMED, "a name in the certificate is not a name")
    until_us = min(not_after_us, issuer.not_after_us)
    grants = frozenset(serve), frozenset(call_as)
    found = NodeCertificate(mesh, node, strong(key, signing=True), *grants, not_before_us, until_us, serial)
    try:
        _in_force(found, issuer.mesh, now_us)
    except Untrusted as error:
        raise OutOfForce(error.reason, error.message, found) from None
    return found


def verify_chain(chain: bytes, mesh: str, root: bytes, now_us: int) -> NodeCertificate:
    """Return the node certificate at the end of `chain`, every link verified from the public key `root` down.

    Raises Untrusted: MALFORMED, BAD_SIGNATURE, WRONG_MESH, WRONG_ROLE, WEAK_KEY, NOT_YET_VALID or EXPIRED.
    """
    delegation, certificate = links(chain)
    return verify_node(certificate, verify_delegation(delegation, mesh, root, now_us, Role.ISSUER), now_us)


def verify_operator(chain: bytes, mesh: str, root: bytes, now_us: int) -> OperatorCertificate:
    """Return what an operator may, from a chain of the issuer's or from the root's own delegation (may everything)."""
    first, *rest = document.read_row(chain[: CHAIN_LIMIT + 1], 2)
    if not rest:
        root_made = verify_delegation(first, mesh, root, now_us, Role.OPERATOR)
        times = (root_made.not_before_us, root_made.not_after_us, f"term-{root_made.term}")
        return OperatorCertificate(mesh, root_made.name, root_made.key, frozenset(May), *times)
    issuer = verify_delegation(first, mesh, root, now_us, Role.ISSUER)
    fields = document.verified(document.read(rest[0], _OPERATOR), issuer.key)
    _typed(fields, _OPERATOR, (str, str, bytes, tuple, int, int, str))
    where, name, key, may, not_before_us, not_after_us, serial = fields
    known = frozenset(May(word) for word in may if word in May.__members__.values())
    until_us = min(not_after_us, issuer.not_after_us)
    found = OperatorCertificate(where, name, strong(key, signing=True), known, not_before_us, until_us, serial)
    _in_force(found, mesh, now_us)
    return found


def links(chain: bytes) -> tuple[bytes, bytes]:
    """Return (delegation, certificate) of a chain, neither of them verified; raise Untrusted (MALFORMED)."""
    found = document.read_row(chain[: CHAIN_LIMIT + 1], 2)
    if len(found) != 2 or len(chain) > CHAIN_LIMIT:
        raise Untrusted(Reason.MALFORMED, f"a chain is a delegation and a certificate in {CHAIN_LIMIT} bytes at most")
    return found[0], found[1]


def _typed(fields: tuple[Any, ...], what: str, types: tuple[type, ...]) -> None:
    if tuple(map(type, fields)) != types:
        raise Untrusted(Reason.MALFORMED, f"wrong fields for {what}")


def _in_force(found: Delegation | NodeCertificate | OperatorCertificate, mesh: str, now_us: int) -> None:
    """Raise Untrusted unless `found` is of this mesh and valid at `now_us`."""
    what = type(found).__name__
    if found.mesh != mesh:
        raise Untrusted(Reason.WRONG_MESH, f"{what} is of mesh {found.mesh!r}, not {mesh!r}")
    if now_us < found.not_before_us:
        late = (found.not_before_us - now_us) / 1e6
        raise Untrusted(Reason.NOT_YET_VALID, f"{what} begins in {late:.0f}s: compare the clocks of both machines")
    if now_us >= found.not_after_us:
        over = (now_us - found.not_after_us) / 1e6
        raise Untrusted(Reason.EXPIRED, f"{what} expired {over:.0f}s ago: renew it")
