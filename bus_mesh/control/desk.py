"""What the policy agent answers: requests in, answers out, and a store in between.

No bus, no clock and no loop; used by one thread. Who asks is known by then (the envelope proved the node), and what
changes anything must besides be a command that an operator signed for this very process. A change is checked whole, as
the agents will check it, before it gets a number.

    get history bundle acks                anybody of the mesh: policy is no secret in it
    stage ──▶ apply      rollback          operators who may `policy`

Documents are staged first, some at a time, because an envelope has a limit and a bundle has none worth speaking of.
"""

from collections import OrderedDict
from collections.abc import Callable, Container, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, NamedTuple

import msgpack

from bus_mesh.control.store import Ack, Bundle, NoSuchBundle, Store, StoreError
from bus_mesh.identity.certificate import May
from bus_mesh.identity.command import Command, verify_command
from bus_mesh.identity.refusal import Untrusted
from bus_mesh.policy.bundle import PolicySet
from bus_mesh.policy.check import check
from bus_mesh.policy.load import PolicyError, parse
from bus_mesh.policy.manifest import DOCUMENT_LIMIT, MOST_DOCUMENTS, Manifest, hash_of
from bus_mesh.policy.models import Mesh, Service
from bus_mesh.protocol.errors import (
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    NotFound,
    PermissionDenied,
    Ran,
    ResourceExhausted,
    Unimplemented,
)

__all__ = ["CHUNK", "Desk"]

CHUNK: Final = 256 * 1024
"""Bytes of documents in one answer."""
MOST_HASHES: Final = 256
"""Documents that one request may ask for."""
STAGED_LIMIT: Final = 32 * 1024 * 1024
"""Bytes of documents that wait for their `apply`; the oldest make room."""
MOST_BUNDLES: Final = 50
"""Bundles that one answer tells of."""
MOST_NAMES: Final = 20
"""Documents that are named of one bundle's changes in the history."""
LIVE_US: Final = 15_000_000
"""An agent that was heard of longer ago is gone, or cut off."""
FORGET_US: Final = 86_400_000_000
"""What was said longer ago is forgotten when a policy agent starts."""
_KEPT_ANSWERS: Final = 1024
_PROBLEMS: Final = 20

Arguments = dict[str, Any]


class BundleNotKept(NotFound, reason="NO_SUCH_BUNDLE"):
    """No bundle of that number is kept."""


class StoreFailed(FailedPrecondition, reason="STORE_FAILED"):
    """The policy agent cannot read or write its store."""


class ChangedMeanwhile(FailedPrecondition, reason="CHANGED_MEANWHILE"):
    """Another bundle is in force than the one that was to be replaced."""


class CommandRefused(PermissionDenied, reason="COMMAND_REFUSED"):
    """What changes policy is not signed by an operator who may, for this process, now."""


class PolicyRefused(InvalidArgument, reason="POLICY_REFUSED"):
    """These documents are wrong, or agents of this version cannot enforce them."""


class Asked(NamedTuple):
    """Who asks, and when: `targets` are the ids of our epoch keys, one of which a command must name.

    `ages_us` says how long ago each node was heard of, `trouble` why nothing can be changed now ("" if it can).
    """

    node: str
    now_us: int
    targets: Container[bytes]
    ages_us: Mapping[str, int] = {}
    trouble: str = ""


