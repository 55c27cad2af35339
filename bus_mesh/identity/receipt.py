"""Call receipts: proof for anybody who holds the root's public key of who asked what, and who answered what.

A signed envelope leaves a **proof**: the bytes that its signature covers (header ‖ ids ‖ subject ‖ frames), the
signature, and the chain that certifies the signer. A **receipt** is the proof of a request with the proof of its
answer. One signature serves all frames of an envelope, so one record holds the receipts of all calls that were asked in
one envelope and answered in one.

An answer's head holds the SHA-256 of the request's signed bytes, so the answerer has signed what it answers: a call id
alone would let whoever keeps receipts put the answer to one process's call 7 beside the request of another's.

Certificates end and receipts are kept, so chains are verified as of the moment that the signed header names: by the
signer's own clock, which the other end believed to within a minute when it took the envelope.
"""

from collections.abc import Collection
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgpack

from bus_mesh.identity.certificate import NodeCertificate, verify_chain
from bus_mesh.identity.envelope import MOST_FRAMES, EnvelopeKind, SignedPart, read_signed
from bus_mesh.identity.keys import NodeKey, verifies
from bus_mesh.identity.refusal import Reason, Untrusted
from bus_mesh.protocol.bunches import read_bunches
from bus_mesh.protocol.errors import Code, MeshError
from bus_mesh.protocol.frames import Fields, FrameError, Kind, fit
from bus_mesh.protocol.subjects import Subjects

__all__ = ["REQUEST", "Failed", "Proof", "Receipt", "encode_receipt", "verify_receipt"]

REQUEST: Final = "request"
"""The key in an answer's head under which the SHA-256 of the request's signed bytes stands."""
_VERSION: Final = 1
_MOST_BYTES: Final = 64 * 1024 * 1024
_SHAPE: Final = (int, tuple, tuple, tuple)
_BYTES: Final = (bytes, bytes, bytes)
_CODES: Final = {int(code): code.name for code in Code if code is not Code.OK}


class Proof(NamedTuple):
    """What one node has signed. `chain` certifies its key; `digest` is SHA-256 of `signed`."""

    signed: bytes
    signature: bytes
    chain: bytes
    digest: bytes

    @classmethod
    def of(cls, signed: bytes, signature: bytes, chain: bytes) -> "Proof":
        """Return the proof of a signature that has held."""
        return cls(signed, signature, chain, sha256(signed).digest())

    @classmethod
    def make(cls, signed: bytes, key: NodeKey, chain: bytes) -> "Proof":
        """Sign."""
        return cls.of(signed, key.sign(signed), chain)

    def __repr__(self) -> str:
        return f"Proof({self.digest.hex()[:16]}…, {len(self.signed)} bytes)"


class Failed(NamedTuple):
    """How a call ended that did not succeed, in the answerer's words."""

    code: str
    reason: str
    message: str


class Receipt(NamedTuple):
    """One call and its answer, both proven. Times are microseconds since 1970 by the clock of who signed then.

    `answer` is the result's bytes, b"" for a failure; `failed` is None for a success.
    """

    mesh: str
    asked_us: int
    node: str
    caller: str
    service: str
    method: str
    request: bytes
    answered_us: int
    answered_by: str
    answer: bytes
    failed: Failed | None


class _Said(NamedTuple):
    """What a proof proves: who said it, when, where to, and the frames that were asked for, by their id."""

    by: NodeCertificate
    part: SignedPart
    subjects: Subjects
    frames: dict[int, Fields]


def encode_receipt(ids: Collection[int], request: Proof, answer: Proof) -> bytes:
    """Return the record of the calls `ids`, all asked in one envelope and answered in one."""
    record: bytes = msgpack.packb((_VERSION, tuple(ids), request[:3], answer[:3]))
    return record


def verify_receipt(record: bytes, root: bytes) -> list[Receipt]:
    """Return the receipts in a record, all proven by the public key `root` alone; raise Untrusted when one is not.

    Proven is: both signatures and chains hold as of the moment of signing; the request is a call whose caller its node
    may speak for; the answer is to this request, went to the node that asked, and comes from one that may serve it.
    What else an envelope held, the other calls of that turn, is covered by the signature and not looked at.
    """
    ids, request, answer = _decode(record)
    asked = _said("the request", request, root, EnvelopeKind.CALLS, ids)
    answered = _said("the answer", answer, root, EnvelopeKind.ANSWERS, ids)
    mesh = asked.by.mesh
    if answered.by.mesh != mesh:
        raise Untrusted(Reason.WRONG_MESH, f"asked in mesh {mesh}, and answered in {answered.by.mesh}")
    inbox = asked.subjects.parse_inbox(answered.part.subject)
    if inbox is None or inbox[0] != asked.by.node:
        raise Untrusted(Reason.NOT_ITS_ANSWER, f"the answer went to {answered.part.subject!r:.200}, not to who asked")
    return [_receipt(number, request.digest, asked, answered) for number in ids]


