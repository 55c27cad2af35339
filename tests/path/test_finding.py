"""A question who serves what is always answered, however soon it comes after another one."""

from pathlib import Path

import pytest
from control_world import Plane, until

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
