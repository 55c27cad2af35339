"""Calls under `envelope: signed`, on whole agents in one process: what is signed, what is refused, what is kept."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
from bus_mesh_sdk import DeadlineExceeded, MeshError, PermissionDenied, Ran, Service, options, rpc
from bus_mesh_sdk.testing import MeshTest

from bus_mesh.agent.node import Node
from bus_mesh.bus.memory import Message
from bus_mesh.identity.envelope import SIGNED, parse_header
from bus_mesh.identity.receipt import Receipt, verify_receipt
from bus_mesh.policy.bundle import PolicySet
from bus_mesh.policy.load import parse

POLICY = """\
kind: Service
name: ledger
access: {{allow: [{{from: ["*"], methods: ["*"]}}]}}
traffic: {{balance: {balance}}}
methods: {{peek: {{envelope: sealed}}}}
---
kind: Mesh
envelope: {envelope}
"""


class Ledger(Service, name="ledger"):
    @rpc
    async def write(self, line: str) -> str:
        raise NotImplementedError

    @rpc
    async def peek(self, line: str) -> str:
        raise NotImplementedError


class Book(Ledger):
    def __init__(self) -> None:
        self.ran: list[str] = []

    async def write(self, line: str) -> str:
        self.ran.append(line)
        if line == "bad":
            raise PermissionDenied("not this line", ran=Ran.YES)
        return line * 2

    async def peek(self, line: str) -> str:
        return line


class Stage(NamedTuple):
    """A caller's agent, a service's, and what was on the bus between them since."""

    t: MeshTest
    book: Book
    caller: Node
    callee: Node
    seen: list[Message]
    kept: dict[str, list[bytes]]

    def receipts(self, node: Node) -> list[Receipt]:
        root = node.own.root
        return [receipt for record in self.kept[node.own.node] for receipt in verify_receipt(record, root)]

    def signed(self) -> set[tuple[str, bool]]:
        """What went over the bus: calls and answers, each signed or not."""
        names = {1: "calls", 2: "answers"}
        headers = [parse_header(message.data) for message in self.seen if message.data.startswith(b"BM")]
        return {(names[header.kind], bool(header.flags & SIGNED)) for header in headers}


def enforce(node: Node, envelope: str, balance: str = "queue") -> None:
    node.enforce(PolicySet.of(parse(POLICY.format(envelope=envelope, balance=balance), "policy"), 9))


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with MeshTest() as t:
        t.policy(POLICY.format(envelope="signed", balance="queue"))
        book = Book()
        await t.serve(book)
        await t.mesh()
        nodes, kept = t._network.nodes, dict[str, list[bytes]]()
        await t.call(Ledger.peek, "so that both agents know each other")
        for name, node in nodes.items():
            node.outbox.receipts.keep = kept.setdefault(name, []).append
        seen = list[Message]()
        t._network.broker.tap(seen.append)
        yield Stage(t, book, nodes["node-2"], nodes["node-1"], seen, kept)


@pytest.mark.parametrize("balance", ["queue", "round_robin"])
async def test_a_signed_call_leaves_the_same_receipt_at_both_agents(stage: Stage, balance: str) -> None:
    for node in (stage.caller, stage.callee):
        enforce(node, "signed", balance)

    assert await stage.t.call(Ledger.write, "a") == "aa"
    await stage.t.advance(0.0)

    assert stage.signed() == {("calls", True), ("answers", True)}
    (receipt,) = stage.receipts(stage.caller)
    assert stage.receipts(stage.callee) == [receipt]
    assert (receipt.node, receipt.caller, receipt.service, receipt.method) == ("node-2", "test", "ledger", "write")
    assert (receipt.answered_by, receipt.failed) == ("node-1", None)
    assert b"a" in receipt.request and b"aa" in receipt.answer


async def test_a_failure_is_signed_and_kept_like_a_result(stage: Stage) -> None:
    with pytest.raises(PermissionDenied, match="not this line"):
        await stage.t.call(Ledger.write, "bad")
    await stage.t.advance(0.0)

    (receipt,) = stage.receipts(stage.caller)
    assert stage.receipts(stage.callee) == [receipt]
    assert receipt.failed is not None
    assert receipt.failed[::2] == ("PERMISSION_DENIED", "not this line")
    assert stage.signed() == {("calls", True), ("answers", True)}


async def test_what_the_agent_itself_refuses_is_signed_too(stage: Stage) -> None:
    with pytest.raises(MeshError, match="has no method 'erase'"):
        await stage.t.call("ledger", "erase", {})
    (instance,) = stage.callee.announcer.instances
    del stage.callee.announcer.instances[instance]
    with pytest.raises(MeshError, match="INSTANCE_GONE"), options(instance=instance):
        await stage.t.call(Ledger.write, "a")
    await stage.t.advance(0.0)

    reasons = [receipt.failed and receipt.failed.reason for receipt in stage.receipts(stage.caller)]
    assert set(reasons) == {"UNIMPLEMENTED", "INSTANCE_GONE"}
    assert len(stage.receipts(stage.callee)) == len(reasons)


async def test_many_calls_of_a_turn_share_their_signatures(stage: Stage) -> None:
    lines = [f"line {number}" for number in range(50)]
    answers = await asyncio.gather(*(stage.t.call(Ledger.write, line) for line in lines))
    await stage.t.advance(0.0)

    assert answers == [line * 2 for line in lines]
    for node in (stage.caller, stage.callee):
        assert len(stage.receipts(node)) == 50
        assert len(stage.kept[node.own.node]) < 10
    assert sorted(stage.receipts(stage.caller)) == sorted(stage.receipts(stage.callee))


async def test_sealed_calls_are_not_signed_and_leave_no_receipt(stage: Stage) -> None:
    await stage.t.call(Ledger.peek, "the nearer word holds")
    for node in (stage.caller, stage.callee):
        enforce(node, "sealed")
    await stage.t.call(Ledger.write, "a")
    await stage.t.advance(0.0)

    assert stage.signed() == {("calls", False), ("answers", False)}
    assert list(stage.kept.values()) == [[], []]


@pytest.mark.parametrize("balance", ["queue", "round_robin"])
async def test_signed_and_sealed_calls_of_one_turn_share_no_envelope(stage: Stage, balance: str) -> None:
    for node in (stage.caller, stage.callee):
        enforce(node, "signed", balance)
    calls = [stage.t.call(method, str(n)) for n in range(20) for method in (Ledger.write, Ledger.peek)]
    await asyncio.gather(*calls)
    await stage.t.advance(0.0)

    assert stage.signed() == {(kind, signed) for kind in ("calls", "answers") for signed in (True, False)}
    assert {receipt.method for receipt in stage.receipts(stage.callee)} == {"write"}
    assert len(stage.receipts(stage.caller)) == 20


async def test_a_call_that_is_not_signed_is_refused_where_policy_asks_for_it(stage: Stage) -> None:
    enforce(stage.caller, "sealed")

    with pytest.raises(PermissionDenied, match="takes signed calls only") as error:
        await stage.t.call(Ledger.write, "a")

    assert (error.value.wire_reason, error.value.ran, stage.book.ran) == ("SIGNATURE_REQUIRED", Ran.NO, [])
    await stage.t.call(Ledger.peek, "a")


async def test_a_signed_call_gets_a_signed_answer_where_policy_does_not_ask_for_it_yet(stage: Stage) -> None:
    enforce(stage.callee, "sealed")
    await stage.t.call(Ledger.write, "a")
    await stage.t.advance(0.0)

    assert stage.signed() == {("calls", True), ("answers", True)}
    assert stage.receipts(stage.callee) == stage.receipts(stage.caller) != []


async def test_an_answer_that_is_not_signed_does_not_answer_a_signed_call(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = stage.callee.outbox
    monkeypatch.setattr(outbox, "answer_signed", lambda peer, frame, number, request: outbox.answer(peer, frame))
    call = asyncio.create_task(stage.t.client(Ledger, timeout=1.0).write("a"))
    await stage.t.advance(0.5)
    assert (stage.book.ran, call.done()) == (["a"], False)
    await stage.t.advance(1.0)

    assert isinstance(call.exception(), DeadlineExceeded)
    assert stage.caller.metrics.envelope_failures.values["UNSIGNED_ANSWER"] >= 1
    assert stage.kept["node-2"] == []


async def test_a_signed_answer_to_another_request_does_not_answer_a_call(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus_mesh.agent.inbound.REQUEST", "not-the-request")
    call = asyncio.create_task(stage.t.client(Ledger, timeout=1.0).write("a"))
    await stage.t.advance(1.5)

    assert isinstance(call.exception(), DeadlineExceeded)
    assert stage.caller.metrics.envelope_failures.values["NOT_ITS_ANSWER"] >= 1


async def test_signed_answers_that_waited_for_the_bus_are_signed_when_they_leave(stage: Stage) -> None:
    peer = stage.callee.keyring.peer_of("node-2", stage.caller.keyring.boot)
    assert peer is not None
    bus = stage.callee.bus
    call = asyncio.create_task(stage.t.call(Ledger.write, "a"))
    publish_all, away = bus.publish_all, list[int]()

    def refuse(messages: list[tuple[str, bytes, str]]) -> list[bool]:
        away.append(len(messages))
        return [False for _ in messages]

    bus.publish_all = refuse  # type: ignore[method-assign,assignment]
    await stage.t.advance(0.1)
    assert (stage.book.ran, away, stage.kept["node-1"]) == (["a"], [1], [])
    bus.publish_all = publish_all  # type: ignore[method-assign]
    stage.callee.outbox.resume()
    await stage.t.advance(0.1)

    assert call.result() == "aa"
    assert stage.receipts(stage.callee) == stage.receipts(stage.caller) != []


async def test_through_faults_a_caller_has_a_receipt_of_each_answer_it_got_and_of_no_other(stage: Stage) -> None:
    dropped = iter(range(10_000))
    stage.t._network.broker.drop(lambda message: next(dropped) % 5 == 0)
    calls = list[asyncio.Task[str]]()
    for number in range(200):
        calls.append(asyncio.create_task(stage.t.client(Ledger, timeout=1.0).write(f"n{number}")))
        if number % 10 == 0:
            await stage.t.advance(0.005)
    stage.t._network.broker.drop(None)
    await stage.t.advance(2.0)

    answered = [call.result() for call in calls if call.exception() is None]
    assert 0 < len(answered) < 200
    told = [receipt for receipt in stage.receipts(stage.caller) if receipt.failed is None]
    assert len(told) == len(answered)
    assert set(told) <= set(stage.receipts(stage.callee))