def _decode(record: bytes) -> tuple[tuple[int, ...], Proof, Proof]:
    if len(record) > _MOST_BYTES:
        raise Untrusted(Reason.TOO_LARGE, f"a record of {len(record)} bytes, over the limit of {_MOST_BYTES}")
    try:
        fields: Any = msgpack.unpackb(
            record, use_list=False, max_array_len=MOST_FRAMES, max_map_len=0, max_str_len=0, max_ext_len=0
        )
    except Exception as error:  # msgpack raises a dozen unrelated classes
        raise _malformed(type(error).__name__) from None
    if type(fields) is not tuple or tuple(map(type, fields)) != _SHAPE or fields[0] != _VERSION:
        raise _malformed("fields or version")
    _, ids, request, answer = fields
    if not ids or set(map(type, ids)) != {int} or len(set(ids)) != len(ids):
        raise _malformed("call ids")
    if tuple(map(type, request)) != _BYTES or tuple(map(type, answer)) != _BYTES:
        raise _malformed("proofs")
    return ids, Proof.of(*request), Proof.of(*answer)


def _said(what: str, proof: Proof, root: bytes, kind: EnvelopeKind, ids: Collection[int]) -> _Said:
    """Return what a proof proves, once it has held: nothing but fixed places in it is read before that."""
    part = read_signed(proof.signed)
    if part is None or part.header.kind != kind:
        raise _malformed(what)
    mesh = part.subject.split(".")[1:2]
    try:
        subjects = Subjects(*mesh)
    except (MeshError, TypeError):
        raise Untrusted(Reason.WRONG_MESH, f"{what}: its subject {part.subject!r:.200} names no mesh") from None
    try:
        by = verify_chain(proof.chain, mesh[0], root, part.header.sent_at_us)
    except Untrusted as error:
        raise Untrusted(error.reason, f"{what}, as of when it was signed: {error.message}") from None
    if not verifies(by.key, proof.signature, proof.signed):
        raise Untrusted(Reason.BAD_SIGNATURE, f"{what} is not signed by node {by.node}")
    try:
        found = list(map(fit, read_bunches(part.frames, MOST_FRAMES)))
    except FrameError as error:
        raise Untrusted(Reason.FRAMES, f"{what}: {error}") from None
    kinds = (Kind.CALL,) if kind is EnvelopeKind.CALLS else (Kind.REPLY, Kind.FAIL)
    wanted = [frame for frame in found if frame[0] in kinds and frame[1] in ids]
    frames = {frame[1]: frame for frame in wanted}
    if not len(wanted) == len(frames) == len(ids):  # two under one id would leave open which of them was meant
        raise Untrusted(Reason.NOT_ITS_ANSWER, f"{what} does not stand once in its envelope for each of calls {ids}")
    return _Said(by, part, subjects, frames)


def _receipt(number: int, digest: bytes, asked: _Said, answered: _Said) -> Receipt:
    _, _, service, method, _, caller, _, request = asked.frames[number]
    answer = answered.frames[number]
    _place(service, method, asked, answered)
    if caller not in asked.by.call_as:
        raise Untrusted(Reason.NOT_GRANTED, f"node {asked.by.node} may not speak for {caller!r:.80}")
    if service not in answered.by.serve:
        raise Untrusted(Reason.NOT_GRANTED, f"node {answered.by.node} may not serve {service!r:.80}")
    failed, head, payload = None, answer[2], answer[3]
    if answer[0] == Kind.FAIL:
        failed, head, payload = Failed(_CODES.get(answer[2], "UNKNOWN"), answer[3], answer[4]), answer[6], b""
    if head is None or head.get(REQUEST) != digest:
        raise Untrusted(Reason.NOT_ITS_ANSWER, f"the answer to call {number} is to another request with that number")
    times = asked.part.header.sent_at_us, answered.part.header.sent_at_us
    asker = asked.by.node, caller, service, method, request
    return Receipt(asked.by.mesh, times[0], *asker, times[1], answered.by.node, payload, failed)


def _place(service: str, method: str, asked: _Said, answered: _Said) -> None:
    """Raise Untrusted unless the request went to the group of its method, or directly to the node that answered."""
    subject = asked.part.subject
    direct = asked.subjects.parse_inbox(subject)
    there = asked.subjects.parse_rpc(subject) == (service, method) if direct is None else direct[0] == answered.by.node
    if not there:
        text = f"{service}/{method} was asked on {subject!r:.200}, and node {answered.by.node} answered"
        raise Untrusted(Reason.NOT_ITS_ANSWER, text)


def _malformed(what: str) -> Untrusted:
    return Untrusted(Reason.MALFORMED, f"no receipt: wrong {what}")
