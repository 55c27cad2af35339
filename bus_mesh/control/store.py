"""The policy agent's memory: documents by content hash, bundles by number, acknowledgements, and who was let in.

SQLite with `synchronous=FULL`: what was answered has reached the disk, and a cut in the middle of a write leaves the
bundle before it. A bundle is never changed. Rolling back makes a new one with old content, because numbers only rise.
The last `KEPT_BUNDLES` stay, with all the documents that any of them lists.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self

from bus_mesh.policy.manifest import DOCUMENT_LIMIT, MOST_DOCUMENTS, Manifest, hash_of

__all__ = ["KEPT_BUNDLES", "Ack", "Bundle", "NoSuchBundle", "RenewalRow", "Store", "StoreError", "TokenRow"]

KEPT_BUNDLES: Final = 100
"""Bundles that can be fetched, shown and rolled back to."""
_BUSY_SECONDS: Final = 5.0
_POLICY: Final = """
CREATE TABLE document (hash TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE bundle (
    number INTEGER PRIMARY KEY, manifest TEXT NOT NULL REFERENCES document (hash), made_us INTEGER NOT NULL,
    made_by TEXT NOT NULL, origin INTEGER
) STRICT;
CREATE TABLE ack (
    node TEXT PRIMARY KEY, number INTEGER NOT NULL, reason TEXT NOT NULL, took_us INTEGER NOT NULL,
    at_us INTEGER NOT NULL
) STRICT;
"""
_ADMISSION: Final = """
CREATE TABLE token (
    id TEXT PRIMARY KEY, node TEXT NOT NULL, serve TEXT NOT NULL, call_as TEXT NOT NULL, secret_key BLOB NOT NULL,
    expires_us INTEGER NOT NULL, made_by TEXT NOT NULL, request BLOB, answer BLOB
) STRICT;
CREATE TABLE renewal (
    serial TEXT PRIMARY KEY, node TEXT NOT NULL, request BLOB NOT NULL, answer BLOB NOT NULL, until_us INTEGER NOT NULL
) STRICT;
CREATE TABLE bus_user (node TEXT NOT NULL, user TEXT NOT NULL, PRIMARY KEY (node, user)) STRICT;
"""
_STEPS: Final = (_POLICY, _ADMISSION)
"""What each version of the file has added to the one before."""


class StoreError(Exception):
    """The store cannot be read or written; the message says why and what to do. Nothing was changed."""


class NoSuchBundle(StoreError):
    """There is no bundle of that number, or no longer."""


class Bundle(NamedTuple):
    """A numbered set of documents. `origin` is the bundle that it rolls back to, if it does; times in µs since 1970."""

    number: int
    manifest: Manifest
    made_us: int
    made_by: str
    origin: int | None


class Ack(NamedTuple):
    """What an agent said last: applied bundle `number` in `took_us`, or refused it for `reason`."""

    node: str
    number: int
    reason: str
    took_us: int
    at_us: int

    @property
    def applied(self) -> bool:
        """Whether the agent has put the bundle into force."""
        return not self.reason


class TokenRow(NamedTuple):
    """What is kept of an admission token: never its secret. `request` and `answer` once it is spent."""

    id: str
    node: str
    serve: tuple[str, ...]
    call_as: tuple[str, ...]
    secret_key: bytes
    expires_us: int
    made_by: str
    request: bytes | None = None
    answer: bytes | None = None


class RenewalRow(NamedTuple):
    """The one request by which a certificate was renewed, and its answer; kept until that certificate ends."""

    serial: str
    node: str
    request: bytes
    answer: bytes
    until_us: int


class Store:
    """One SQLite file. Raises StoreError for whatever is wrong with it; used by one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._told():
            self._database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            self._open()
        except BaseException:
            self._database.close()
            raise

    def __repr__(self) -> str:
        return f"Store({self._path}, {self.number})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    @property
    def number(self) -> int:
        """The number of the newest bundle, 0 before the first."""
        with self._told():
            (number,) = self._database.execute("SELECT coalesce(max(number), 0) FROM bundle").fetchone()
            return int(number)

    def current(self) -> Bundle | None:
        """Return the newest bundle, None before the first."""
        return next(iter(self.history(1)), None)

    def history(self, most: int = KEPT_BUNDLES) -> list[Bundle]:
        """Return the newest bundles, the newest first."""
        return self._bundles("ORDER BY number DESC LIMIT ?", most)

    def bundle(self, number: int) -> Bundle:
        """Return one bundle; raise NoSuchBundle, which says what there is."""
        for found in self._bundles("WHERE number = ?", number):
            return found
        with self._told():
            first, last = self._database.execute("SELECT min(number), max(number) FROM bundle").fetchone()
        there = f"there are {first} to {last}" if first else "none was ever applied"
        raise NoSuchBundle(f"no bundle {number} is kept: {there}; see `busmesh policy history`")

    def document(self, hash: str) -> bytes | None:
        """Return the content that has this hash, None when it is not, or no longer, kept."""
        with self._told():
            row = self._database.execute("SELECT data FROM document WHERE hash = ?", (hash,)).fetchone()
        return None if row is None else bytes(row[0])

    def apply(
        self, documents: Mapping[str, bytes], *, made_by: str, made_us: int, remove: frozenset[str] = frozenset()
    ) -> Bundle:
        """Add or replace documents (`kind/name` to content), drop those named in `remove`, and return the new bundle.

        Returns the newest as it is when that would change nothing. Raises StoreError for a document or a bundle that is
        too large.
        """
        for name, data in documents.items():
            if len(data) > DOCUMENT_LIMIT:
                raise StoreError(f"{name} takes {len(data)} bytes, over the limit of {DOCUMENT_LIMIT}: split it")
        with self._writing():
            before = self.current()
            kept = {} if before is None else {n: h for n, h in before.manifest.hashes.items() if n not in remove}
            manifest = Manifest({**kept, **Manifest.of(documents).hashes})
            if before is not None and manifest == before.manifest:
                return before
            if len(manifest) > MOST_DOCUMENTS:
                raise StoreError(f"a bundle of {len(manifest)} documents, over the limit of {MOST_DOCUMENTS}")
            return self._add(manifest, documents.values(), made_by, made_us, None)

    def rollback(self, number: int, *, made_by: str, made_us: int, keep: frozenset[str] = frozenset()) -> Bundle:
        """Return a new bundle with the content of an old one, save for documents to `keep` as they are now.

        Raises NoSuchBundle.
        """
        with self._writing():
            old, now = self.bundle(number), self.current()
            kept = {} if now is None else {name: hash for name, hash in now.manifest.hashes.items() if name in keep}
            return self._add(Manifest({**old.manifest.hashes, **kept}), (), made_by, made_us, number)

    def acknowledge(self, *acks: Ack) -> None:
        """Keep what agents said last."""
        with self._writing():
            self._database.executemany("INSERT OR REPLACE INTO ack VALUES (?, ?, ?, ?, ?)", acks)

    def acks(self) -> list[Ack]:
        """Return what each agent said last, by node."""
        with self._told():
            return [Ack._make(row) for row in self._database.execute("SELECT * FROM ack ORDER BY node")]

    def forget(self, node: str) -> None:
        """Drop what a node said: it is no longer of the mesh."""
        with self._writing():
            self._database.execute("DELETE FROM ack WHERE node = ?", (node,))

    # Who was let in.

    def add_token(self, row: TokenRow, forget_before_us: int) -> None:
        """Keep a new token, and drop those that ended before `forget_before_us`."""
        with self._writing():
            self._database.execute("DELETE FROM token WHERE expires_us < ?", (forget_before_us,))
            granted = ",".join(row.serve), ",".join(row.call_as)
            told = (*row[:2], *granted, *row[4:])
            self._database.execute("INSERT INTO token VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", told)

    def token(self, id: str) -> TokenRow | None:
        """Return a token, None for one that was never made here, or ended long ago."""
        with self._told():
            row = self._database.execute("SELECT * FROM token WHERE id = ?", (id,)).fetchone()
        if row is None:
            return None
        found = TokenRow._make(row)
        serve, call_as = (tuple(filter(None, str(told).split(","))) for told in row[2:4])
        return found._replace(serve=serve, call_as=call_as)

    def spend(self, id: str, request: bytes, answer: bytes) -> None:
        """Note which request a token was used for, and what was answered."""
        with self._writing():
            self._database.execute("UPDATE token SET request = ?, answer = ? WHERE id = ?", (request, answer, id))

    def renewal(self, serial: str) -> RenewalRow | None:
        """Return how a certificate was renewed, None where it was not yet."""
        with self._told():
            row = self._database.execute("SELECT * FROM renewal WHERE serial = ?", (serial,)).fetchone()
        return None if row is None else RenewalRow._make(row)

    def renewed(self, row: RenewalRow, now_us: int) -> None:
        """Note how a certificate was renewed, and drop what is known of those that have ended."""
        with self._writing():
            self._database.execute("DELETE FROM renewal WHERE until_us < ?", (now_us,))
            self._database.execute("INSERT INTO renewal VALUES (?, ?, ?, ?, ?)", row)

    def note_user(self, node: str, user: str) -> None:
        """Keep the public key of a user of the bus before it is handed out: whoever may come in can be revoked."""
        with self._writing():
            self._database.execute("INSERT OR IGNORE INTO bus_user VALUES (?, ?)", (node, user))

    def users(self, node: str) -> list[str]:
        """Return the public keys of all users of the bus that a node was given here."""
        with self._told():
            found = self._database.execute("SELECT user FROM bus_user WHERE node = ? ORDER BY user", (node,))
            return [str(user) for (user,) in found]

    # Inside.

    def _bundles(self, which: str, value: int) -> list[Bundle]:
        asked = f"SELECT number, data, made_us, made_by, origin FROM bundle JOIN document ON hash = manifest {which}"
        with self._told():
            rows = self._database.execute(asked, (value,)).fetchall()
        return [Bundle(number, Manifest.read(text), *rest) for number, text, *rest in rows]

    def _open(self) -> None:
        with self._told():
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("PRAGMA foreign_keys = ON")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > len(_STEPS):
            raise StoreError(f"{self._path} is of version {version} and this bus-mesh knows {len(_STEPS)}: upgrade it")
        if version < len(_STEPS):
            with self._writing():
                for statement in "".join(_STEPS[version:]).split(";")[:-1]:
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version = {len(_STEPS)}")

    def _add(
        self, manifest: Manifest, contents: Iterable[bytes], made_by: str, made_us: int, origin: int | None
    ) -> Bundle:
        made = Bundle(self.number + 1, manifest, made_us, made_by, origin)
        texts = [manifest.text, *contents]
        self._database.executemany("INSERT OR IGNORE INTO document VALUES (?, ?)", [(hash_of(t), t) for t in texts])
        row = (made.number, hash_of(manifest.text), made_us, made_by, origin)
        self._database.execute("INSERT INTO bundle VALUES (?, ?, ?, ?, ?)", row)
        self._sweep(made.number - KEPT_BUNDLES)
        return made

    def _sweep(self, last: int) -> None:
        """Drop the bundles up to `last`, and the documents that no other lists."""
        if not self._database.execute("DELETE FROM bundle WHERE number <= ?", (last,)).rowcount:
            return
        texts = self._database.execute(
            "SELECT DISTINCT hash, data FROM bundle JOIN document ON hash = manifest"
        ).fetchall()
        listed = {hash for hash, _ in texts}
        for _, text in texts:
            listed.update(Manifest.read(text).hashes.values())
        held = {hash for (hash,) in self._database.execute("SELECT hash FROM document")}
        self._database.executemany("DELETE FROM document WHERE hash = ?", [(hash,) for hash in held - listed])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of the block or nothing of it."""
        with self._told():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what SQLite says into what to do about it."""
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            ways = {
                "SQLITE_FULL": "its disk is full: make room",
                "SQLITE_READONLY": "it is read-only: let the policy agent's user write the file and its directory",
                "SQLITE_CANTOPEN": "it cannot be opened: make its directory, and let the policy agent write there",
                "SQLITE_BUSY": "another process is writing to it: is a second policy agent running?",
                "SQLITE_CORRUPT": "it is damaged: restore a copy, under a new delegation of the policy signer",
                "SQLITE_NOTADB": "it is no store: name another file, or remove this one",
            }
            way = next((way for start, way in ways.items() if name.startswith(start)), str(error))
            raise StoreError(f"the policy store {self._path}: {way}") from error
