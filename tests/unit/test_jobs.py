"""Work that goes on while whoever asked for it looks at how far it is."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from bus_mesh.agent.jobs import KEPT, MOST_LINES, Jobs, Work
from bus_mesh.protocol.errors import FailedPrecondition, NotFound

Tell = Callable[[str], None]


@pytest.fixture
async def tasks() -> AsyncIterator[list["asyncio.Task[None]"]]:
    made: list[asyncio.Task[None]] = []
    yield made
    for task in made:
        task.cancel()
    await asyncio.gather(*made, return_exceptions=True)


def jobs(tasks: list["asyncio.Task[None]"]) -> Jobs:
    def spawn(work: Coroutine[Any, Any, None]) -> None:
        tasks.append(asyncio.create_task(work))

    return Jobs(spawn)


def work(*lines: str, error: Exception | None = None, gate: asyncio.Event | None = None) -> Work:
    async def go(tell: Tell) -> str:
        for line in lines:
            tell(line)
        if gate is not None:
            await gate.wait()
        if error is not None:
            raise error
        return "all of it"

    return go


async def rest(tasks: list["asyncio.Task[None]"]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_cursor_gives_each_line_once(tasks: list["asyncio.Task[None]"]) -> None:
    made, gate = jobs(tasks), asyncio.Event()
    number = made.begin("restart", work("one", "two", gate=gate))
    await asyncio.sleep(0)
    first = made.look(number, 0)
    gate.set()
    await rest(tasks)

    assert (first["lines"], first["cursor"], first["over"]) == (["one", "two"], 2, False)
    assert made.look(number, 2) == {"lines": [], "cursor": 2, "over": True, "done": "all of it", "error": None}


@pytest.mark.parametrize(
    ("error", "told"),
    [(FailedPrecondition("not ready"), "not ready"), (RuntimeError("inside"), "stop failed; the agent's log says why")],
)
async def test_a_failure_is_told_in_words(tasks: list["asyncio.Task[None]"], error: Exception, told: str) -> None:
    made = jobs(tasks)
    number = made.begin("stop", work(error=error))
    await rest(tasks)

    seen = made.look(number, 0)
    assert (seen["error"], seen["done"], seen["over"]) == (told, None, True)


async def test_the_oldest_that_is_over_makes_room_and_what_goes_on_stays(tasks: list["asyncio.Task[None]"]) -> None:
    made, gate = jobs(tasks), asyncio.Event()
    going = made.begin("restart", work(gate=gate))
    for _ in range(2 * KEPT):
        made.begin("start", work())
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    assert repr(made) == f"Jobs(going=1, kept={KEPT})" and not made.look(going, 0)["over"]
    with pytest.raises(NotFound, match="there is no job 2 here"):
        made.look(2, 0)


async def test_lines_have_an_end(tasks: list["asyncio.Task[None]"]) -> None:
    made = jobs(tasks)
    number = made.begin("restart", work(*("line" for _ in range(2 * MOST_LINES))))
    await rest(tasks)

    assert made.look(number, 0)["cursor"] == MOST_LINES
