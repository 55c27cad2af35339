"""Golden vectors of identity, for other languages too: `envelope.json` holds the bytes, and all that makes them.

Run this file as a program to write the vectors anew. That breaks every mesh that runs: a new version byte comes first.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from bus_mesh.identity import document
from bus_mesh.identity.announcement import (
    Announcement,
    Instance,
    Offer,
    decode_announcement,
    encode_announcement,
    read_announcement,
)
from bus_mesh.identity.certificate import Role, certify_node, delegate, verify_chain
from bus_mesh.identity.envelope import (
    HEADER,
    PREFIX,
    body_offset,
    introduction,
    open_sealed,
    parse_header,
    recipients,
    seal_for_many,
    seal_for_one,
    signed_part,
)
from bus_mesh.identity.keys import SUITE, EpochKey, NodeKey, key_id, verifies
from bus_mesh.protocol.bunches import bunches, read_bunches
from bus_mesh.protocol.frames import Call, Cancel, Method, Reply, encode

FILE = Path(__file__).with_name("envelope.json")
MESH, SENDER, RPC, INBOX = "demo", "node-a", "mesh.demo.rpc.orders.get", "mesh.demo.node.node-b1.b1"
AT_US = 1_800_000_000_000_000
EPOCHS = {SENDER: b"\xa0" * 32, "node-b1": b"\xb1" * 32, "node-b2": b"\xb2" * 32, "node-b3": b"\xb3" * 32}
ROOT, ISSUER, NODE = (NodeKey(bytes((seed,)) * 32) for seed in (1, 2, 3))
BODY_KEY = b"\xcc" * 32
CALL = encode(Call(1, 7, "orders", "get", 500, "web", {"attempt": 2}, b"\x81\xa2id\xa11"))
REPLY = encode(Reply(2, 7, {"instance": "node-b1-1", "load": 3}, b"answer"))
CANCEL = encode(Cancel(4, 6))
ENVELOPES: dict[str, dict[str, Any]] = {
    "one recipient": {"kind": 1, "flags": 0, "to": ["node-b1"], "subject": RPC, "frames": [CALL, CANCEL]},
    "an answer": {"kind": 2, "flags": 0, "to": ["node-b1"], "subject": INBOX, "frames": [REPLY]},
    "three recipients": {
        "kind": 1,
        "flags": 0,
        "to": ["node-b1", "node-b2", "node-b3"],
        "subject": RPC,
        "frames": [CALL],
    },
    "introduced": {"kind": 1, "flags": 1, "to": ["node-b1", "node-b2"], "subject": RPC, "frames": [CALL]},
    "signed": {"kind": 1, "flags": 2, "to": ["node-b1"], "subject": RPC, "frames": [CALL]},
}


def documents() -> dict[str, bytes]:
    times = {"not_before_us": AT_US - 60_000_000, "not_after_us": AT_US + 86_400_000_000}
    delegation = delegate(ROOT, MESH, Role.ISSUER, ISSUER.public, term=1, **times)
    names = {"mesh": MESH, "node": SENDER, "serve": ["orders", "pay"], "call_as": ["web"], "serial": "1"}
    chain = certify_node(ISSUER, delegation, key=NODE.public, **names, **times)  # type: ignore[arg-type]
    offer = Offer(
        "orders",
        (Instance("node-a-1", "1.2", {"track": "canary"}, "up", 3),),
        (Method("get", True, 2000, "abc"),),
    )
    lease = (AT_US - 5_000_000, 7, AT_US, AT_US + 15_000_000)
    key = EpochKey(EPOCHS[SENDER]).public
    said = Announcement(MESH, SENDER, chain, "b1", *lease, key, b"", (offer,), False, "0.1.0")
    return {"delegation": delegation, "chain": chain, "announcement": encode_announcement(said, NODE)}


def seal(case: dict[str, Any], counter: int, word: bytes) -> bytes:
    mine = EpochKey(EPOCHS[SENDER])
    theirs = {node: EpochKey(EPOCHS[node]).public for node in case["to"]}
    sender = key_id(MESH, SENDER, mine.public)
    head = HEADER.pack(PREFIX, case["kind"], SUITE, case["flags"], len(theirs), sender, counter, AT_US + counter)
    head += b"".join(key_id(MESH, node, key) for node, key in theirs.items())
    intro = len(word).to_bytes(4, "big") + word if case["flags"] & 1 else b""
    subject, plain = case["subject"].encode(), bunches(case["frames"])
    if case["flags"] & 2:
        plain = NODE.sign(signed_part(head, subject, plain)) + plain
    seals = [mine.pair(MESH, SENDER, node, key).seal for node, key in theirs.items()]
    if len(seals) == 1:
        return seal_for_one(head, intro, subject, plain, seals[0])
    return seal_for_many(head, intro, subject, plain, seals, BODY_KEY)


def vectors() -> dict[str, Any]:
    signed = documents()
    epochs = {
        node: {
            "private": raw.hex(),
            "public": EpochKey(raw).public.hex(),
            "key_id": key_id(MESH, node, EpochKey(raw).public).hex(),
        }
        for node, raw in EPOCHS.items()
    }
    envelopes = []
    for counter, (name, case) in enumerate(ENVELOPES.items(), 1):
        sealed = seal(case, counter, signed["announcement"])
        fields = {"sent_at_us": AT_US + counter, "counter": counter, "kind": case["kind"], "flags": case["flags"]}
        frames = [frame.hex() for frame in case["frames"]]
        place = {"to": case["to"], "subject": case["subject"]}
        envelopes.append({"name": name, **fields, **place, "frames": frames, "sealed": sealed.hex()})
    return {
        "mesh": MESH,
        "sender": SENDER,
        "suite": SUITE,
        "body_key": BODY_KEY.hex(),
        "keys": {name: key.raw.hex() for name, key in (("root", ROOT), ("issuer", ISSUER), ("node", NODE))},
        "epochs": epochs,
        "documents": {name: data.hex() for name, data in signed.items()},
        "envelopes": envelopes,
    }


GOLDEN: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"envelopes": []}
CASES = [pytest.param(case, id=case["name"]) for case in GOLDEN["envelopes"]]


def test_the_golden_bytes_are_what_is_made_today() -> None:
    assert vectors() == GOLDEN


def test_the_golden_documents_hold() -> None:
    chain, word = (bytes.fromhex(GOLDEN["documents"][name]) for name in ("chain", "announcement"))

    certificate = verify_chain(chain, MESH, ROOT.public, AT_US)
    said = decode_announcement(read_announcement(word), certificate)

    assert (certificate.node, certificate.serve, certificate.call_as) == (SENDER, {"orders", "pay"}, {"web"})
    assert (said.sequence, said.offers[0].instances[0].labels) == (7, {"track": "canary"})
    assert document.read(word, "busmesh announcement 1").hint == chain


@pytest.mark.parametrize("case", CASES)
def test_a_golden_envelope_reads_as_its_fields(case: dict[str, Any]) -> None:
    sealed = bytes.fromhex(case["sealed"])
    header = parse_header(sealed)

    assert header == (
        PREFIX,
        case["kind"],
        1,
        case["flags"],
        len(case["to"]),
        header.sender,
        case["counter"],
        case["sent_at_us"],
    )
    assert header.sender.hex() == GOLDEN["epochs"][SENDER]["key_id"]
    assert [id.hex() for id in recipients(sealed, header.n)] == [
        GOLDEN["epochs"][node]["key_id"] for node in case["to"]
    ]
    if case["flags"] & 1:
        body = body_offset(sealed, header.n, header.flags)
        assert introduction(sealed, header.n, body).hex() == GOLDEN["documents"]["announcement"]


@pytest.mark.parametrize("case", CASES)
def test_every_recipient_opens_a_golden_envelope(case: dict[str, Any]) -> None:
    sealed, subject = bytes.fromhex(case["sealed"]), case["subject"].encode()
    n, flags = parse_header(sealed).n, parse_header(sealed).flags
    body = body_offset(sealed, n, flags)

    for place, node in enumerate(case["to"]):
        mine = EpochKey(bytes.fromhex(GOLDEN["epochs"][node]["private"]))
        pair = mine.pair(MESH, node, SENDER, bytes.fromhex(GOLDEN["epochs"][SENDER]["public"]))
        plain = open_sealed(sealed, subject, n, place, body, pair.open)
        assert plain is not None
        if flags & 2:
            signature, plain = plain[:64], plain[64:]
            assert verifies(NODE.public, signature, signed_part(sealed[: 32 + 8 * n], subject, plain))
        assert [encode(said).hex() for said in read_bunches(plain, 64)] == case["frames"]


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1) + "\n")
