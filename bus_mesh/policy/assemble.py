"""A bundle on its way to an agent: what is lacking, what has come, and whether all of it may be taken.

Pure. Everything is named by content hash, so it does not matter who sends it, in what order or how often.

    MANIFEST ──its text──▶ DOCUMENTS ──the last of them──▶ WHOLE ──`policy`──▶ a PolicySet, or why there is none

A bundle is taken whole or not at all: one document that this agent does not understand refuses all of it.
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

from bus_mesh.policy.bundle import PolicySet
from bus_mesh.policy.follow import InForce
from bus_mesh.policy.load import PolicyError, parse
from bus_mesh.policy.manifest import DOCUMENT_LIMIT, Manifest, ManifestError, hash_of
from bus_mesh.policy.models import REVOKED, PolicyDocument

__all__ = ["Assembly", "BundleRefused", "Documents"]

Documents: TypeAlias = dict[str, PolicyDocument]
"""Policy documents by content hash."""
_ANSWERED: Final = 5
"""Problems of a bundle that its refusal quotes."""


class BundleRefused(Exception):
    """This bundle cannot be put into force here; the message is what the policy agent is told."""


class Assembly:
    """The parts of one bundle. `held` are documents that are at hand already, by content hash."""

    __slots__ = ("_documents", "_held", "_manifest", "head")

    def __init__(self, head: InForce, held: Mapping[str, bytes]) -> None:
        self.head = head
        self._held = held
        self._manifest: Manifest | None = None
        self._documents: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"Assembly({self.head.term}.{self.head.number}, wants {len(self.wants())})"

    @property
    def manifest(self) -> Manifest | None:
        """The bundle's list of documents, None before it has come."""
        return self._manifest

    @property
    def whole(self) -> bool:
        """Whether nothing is lacking any more."""
        return self._manifest is not None and not self.wants()

    def wants(self) -> list[str]:
        """Return the content hashes to ask for next: the manifest's alone first, then those of its documents."""
        if self._manifest is None:
            return [self.head.manifest.hex()]
        first = self._manifest.hashes.get(REVOKED)
        # Who is out is fetched before all else: that holds whatever becomes of the rest.
        return sorted(self._manifest.missing([*self._documents, *self._held]), key=lambda hash: hash != first)

    @property
    def revocation(self) -> bytes | None:
        """The document that says who is out, as soon as it is at hand; None before, and where the bundle has none."""
        hash = "" if self._manifest is None else self._manifest.hashes.get(REVOKED, "")
        return self._documents.get(hash) or self._held.get(hash)

    def supply(self, data: bytes) -> bool:
        """Take in a part; False for bytes that this bundle does not consist of, which change nothing.

        Raises BundleRefused when they are its manifest, and that is none.
        """
        if len(data) > DOCUMENT_LIMIT and self._manifest is not None:
            return False
        hash = hash_of(data)
        if self._manifest is None:
            if hash != self.head.manifest.hex():
                return False
            try:
                self._manifest = Manifest.read(data)
            except ManifestError as error:
                raise BundleRefused(f"its manifest: {error}") from None
            return True
        if hash not in self._manifest.hashes.values():
            return False
        self._documents[hash] = data
        return True

    def documents(self) -> dict[str, bytes]:
        """Return the contents of a whole bundle, `kind/name` to bytes; LookupError when something is lacking."""
        if self._manifest is None:
            raise LookupError("the manifest has not come")
        known = {**self._held, **self._documents}
        return {name: known[hash] for name, hash in self._manifest.hashes.items()}

    def parts(self) -> dict[str, bytes]:
        """Return all that a whole bundle consists of, its manifest included, by content hash: what is kept of it."""
        assert self._manifest is not None
        contents = {self._manifest.hashes[name]: data for name, data in self.documents().items()}
        return {self.head.manifest.hex(): self._manifest.text, **contents}

    def policy(self, known: Documents) -> PolicySet:
        """Return a whole bundle as it is to be enforced; raise BundleRefused when any of it is not understood here.

        `known` are the documents read before, by content hash: what did not change is not read again.
        """
        found: Documents = {}
        problems: list[str] = []
        for name, data in self.documents().items():
            hash = hash_of(data)
            try:
                found[hash] = known[hash] if hash in known else self._read(name, data)
            except PolicyError as error:
                problems += map(str, error.problems)
        if not problems:
            try:
                policy = PolicySet.of(found.values(), self.head.number)
                known.clear()
                known.update(found)
                return policy
            except PolicyError as error:
                problems += map(str, error.problems)
        more = f"; and {len(problems) - _ANSWERED} more" if len(problems) > _ANSWERED else ""
        raise BundleRefused("; ".join(problems[:_ANSWERED]) + more)

    @staticmethod
    def _read(name: str, data: bytes) -> PolicyDocument:
        try:
            found = parse(data.decode(), name)
        except UnicodeDecodeError:
            raise BundleRefused(f"{name} is not UTF-8 text") from None
        if [f"{document.kind}/{document.name}" for document in found] != [name]:
            raise BundleRefused(f"{name} holds {len(found)} documents, and not just the one of that kind and name")
        return found[0]
