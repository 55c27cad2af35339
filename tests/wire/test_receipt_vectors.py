"""Golden vectors of call receipts, for other languages too: `receipt.json` holds records and what they prove.

Run this file as a program to write the vectors anew. That makes every receipt that is kept unreadable: a new version
number comes first.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from bus_mesh.identity.certificate import Role, certify_node, delegate
from bus_mesh.identity.envelope import HEADER, PREFIX, SIGNED, EnvelopeKind, signed_part
from bus_mesh.identity.keys import SUITE, NodeKey
from bus_mesh.identity.receipt import REQUEST, Proof, encode_receipt, verify_receipt
from bus_mesh.identity.receipt_file import pack_receipt, read_receipts
from bus_mesh.protocol.bunches import bunches
from bus_mesh.protocol.frames import Call, Fail, Reply, encode

FILE = Path(__file__).with_name("receipt.json")
MESH, AT_US = "demo", 1_800_000_000_000_000
ROOT, ISSUER, ASKER, ANSWERER = (NodeKey(bytes((seed,)) * 32) for seed in (1, 2, 3, 4))
IDS = {"asker": b"\xaa" * 8, "answerer": b"\xbb" * 8}


def chain(node: str, key: NodeKey, serve: list[str], call_as: list[str]) -> bytes:
    times = {"not_before_us": AT_US - 60_000_000, "not_after_us": AT_US + 86_400_000_000}
    delegation = delegate(ROOT, MESH, Role.ISSUER, ISSUER.public, term=1, **times)
    names: dict[str, Any] = {"mesh": MESH, "node": node, "serve": serve, "call_as": call_as, "serial": node}
    return certify_node(ISSUER, delegation, key=key.public, **names, **times)


def prove(kind: EnvelopeKind, subject: str, frames: list[bytes], key: NodeKey, chain: bytes, counter: int) -> Proof:
    sender, to = IDS.values() if kind is EnvelopeKind.CALLS else reversed(IDS.values())
    head = HEADER.pack(PREFIX, kind, SUITE, SIGNED, 1, sender, counter, AT_US + counter) + to
    return Proof.make(signed_part(head, subject.encode(), bunches(frames)), key, chain)


def vectors() -> dict[str, Any]:
    asker, answerer = chain("node-a", ASKER, [], ["web"]), chain("node-b", ANSWERER, ["orders"], [])
    calls = [encode(Call(1, id, "orders", "get", 5000, "web", None, b"ask %d" % id)) for id in (7, 8)]
    request = prove(EnvelopeKind.CALLS, f"mesh.{MESH}.rpc.orders.get", calls, ASKER, asker, 1)
    answers = [
        encode(Reply(2, 7, {"instance": "node-b-1", "load": 0, REQUEST: request.digest}, b"answer")),
        encode(Fail(3, 8, 5, "NOT_FOUND", "no such order", None, {"ran": "yes", REQUEST: request.digest})),
    ]
    answer = prove(EnvelopeKind.ANSWERS, f"mesh.{MESH}.node.node-a.boot-1", answers, ANSWERER, answerer, 2)
    record = encode_receipt([7, 8], request, answer)
    told = [
        {**receipt._asdict(), "request": receipt.request.hex(), "answer": receipt.answer.hex()}
        for receipt in verify_receipt(record, ROOT.public)
    ]
    said: dict[str, Any] = json.loads(json.dumps({"receipts": told}))
    proofs = {"request_digest": request.digest.hex(), "record": record.hex(), "file": pack_receipt(record).hex()}
    return {"root": ROOT.public.hex(), **proofs, **said}


GOLDEN: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}


def test_the_golden_receipts_are_what_is_made_today() -> None:
    assert vectors() == GOLDEN


def test_a_golden_record_proves_what_it_says() -> None:
    first, second = verify_receipt(bytes.fromhex(GOLDEN["record"]), bytes.fromhex(GOLDEN["root"]))

    assert (first.node, first.caller, first.service, first.method) == ("node-a", "web", "orders", "get")
    assert (first.request, first.answered_by, first.answer) == (b"ask 7", "node-b", b"answer")
    assert second.failed is not None
    assert (second.request, list(second.failed)) == (b"ask 8", GOLDEN["receipts"][1]["failed"])


@pytest.mark.parametrize("copies", [1, 3])
def test_a_golden_file_holds_the_golden_record(copies: int) -> None:
    found = read_receipts(bytes.fromhex(GOLDEN["file"]) * copies)

    assert [row.record for row in found.rows] == [bytes.fromhex(GOLDEN["record"])] * copies


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1) + "\n")
