"""A question who serves what is always answered, however soon it comes after another one."""

import asyncio
from pathlib import Path

import pytest
from bus_mesh_sdk.testing import MeshTest
from control_world import Plane, until
from test_whole_mesh import Book, network

from bus_mesh.bus.memory import Message

pytestmark = pytest.mark.timeout(30)


async def test_a_question_right_after_another_one_is_answered_a_little_later_and_once(tmp_path: Path) -> None:
    plane = Plane(tmp_path)
    async with plane.agent("a") as a, plane.agent("b") as b:
        inbox, answers = plane.subjects.inbox("b", b.node.keyring.boot), list[bytes]()

        def show(message: Message) -> None:
            if message.subject == inbox and message.data == a.node.watch.document:
                answers.append(message.data)

        plane.broker.tap(show)
        for _ in range(5):
            b.node.watch.ask_everyone()

        await until(lambda: len(answers) == 2)
        b.node.watch.ask_everyone()
        await until(lambda: len(answers) == 3)


async def test_a_first_call_uses_what_is_known_already_and_reaches_whoever_the_broker_chooses() -> None:
    async with MeshTest() as t:
        for _ in range(4):
            await t.serve(Book())
        await t.mesh()
        (caller,) = [node for node in network(t).nodes.values() if not node.own.certificate.serve]
        caller.watch.ask_everyone()
        await t._time.settle()
        calls = [asyncio.create_task(t.call("ledger", "read", {"line": "a"})) for _ in range(32)]
        await t._time.settle()

        assert all(call.done() and call.result() == "a" for call in calls), "nobody need be waited for"
        refused = [node.metrics.envelope_failures["NOT_A_RECIPIENT"] for node in network(t).nodes.values()]
        assert not any(refused)
