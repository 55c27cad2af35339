"""What a bundle consists of: its documents by name and content hash, as one small text.

    busmesh manifest 1
    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 Mesh/mesh
    60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752 Service/orders

One line for each document, sorted by name, so that equal bundles have equal manifests. Pure: who changes one service
moves that document and this text, and nothing else.
"""

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Final

__all__ = ["DOCUMENT_LIMIT", "MANIFEST_LIMIT", "MOST_DOCUMENTS", "Manifest", "ManifestError", "hash_of"]

DOCUMENT_LIMIT: Final = 512 * 1024
"""Bytes that one document may take."""
MOST_DOCUMENTS: Final = 3_000
"""Documents of one bundle: with the longest names, what lists them all still fits one message of the bus."""
MANIFEST_LIMIT: Final = 512 * 1024
"""Bytes that the text may take; `MOST_DOCUMENTS` with the longest names fit."""
_FIRST: Final = "busmesh manifest 1"
_LINE: Final = re.compile(
    r"([0-9a-f]{64}) ([A-Z][A-Za-z]{0,30}/(?:[a-z][a-z0-9-]{0,62}|micro:[A-Za-z0-9_-]{1,64}))", re.ASCII
)


class ManifestError(ValueError):
    """This text is no manifest; the message says why and where."""


def hash_of(data: bytes) -> str:
    """Return the content hash by which documents are named and fetched: SHA-256 in hexadecimal."""
    return sha256(data).hexdigest()


class Manifest:
    """A bundle's documents, `kind/name` to content hash; immutable. Equal when they list the same."""

    __slots__ = ("hashes",)

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self.hashes: Mapping[str, str] = MappingProxyType(dict(sorted(hashes.items())))

    @classmethod
    def of(cls, documents: Mapping[str, bytes]) -> "Manifest":
        """Return the manifest of these documents, `kind/name` to content."""
        return cls({name: hash_of(data) for name, data in documents.items()})

    @classmethod
    def read(cls, data: bytes) -> "Manifest":
        """Return the manifest that `data` is, exactly as `text` writes it; raise ManifestError for anything else."""
        if len(data) > MANIFEST_LIMIT:
            raise ManifestError(f"a manifest of {len(data)} bytes, over {MANIFEST_LIMIT}")
        try:
            first, *lines = data.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise ManifestError(f"not ASCII at byte {error.start}") from None
        if first != _FIRST or not lines or lines.pop():
            raise ManifestError(f"does not start with {_FIRST!r}, or is cut")
        if len(lines) > MOST_DOCUMENTS:
            raise ManifestError(f"{len(lines)} documents, over {MOST_DOCUMENTS}")
        hashes: dict[str, str] = {}
        before = ""
        for number, line in enumerate(lines, 2):
            match = _LINE.fullmatch(line)
            if match is None or match[2] <= before:
                raise ManifestError(f"line {number} is not a hash and a name after {before or 'the first line'!r}")
            before = match[2]
            hashes[before] = match[1]
        return cls(hashes)

    @property
    def text(self) -> bytes:
        """The manifest as it is stored, fetched and hashed."""
        return "\n".join([_FIRST, *(f"{hash} {name}" for name, hash in self.hashes.items()), ""]).encode()

    @property
    def hash(self) -> bytes:
        """SHA-256 of the text, 32 bytes: what a head names."""
        return sha256(self.text).digest()

    def missing(self, held: Iterable[str]) -> list[str]:
        """Return the content hashes that are not among those held, each once, in the manifest's order."""
        known = set(held)
        return [hash for hash in dict.fromkeys(self.hashes.values()) if hash not in known]

    def changed(self, before: "Manifest") -> dict[str, str]:
        """Return what differs from `before`: `kind/name` to `added`, `changed` or `removed`, sorted by name."""
        now, old = self.hashes, before.hashes
        found = {name: "changed" if name in old else "added" for name in now if old.get(name) != now[name]}
        found |= {name: "removed" for name in old if name not in now}
        return dict(sorted(found.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self.hashes == other.hashes

    def __hash__(self) -> int:
        return hash(self.text)

    def __len__(self) -> int:
        return len(self.hashes)

    def __repr__(self) -> str:
        return f"Manifest({len(self)} documents, {self.hash.hex()[:12]}…)"
