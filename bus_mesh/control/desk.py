"""What the policy agent answers: requests in, answers out, and a store in between.

No bus, no clock and no loop; used by one thread. Who asks is known by then (the envelope proved the node), and what
changes anything must besides be a command that an operator signed for this very process. A change is checked whole, as
the agents will check it, before it gets a number.

    get history bundle acks                anybody of the mesh: policy is no secret in it
    stage ──▶ apply      rollback          operators who may `policy`
    token   revoke   revoke_operator       operators who may `admit`
    renew                                  a node, for itself; and `enrol`, who has a token

Who is out is a document of the bundle (`Revocation/revoked`) that only ever grows: `apply` does not change it, and
neither `prune` nor `rollback` takes it away. Documents are staged first, some at a time, because an envelope has a
limit and a bundle has none worth speaking of.
"""

from collections import OrderedDict
from collections.abc import Callable, Container, Mapping
from itertools import islice, takewhile
from typing import Any, Final, NamedTuple

import msgpack

from bus_mesh.control.admission import Admission, no_issuer
from bus_mesh.control.arguments import Arguments, counting, field, read
from bus_mesh.control.inspection import Inspection, PolicyRefused, warnings
from bus_mesh.control.store import Ack, Bundle, NoSuchBundle, Store, StoreError
from bus_mesh.identity.certificate import May, NodeCertificate
from bus_mesh.identity.command import Command, verify_command
from bus_mesh.identity.refusal import Untrusted
from bus_mesh.policy.load import parse_revocation
from bus_mesh.policy.manifest import DOCUMENT_LIMIT, MOST_DOCUMENTS, Manifest, hash_of
from bus_mesh.policy.models import REVOKED, Revocation
from bus_mesh.protocol import names
from bus_mesh.protocol.errors import (
    FailedPrecondition,
    InvalidArgument,
    NodeRevoked,
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

_ALWAYS: Final = frozenset((REVOKED,))
"""Documents that stay as they are, whatever else is taken away."""

Change = Callable[[Arguments, str, int], Any]


class BundleNotKept(NotFound, reason="NO_SUCH_BUNDLE"):
    """No bundle of that number is kept."""


class StoreFailed(FailedPrecondition, reason="STORE_FAILED"):
    """The policy agent cannot read or write its store."""


class ChangedMeanwhile(FailedPrecondition, reason="CHANGED_MEANWHILE"):
    """Another bundle is in force than the one that was to be replaced."""


class CommandRefused(PermissionDenied, reason="COMMAND_REFUSED"):
    """What changes policy is not signed by an operator who may, for this process, now."""


class Asked(NamedTuple):
    """Who asks, by which certificate, and when.

    `targets` are the ids of our epoch keys, one of which a command must name; `ages_us` says how long ago each node was
    heard of, `trouble` why nothing can be changed now ("" if it can).
    """

    node: str
    now_us: int
    targets: Container[bytes]
    certificate: NodeCertificate | None = None
    ages_us: Mapping[str, int] = {}
    trouble: str = ""


class Desk:
    """Answers for one store, as the policy agent on `node`.

    Raises MeshError for what cannot be answered; nothing was changed then.
    """

    def __init__(
        self,
        store: Store,
        mesh: str,
        root: bytes,
        node: str = "",
        admission: Admission | None = None,
        opened_us: int = 0,
    ) -> None:
        self._store = store
        self._mesh = mesh
        self._node = node
        self.admission = admission
        """Lets nodes in; None where the issuer's key is not held."""
        self._root = root
        self._opened_us = opened_us
        self.revoked = Revocation()
        """Who is out."""
        self.bundle: Bundle | None = None
        self._take(store.current())
        self.acks = {ack.node: ack for ack in store.acks() if opened_us - ack.at_us < FORGET_US}
        self._staged: OrderedDict[str, bytes] = OrderedDict()
        self._inspection = Inspection()
        self._answers: OrderedDict[str, bytes] = OrderedDict()
        self._reads: dict[str, Callable[[Arguments, Asked], Any]] = {
            "get": self._get,
            "history": self._history,
            "bundle": self._bundle,
            "acks": self._acks,
            "renew": self._renew,
        }
        self._changes: dict[str, tuple[May, Change]] = {
            "stage": (May.POLICY, self._stage),
            "apply": (May.POLICY, self._apply),
            "rollback": (May.POLICY, self._rollback),
            "token": (May.ADMIT, self._token),
            "revoke": (May.ADMIT, self._revoke),
            "revoke_operator": (May.ADMIT, self._revoke_operator),
        }

    def __repr__(self) -> str:
        return f"Desk({self._store}, staged={len(self._staged)})"

    def answer(self, verb: str, payload: bytes, asked: Asked) -> bytes:
        """Return the MessagePack answer to a request."""
        try:
            if asked.node in self.revoked.nodes:
                said = self._proof(verb, read(payload), asked)
            elif verb in self._reads:
                said = self._reads[verb](read(payload), asked)
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
        """Keep what agents said last, save of those who are out."""
        heard = {node: ack for node, ack in acks.items() if node not in self.revoked.nodes}
        self._store.acknowledge(*heard.values())
        self.acks.update(heard)

    def start_with(self, documents: Mapping[str, bytes], now_us: int) -> Bundle | None:
        """Make the first bundle of a store that has none, an empty one too; return it, or None where there is one.

        Without any, there would be no head, and nobody would know whom to give policy to.
        """
        if self.bundle is not None:
            return None
        self._inspection.documents(dict(documents))
        self._take(self._store.apply(documents, made_by="the first settings", made_us=now_us))
        return self.bundle

    def enrol(self, id: str, data: bytes, now_us: int) -> bytes:
        """Return the answer to who asks to be let in by the token of this id."""
        if self.admission is None:
            raise no_issuer("nobody is admitted")
        return self.admission.enrol(id, data, now_us, self.revoked)

    # Reading.

    def _renew(self, arguments: Arguments, asked: Asked) -> Arguments:
        if self.admission is None:
            raise no_issuer("no certificate is renewed")
        return self.admission.renew(arguments, asked.certificate, asked.now_us)

    def _proof(self, verb: str, arguments: Arguments, asked: Asked) -> Arguments:
        """Give who is out the documents that prove it, so that its agent ends by itself, and nothing else."""
        manifest = self.bundle.manifest if self.bundle is not None else Manifest({})
        proof = {manifest.hash.hex(), manifest.hashes.get(REVOKED)}
        shown = tuple(takewhile(proof.__contains__, field(arguments, "hashes", tuple) if verb == "get" else ()))
        if not shown:
            raise NodeRevoked(f"node {asked.node} is revoked: admit this machine under another name", ran=Ran.NO)
        return self._get({**arguments, "hashes": shown}, asked)

    def _get(self, arguments: Arguments, asked: Asked) -> Arguments:
        hashes, offset = field(arguments, "hashes", tuple), counting(arguments, "offset")
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
        found = self._store.history(min(counting(arguments, "most"), MOST_BUNDLES) + 1)
        # What the oldest changed is known only if it was the first of all: the one before it is not kept.
        first = [Manifest({}) if bundle.number == 1 else bundle.manifest for bundle in found[-1:]]
        befores = [*(bundle.manifest for bundle in found[1:]), *first]
        rows = [_told(bundle, before) for bundle, before in zip(found, befores, strict=True)]
        return rows[: counting(arguments, "most")]

    def _bundle(self, arguments: Arguments, asked: Asked) -> Arguments:
        number = counting(arguments, "number")
        bundle = self.bundle if number == 0 else self._store.bundle(number)
        if bundle is None:
            raise NotFound("no policy was ever applied: busmesh policy apply -f PATH", ran=Ran.NO)
        return {"number": bundle.number, "made_us": bundle.made_us, "hashes": dict(bundle.manifest.hashes)}

    def _acks(self, arguments: Arguments, asked: Asked) -> Arguments:
        number = self.bundle.number if self.bundle is not None else 0
        acks, rows = dict(self.acks), []
        for node in sorted({*acks, *asked.ages_us}.difference(self.revoked.nodes)):  # nobody waits for who is out
            ack = acks.get(node) or Ack(node, 0, "", 0, 0)
            age_us = asked.ages_us.get(node, max(0, asked.now_us - ack.at_us))
            live = asked.ages_us.get(node, LIVE_US) < LIVE_US
            rows.append({**ack._asdict(), "applied": ack.applied, "age_us": age_us, "live": live})
        revoked = {"nodes": self.revoked.nodes, "operators": self.revoked.operators}
        return {"number": number, "acks": rows, "revoked": revoked, "up_us": asked.now_us - self._opened_us}

    # Changing.

    def _commanded(self, verb: str, payload: bytes, asked: Asked) -> bytes:
        """Carry out what an operator signed, once, however often it comes."""
        signed = field(read(payload), "command", bytes)
        may, _ = self._changes[verb]
        try:
            operator, command = verify_command(signed, self._mesh, self._root, asked.now_us, asked.targets, may)
        except Untrusted as error:
            raise CommandRefused(f"{verb}: {error.message}", ran=Ran.NO) from None
        if asked.trouble:
            raise StoreFailed(f"nothing can be put into force: {asked.trouble}", ran=Ran.NO)
        if operator.name in self.revoked.operators:
            raise CommandRefused(f"{verb}: operator {operator.name} is revoked", ran=Ran.NO)
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
        _, change = self._changes[command.verb]
        return change(read(command.arguments), by, now_us)

    def _stage(self, arguments: Arguments, by: str, now_us: int) -> Arguments:
        documents = field(arguments, "documents", tuple)
        for data in documents:
            if type(data) is not bytes or len(data) > DOCUMENT_LIMIT:
                raise InvalidArgument(f"a document takes at most {DOCUMENT_LIMIT} bytes: split it", ran=Ran.NO)
            self._staged[hash_of(data)] = data
        while sum(map(len, self._staged.values())) > STAGED_LIMIT:
            self._staged.popitem(last=False)
        return {"hashes": [hash_of(data) for data in documents]}

    def _apply(self, arguments: Arguments, by: str, now_us: int) -> Arguments:
        wanted, prune, dry = (field(arguments, *what) for what in (("documents", dict), ("prune", bool), ("dry", bool)))
        documents = {name: self._content(name, hash) for name, hash in wanted.items()}
        before = self.bundle.manifest if self.bundle is not None else Manifest({})
        if before.hashes.get(REVOKED, "") != wanted.get(REVOKED, before.hashes.get(REVOKED, "")):
            text = f"{REVOKED} is changed by `busmesh node revoke` and `busmesh operator revoke` alone: leave it out"
            raise PolicyRefused(text, ran=Ran.NO)
        kept = {name: hash for name, hash in before.hashes.items() if not prune or name in _ALWAYS}
        manifest = Manifest({**kept, **Manifest.of(documents).hashes})
        if len(manifest) > MOST_DOCUMENTS:
            text = f"a bundle of {len(manifest)} documents, over the limit of {MOST_DOCUMENTS}"
            raise ResourceExhausted(text, ran=Ran.NO)
        texts = {name: documents.get(name) or self._document(hash) for name, hash in manifest.hashes.items()}
        told = warnings(self._inspection.documents(texts), now_us)
        number = self.bundle.number if self.bundle is not None else 0
        changed = manifest.changed(before)
        if not dry and changed:
            remove = frozenset(before.hashes) - frozenset(manifest.hashes)
            self._take(self._store.apply(documents, made_by=by, made_us=now_us, remove=remove))
        after = self.bundle.number if self.bundle is not None else 0
        for hash in wanted.values() if not dry else ():
            self._staged.pop(hash, None)
        return {"number": after, "before": number, "changed": changed, "warnings": told}

    def _rollback(self, arguments: Arguments, by: str, now_us: int) -> Arguments:
        number, expected, before = counting(arguments, "number"), counting(arguments, "expected"), self.bundle
        if before is None:
            raise NotFound("no policy was ever applied: there is nothing to go back to", ran=Ran.NO)
        if expected not in (0, before.number):
            text = f"bundle {before.number} is in force, and not {expected}: somebody changed policy meanwhile"
            raise ChangedMeanwhile(text, ran=Ran.NO)
        old = self._store.bundle(number or before.number - 1)
        # What was good under an older version may not be understood by this one.
        self._inspection.documents({name: self._document(hash) for name, hash in old.manifest.hashes.items()})
        made = self._store.rollback(old.number, made_by=by, made_us=now_us, keep=_ALWAYS)
        self._take(made)
        changed = made.manifest.changed(before.manifest)
        return {"number": made.number, "before": before.number, "changed": changed, "origin": old.number}

    def _token(self, arguments: Arguments, by: str, now_us: int) -> Arguments:
        if self.admission is None:
            raise no_issuer("no token is made")
        return self.admission.create(arguments, by, now_us, self.revoked)

    def _revoke(self, arguments: Arguments, by: str, now_us: int) -> Arguments:
        node = field(arguments, "node", str)
        if not names.is_node(node):
            raise InvalidArgument(f"{node!r:.80} is no name of a node", ran=Ran.NO)
        if node == self._node:
            text = f"{node} is the policy agent in office, and could tell nobody: let another one take over first"
            raise FailedPrecondition(text, ran=Ran.NO)
        said = self._expel(self.revoked.adding(nodes=(node,)), by, now_us)
        self.acks.pop(node, None)
        self._store.forget(node)
        return {**said, "users": self._store.users(node)}

    def _revoke_operator(self, arguments: Arguments, by: str, now_us: int) -> Arguments:
        name = field(arguments, "name", str)
        if not names.is_node(name):
            raise InvalidArgument(f"{name!r:.80} is no name of an operator", ran=Ran.NO)
        return self._expel(self.revoked.adding(operators=(name,)), by, now_us)

    def _expel(self, wanted: Revocation, by: str, now_us: int) -> Arguments:
        """Apply the document that says who is out; agents take it even where they refuse the rest."""
        before = self.bundle
        made = self._store.apply({REVOKED: wanted.text.encode()}, made_by=by, made_us=now_us)
        self._take(made)
        changed = made.manifest.changed(before.manifest if before is not None else Manifest({}))
        return {"number": made.number, "before": before.number if before is not None else 0, "changed": changed}

    def _take(self, bundle: Bundle | None) -> None:
        """Go on with a bundle that is in the store, and with who is out by it."""
        self.bundle = bundle
        hash = "" if bundle is None else bundle.manifest.hashes.get(REVOKED, "")
        if hash:
            said = parse_revocation(self._document(hash), REVOKED)
            self.revoked = self.revoked.adding(said.nodes, said.operators)

    def _content(self, name: object, hash: object) -> bytes:
        data = (self._staged.get(hash) or self._store.document(hash)) if type(hash) is str else None
        if data is None or type(name) is not str:
            raise NotFound(f"document {name!s:.80} was not staged, or too long ago: apply again", ran=Ran.NO)
        return data


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