class Desk:
    """Answers for one store. Raises MeshError for what cannot be answered; nothing was changed then."""

    def __init__(self, store: Store, mesh: str, root: bytes, opened_us: int = 0) -> None:
        self._store = store
        self._mesh = mesh
        self._root = root
        self._opened_us = opened_us
        self.bundle = store.current()
        self.acks = {ack.node: ack for ack in store.acks() if opened_us - ack.at_us < FORGET_US}
        self._staged: OrderedDict[str, bytes] = OrderedDict()
        self._parsed: dict[str, Service | Mesh] = {}
        self._answers: OrderedDict[str, bytes] = OrderedDict()
        self._reads: dict[str, Callable[[Arguments, Asked], Any]] = {
            "get": self._get,
            "history": self._history,
            "bundle": self._bundle,
            "acks": self._acks,
        }
        self._changes: dict[str, Callable[[Arguments, str, int], Any]] = {
            "stage": self._stage,
            "apply": self._apply,
            "rollback": self._rollback,
        }

    def __repr__(self) -> str:
        return f"Desk({self._store}, staged={len(self._staged)})"

    def answer(self, verb: str, payload: bytes, asked: Asked) -> bytes:
        """Return the MessagePack answer to a request."""
        try:
            if verb in self._reads:
                said = self._reads[verb](_read(payload), asked)
            elif verb in self._changes:
                return self._commanded(verb, payload, asked)
            else:
                known = ", ".join([*self._reads, *self._changes])
                raise Unimplemented(f"the policy agent knows no {verb!r:.80}: it has {known}", ran=Ran.NO)
        except NoSuchBundle as error:
            raise BundleNotKept(str(error), ran=Ran.NO) from None
        except StoreError as error:
            raise StoreFailed(str(error), ran=Ran.NO) from None
        packed: bytes = msgpack.packb(said)
        return packed

    def acknowledge(self, acks: Mapping[str, Ack]) -> None:
        """Keep what agents said last."""
        self._store.acknowledge(*acks.values())
        self.acks.update(acks)

    def start_with(self, documents: Mapping[str, bytes], now_us: int) -> Bundle | None:
        """Make the first bundle of a store that has none, an empty one too; return it, or None where there is one.

        Without any, there would be no head, and nobody would know whom to give policy to.
        """
        if self.bundle is not None:
            return None
        self._checked(dict(documents))
        self.bundle = self._store.apply(documents, made_by="the first settings", made_us=now_us)
        return self.bundle

    # Reading.

    def _get(self, arguments: Arguments, asked: Asked) -> Arguments:
        hashes, offset = _field(arguments, "hashes", tuple), _number(arguments, "offset")
        if not 0 < len(hashes) <= MOST_HASHES or not all(type(hash) is str for hash in hashes):
            raise InvalidArgument(f"1 to {MOST_HASHES} hashes can be asked for at once", ran=Ran.NO)
        first = self._document(hashes[0])
        if len(first) > CHUNK:
            return {"size": len(first), "parts": [first[offset : offset + CHUNK]]}
        parts, room = [first], CHUNK - len(first)
        for hash in hashes[1:]:
            data = self._store.document(hash)
            if data is None or (room := room - len(data)) < 0:
                break
            parts.append(data)
        return {"size": len(first), "parts": parts}

    def _document(self, hash: str) -> bytes:
        data = self._store.document(hash)
        if data is None:
            raise NotFound(f"no document {hash[:12]}… is kept (any more): a newer head says what is", ran=Ran.NO)
        return data

    def _history(self, arguments: Arguments, asked: Asked) -> list[Arguments]:
        found = self._store.history(min(_number(arguments, "most"), MOST_BUNDLES) + 1)
        # What the oldest changed is known only if it was the first of all: the one before it is not kept.
        first = [Manifest({}) if bundle.number == 1 else bundle.manifest for bundle in found[-1:]]
        befores = [*(bundle.manifest for bundle in found[1:]), *first]
        rows = [_told(bundle, before) for bundle, before in zip(found, befores, strict=True)]
        return rows[: _number(arguments, "most")]

    def _bundle(self, arguments: Arguments, asked: Asked) -> Arguments:
        number = _number(arguments, "number")
        bundle = self.bundle if number == 0 else self._store.bundle(number)
        if bundle is None:
            raise NotFound("no policy was ever applied: busmesh policy apply -f PATH", ran=Ran.NO)
        return {"number": bundle.number, "made_us": bundle.made_us, "hashes": dict(bundle.manifest.hashes)}

    def _acks(self, arguments: Arguments, asked: Asked) -> Arguments:
        number = self.bundle.number if self.bundle is not None else 0
        acks, rows = dict(self.acks), []
        for node in sorted({*acks, *asked.ages_us}):
            ack = acks.get(node) or Ack(node, 0, "", 0, 0)
            age_us = asked.ages_us.get(node, max(0, asked.now_us - ack.at_us))
            live = asked.ages_us.get(node, LIVE_US) < LIVE_US
            rows.append({**ack._asdict(), "applied": ack.applied, "age_us": age_us, "live": live})
        return {"number": number, "acks": rows, "up_us": asked.now_us - self._opened_us}

    # Changing.

    def _commanded(self, verb: str, payload: bytes, asked: Asked) -> bytes:
        """Carry out what an operator signed, once, however often it comes."""
        signed = _field(_read(payload), "command", bytes)
        try:
            operator, command = verify_command(signed, self._mesh, self._root, asked.now_us, asked.targets, May.POLICY)
        except Untrusted as error:
            raise CommandRefused(f"{verb}: {error.message}", ran=Ran.NO) from None
        if asked.trouble:
            raise StoreFailed(f"nothing can be put into force: {asked.trouble}", ran=Ran.NO)
        if command.verb != verb:
            raise CommandRefused(f"a command to {command.verb!r:.80} does not {verb}", ran=Ran.NO)
        request = f"{operator.serial}/{command.request}"
        known = self._answers.get(request)
        if known is None:
            known = msgpack.packb(self._done(command, operator.name, asked.now_us))
            self._answers[request] = known
            if len(self._answers) > _KEPT_ANSWERS:
                self._answers.popitem(last=False)
        return known

    def _done(self, command: Command, by: str, now_us: int) -> Any:
        return self._changes[command.verb](_read(command.arguments), by, now_us)

    def _stage(self, arguments: Arguments, by: str, now_us: int) -> Arguments:
        documents = _field(arguments, "documents", tuple)
        for data in documents:
            if type(data) is not bytes or len(data) > DOCUMENT_LIMIT:
                raise InvalidArgument(f"a document takes at most {DOCUMENT_LIMIT} bytes: split it", ran=Ran.NO)
            self._staged[hash_of(data)] = data
        while sum(map(len, self._staged.values())) > STAGED_LIMIT:
            self._staged.popitem(last=False)
        return {"hashes": [hash_of(data) for data in documents]}

    def _apply(self, arguments: Arguments, by: str, now_us: int) -> Arguments:
        wanted, prune, dry = (
            _field(arguments, *what) for what in (("documents", dict), ("prune", bool), ("dry", bool))
        )
        documents = {name: self._content(name, hash) for name, hash in wanted.items()}
        before = self.bundle.manifest if self.bundle is not None else Manifest({})
        kept = {} if prune else dict(before.hashes)
        manifest = Manifest({**kept, **Manifest.of(documents).hashes})
        if len(manifest) > MOST_DOCUMENTS:
            text = f"a bundle of {len(manifest)} documents, over the limit of {MOST_DOCUMENTS}"
            raise ResourceExhausted(text, ran=Ran.NO)
        texts = {name: documents.get(name) or self._document(hash) for name, hash in manifest.hashes.items()}
        warnings = self._warnings(self._checked(texts), now_us)
        number = self.bundle.number if self.bundle is not None else 0
        changed = manifest.changed(before)
        if not dry and changed:
            remove = frozenset(before.hashes) - frozenset(manifest.hashes)
            self.bundle = self._store.apply(documents, made_by=by, made_us=now_us, remove=remove)
        after = self.bundle.number if self.bundle is not None else 0
        for hash in wanted.values() if not dry else ():
            self._staged.pop(hash, None)
        return {"number": after, "before": number, "changed": changed, "warnings": warnings}

    def _rollback(self, arguments: Arguments, by: str, now_us: int) -> Arguments:
        number, expected, before = _number(arguments, "number"), _number(arguments, "expected"), self.bundle
        if before is None:
            raise NotFound("no policy was ever applied: there is nothing to go back to", ran=Ran.NO)
        if expected not in (0, before.number):
            text = f"bundle {before.number} is in force, and not {expected}: somebody changed policy meanwhile"
            raise ChangedMeanwhile(text, ran=Ran.NO)
        old = self._store.bundle(number or before.number - 1)
        # What was good under an older version may not be understood by this one.
        self._checked({name: self._document(hash) for name, hash in old.manifest.hashes.items()})
        self.bundle = self._store.rollback(old.number, made_by=by, made_us=now_us)
        changed = old.manifest.changed(before.manifest)
        return {"number": self.bundle.number, "before": before.number, "changed": changed, "origin": old.number}

    def _content(self, name: object, hash: object) -> bytes:
        data = (self._staged.get(hash) or self._store.document(hash)) if type(hash) is str else None
        if data is None or type(name) is not str:
            raise NotFound(f"document {name!s:.80} was not staged, or too long ago: apply again", ran=Ran.NO)
        return data

    def _checked(self, texts: Mapping[str, bytes]) -> list[Service | Mesh]:
        """Return the documents of a bundle, read as an agent will read them; raise InvalidArgument saying why not."""
        parsed: dict[str, Service | Mesh] = {}
        problems: list[str] = []
        for name, data in texts.items():
            hash = hash_of(data)
            try:
                parsed[hash] = self._parsed.get(hash) or _document(name, data)
            except PolicyError as error:
                problems += map(str, error.problems)
        found = list(parsed.values())
        if not problems:
            try:
                PolicySet.of(found)
            except PolicyError as error:
                problems += map(str, error.problems)
        if problems:
            raise _refused(problems)
        self._parsed = parsed
        return found

    def _warnings(self, documents: list[Service | Mesh], now_us: int) -> list[str]:
        found = check(documents, datetime.fromtimestamp(now_us / 1e6, UTC))
        return [str(finding) for finding in found][:_PROBLEMS]


