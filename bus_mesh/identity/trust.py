"""Which announcements hold: each signature checked once, within a budget, and certificates against the time of now."""

from hashlib import sha256
from typing import Final

from bus_mesh.identity import certificate as certificates
from bus_mesh.identity.announcement import Announcement, decode_announcement, read_announcement
from bus_mesh.identity.budget import Budget, Remembered
from bus_mesh.identity.certificate import Delegation, NodeCertificate, Role
from bus_mesh.identity.document import Document
from bus_mesh.identity.refusal import Misfit, Reason, Untrusted

__all__ = ["Trust"]

_MOST_CHAINS: Final = 8192
_MOST_ISSUERS: Final = 16
# What will be as wrong the next time. The rest depends on the time, or on how much else there was to do.
_FOR_EVER: Final = frozenset(
    {Reason.MALFORMED, Reason.BAD_SIGNATURE, Reason.WEAK_KEY, Reason.WRONG_MESH, Reason.WRONG_ROLE, Reason.WRONG_NODE}
)


class Trust:
    """What the root of one mesh vouches for. Only chains that held are kept, so strangers cannot fill it."""

    def __init__(self, mesh: str, root: bytes) -> None:
        self._mesh = mesh
        self._root = root
        self._budget = Budget()
        self._refused = Remembered()
        self._issuers: dict[bytes, Delegation] = {}
        self._chains: dict[bytes, NodeCertificate] = {}

    def __repr__(self) -> str:
        return f"Trust(chains={len(self._chains)}, refused={len(self._refused)}, {self._budget})"

    def verify(
        self, data: bytes, digest: bytes, claimed: str | None, monotonic: float, wall_us: int
    ) -> tuple[Announcement, NodeCertificate]:
        """Return an announcement and the certificate of its node; raise Untrusted for one that does not hold.

        `digest` is SHA-256 of `data`; `claimed` the node that its subject names, where a broker vouches for that.
        """
        refused = self._refused.get(digest)
        if refused is not None:
            raise Untrusted(refused.reason, refused.message)
        try:
            said, held = self._verify(data, claimed, monotonic, wall_us)
        except Misfit as error:
            _refuse_other(error.node, claimed)  # whose word it is comes before whether it is still in force
            raise
        except Untrusted as error:
            if error.reason in _FOR_EVER:
                self._refused.keep(digest, error)
            raise
        _refuse_other(held.node, claimed)
        return said, held

    def _verify(
        self, data: bytes, claimed: str | None, monotonic: float, wall_us: int
    ) -> tuple[Announcement, NodeCertificate]:
        found = read_announcement(data)
        known = self._chains.get(sha256(found.hint).digest())
        self._budget.spend(_payer(known, claimed), vouched=known is not None and claimed is not None, now=monotonic)
        try:
            held = self._certificate(found.hint, wall_us)
        except certificates.OutOfForce as error:
            raise _misfit(error, found, wall_us) from None
        return decode_announcement(found, held), held

    def _certificate(self, chain: bytes, wall_us: int) -> NodeCertificate:
        digest = sha256(chain).digest()
        known = self._chains.get(digest)
        if known is not None and known.not_before_us <= wall_us < known.not_after_us:
            return known
        delegation, certificate = certificates.links(chain)
        found = certificates.verify_node(certificate, self._issuer(delegation, wall_us), wall_us)
        if len(self._chains) >= _MOST_CHAINS:
            del self._chains[next(iter(self._chains))]
        self._chains[digest] = found
        return found

    def _issuer(self, delegation: bytes, wall_us: int) -> Delegation:
        known = self._issuers.get(delegation)
        if known is not None and known.not_before_us <= wall_us < known.not_after_us:
            return known
        found = certificates.verify_delegation(delegation, self._mesh, self._root, wall_us, Role.ISSUER)
        if len(self._issuers) >= _MOST_ISSUERS:
            del self._issuers[next(iter(self._issuers))]
        self._issuers[delegation] = found
        return found


def _refuse_other(node: str, claimed: str | None) -> None:
    """Refuse a wrong subject: no fault of the bytes, and not remembered, for they may come by the right one too."""
    if claimed not in (None, node):
        raise Untrusted(Reason.WRONG_NODE, f"node {node} announces itself on the subject of {claimed}")


def _misfit(error: certificates.OutOfForce, found: Document, wall_us: int) -> Untrusted:
    """Return what to refuse an announcement with whose certificate is not in force: people hear of its node by it."""
    held = error.certificate
    if error.reason not in (Reason.EXPIRED, Reason.NOT_YET_VALID):
        return error
    said = decode_announcement(found, held)  # else anybody could say so with a copy of the chain
    by_us = wall_us - held.not_after_us if error.reason is Reason.EXPIRED else held.not_before_us - wall_us
    return Misfit(error.reason, f"node {said.node}: {error.message}", said.node, said.boot, by_us, said.mark)


def _payer(known: NodeCertificate | None, claimed: str | None) -> str | None:
    """Say on whose account a check goes.

    A beat on the node's own subject and an introduction inside an envelope are counted apart: anybody can attach a copy
    of another node's chain to rubbish, and it must not cost that node its beats.
    """
    if claimed is not None:
        return claimed
    return None if known is None else f"{known.node} introduced"