def _document(name: str, data: bytes) -> Service | Mesh:
    try:
        found = parse(data.decode(), name)
    except UnicodeDecodeError:
        raise InvalidArgument(f"{name} is not UTF-8 text", ran=Ran.NO) from None
    if [f"{document.kind}/{document.name}" for document in found] != [name]:
        text = f"{name} holds {len(found)} documents, and not just the one of that kind and name"
        raise InvalidArgument(text, ran=Ran.NO)
    return found[0]


def _refused(problems: list[str]) -> MeshError:
    more = f"\n… and {len(problems) - _PROBLEMS} more" if len(problems) > _PROBLEMS else ""
    return PolicyRefused("\n".join(problems[:_PROBLEMS]) + more, ran=Ran.NO)


def _told(bundle: Bundle, before: Manifest) -> Arguments:
    changed = bundle.manifest.changed(before)
    return {
        "number": bundle.number,
        "made_us": bundle.made_us,
        "made_by": bundle.made_by,
        "origin": bundle.origin,
        "documents": len(bundle.manifest),
        "changed": dict(islice(changed.items(), MOST_NAMES)),
        "changes": len(changed),
    }


def _read(payload: bytes) -> Arguments:
    try:
        said = msgpack.unpackb(payload, use_list=False, strict_map_key=True, max_ext_len=0)
    except Exception:  # msgpack raises a dozen unrelated classes
        said = None
    if type(said) is not dict:
        raise InvalidArgument("a request is a mapping in MessagePack", ran=Ran.NO)
    return said


def _field(arguments: Arguments, name: str, kind: type) -> Any:
    value = arguments.get(name)
    if type(value) is not kind:
        raise InvalidArgument(f"{name!r} must be of type {kind.__name__}", ran=Ran.NO)
    return value


def _number(arguments: Arguments, name: str) -> int:
    value = arguments.get(name)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise InvalidArgument(f"{name!r} must be a number, 0 or more", ran=Ran.NO)
    return value
