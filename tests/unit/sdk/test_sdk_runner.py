"""Handlers that share a task: each has its own context, and one that waits has a task to itself."""

import asyncio
import gc
from collections.abc import Callable
from contextvars import ContextVar, copy_context

import pytest
from bus_mesh_sdk._runner import Habit, Runner, Work

SAID: ContextVar[str] = ContextVar("said", default="nothing")


class Handlers:
    """A runner, and the habit of the one method whose handlers it runs here."""

    def __init__(self) -> None:
        self.runner = Runner(asyncio.get_running_loop(), copy_context())
        self.habit = Habit()
        self.dropped = 0

    def __repr__(self) -> str:
        return repr(self.runner)

    def run(self, work: Work) -> None:
        self.runner.run(work, self.habit, self._drop)

    def _drop(self) -> None:
        self.dropped += 1


@pytest.fixture
async def runner() -> Handlers:
    return Handlers()


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(2.0):
        while not done():
            await asyncio.sleep(0)


async def test_those_that_never_wait_share_one_task(runner: Handlers) -> None:
    tasks: list[asyncio.Task[object] | None] = []

    async def work() -> None:
        tasks.append(asyncio.current_task())

    for _ in range(5):
        runner.run(work())
    await until(lambda: len(tasks) == 5)

    assert len(set(tasks)) == 1


async def test_they_run_in_the_order_in_which_they_came(runner: Handlers) -> None:
    order: list[int] = []

    async def work(number: int) -> None:
        order.append(number)
        if number % 2:
            await asyncio.sleep(0)

    for number in range(9):
        runner.run(work(number))
    await until(lambda: len(order) == 9)

    assert order == list(range(9))


async def test_one_that_waits_holds_nobody_up_and_has_its_task_to_itself(runner: Handlers) -> None:
    go, tasks = asyncio.Event(), dict[str, asyncio.Task[object] | None]()

    async def waits() -> None:
        tasks["before"] = asyncio.current_task()
        await go.wait()
        tasks["after"] = asyncio.current_task()

    async def quick() -> None:
        tasks["quick"] = asyncio.current_task()

    runner.run(waits())
    runner.run(quick())
    await until(lambda: "quick" in tasks)

    assert tasks["quick"] is not tasks["before"]
    go.set()
    await until(lambda: "after" in tasks)
    assert tasks["after"] is tasks["before"]


async def test_what_one_sets_the_next_does_not_see(runner: Handlers) -> None:
    seen: list[str] = []

    async def work(mine: str) -> None:
        seen.append(SAID.get())
        SAID.set(mine)
        await asyncio.sleep(0)
        seen.append(SAID.get())

    runner.run(work("a"))
    runner.run(work("b"))
    await until(lambda: len(seen) == 4)

    assert sorted(seen) == ["a", "b", "nothing", "nothing"]


async def test_a_timeout_inside_ends_only_its_own(runner: Handlers) -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            ended.append("timed out")

    async def quick() -> None:
        await asyncio.sleep(0)
        ended.append("quick")

    runner.run(slow())
    for _ in range(3):
        runner.run(quick())
    await until(lambda: len(ended) == 4)

    assert ended == ["quick"] * 3 + ["timed out"]


async def test_a_task_group_inside_works_and_its_failure_comes_out_there(runner: Handlers) -> None:
    caught: list[BaseException] = []

    async def fails() -> None:
        raise LookupError("no")

    async def work() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                await asyncio.Event().wait()
        except* LookupError as group_error:
            caught.extend(group_error.exceptions)

    runner.run(work())
    await until(lambda: bool(caught))

    assert isinstance(caught[0], LookupError)


async def test_cancelling_one_reaches_only_it_even_when_it_never_waits(runner: Handlers) -> None:
    ended: list[str] = []

    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        ended.append("itself")

    async def waits() -> None:
        try:
            await asyncio.sleep(0.01)
            ended.append("whole")
        except asyncio.CancelledError:
            ended.append("cancelled by another")

    runner.run(cancels_itself())
    runner.run(waits())
    await until(lambda: len(ended) == 2)

    assert ended == ["itself", "whole"]


async def test_one_that_swallows_a_cancellation_goes_on(runner: Handlers) -> None:
    ended: list[str] = []
    tasks: list[asyncio.Task[object] | None] = []

    async def stubborn() -> None:
        tasks.append(asyncio.current_task())
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            ended.append("stubborn")

    runner.run(stubborn())
    await until(lambda: bool(tasks))
    assert tasks[0] is not None
    tasks[0].cancel()
    await until(lambda: bool(ended))

    assert ended == ["stubborn"]


async def test_nothing_is_left_once_all_have_ended(runner: Handlers) -> None:
    ended: list[int] = []

    async def work(number: int) -> None:
        await asyncio.sleep(0.001 * (number % 3))
        ended.append(number)

    for number in range(20):
        runner.run(work(number))
    await until(lambda: len(ended) == 20)
    await asyncio.sleep(0)

    assert repr(runner) == "Runner(ready=0, tasks=0)"


async def test_however_many_wait_they_begin_together(runner: Handlers) -> None:
    go, begun, turns = asyncio.Event(), list[int](), 0

    async def waits() -> None:
        begun.append(turns)
        await go.wait()

    for _ in range(2):
        begun.clear()
        go.clear()
        turns = 0
        for _ in range(100):
            runner.run(waits())
        while len(begun) < 100:
            await asyncio.sleep(0)
            turns += 1
        go.set()

        assert max(begun) <= 2


async def test_a_task_in_which_something_waited_is_used_for_nothing_else(runner: Handlers) -> None:
    tasks: list[asyncio.Task[object] | None] = []

    async def waits() -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)

    for _ in range(3):
        for _ in range(4):
            runner.run(waits())
        await asyncio.sleep(0.01)

    assert len(set(tasks)) == 12


async def test_a_method_that_no_longer_waits_shares_a_task_again(runner: Handlers) -> None:
    runner.habit.waits = True
    tasks: list[asyncio.Task[object] | None] = []

    async def quick() -> None:
        tasks.append(asyncio.current_task())

    runner.run(quick())
    await until(lambda: len(tasks) == 1)
    for _ in range(3):
        runner.run(quick())
    await until(lambda: len(tasks) == 4)

    assert len(set(tasks[1:])) == 1


async def test_what_is_cancelled_from_outside_before_its_first_step_never_begins_and_stops_nothing_for_good(
    runner: Handlers,
) -> None:
    ended: list[int] = []

    async def work(number: int) -> None:
        ended.append(number)

    runner.run(work(1))
    runner.run(work(2))
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await until(lambda: runner.dropped == 2)
    runner.run(work(3))
    await until(lambda: bool(ended))

    assert ended == [3]


def test_a_loop_that_ends_leaves_no_handler_and_no_complaint(recwarn: pytest.WarningsRecorder) -> None:
    begun: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)
        await asyncio.Event().wait()

    async def main() -> Handlers:
        runner = Handlers()
        for number in range(3):
            runner.run(work(number))
        return runner

    runner = asyncio.run(main())
    gc.collect()

    assert (begun, runner.dropped, repr(runner)) == ([0], 2, "Runner(ready=0, tasks=0)")
    assert not recwarn.list


def test_those_behind_one_that_ends_the_process_are_not_begun() -> None:
    begun: list[int] = []
    runners: list[Handlers] = []

    async def leaves() -> None:
        raise SystemExit(3)

    async def work() -> None:
        begun.append(1)

    async def main() -> None:
        runners.append(Handlers())
        runners[0].run(leaves())
        runners[0].run(work())
        await asyncio.Event().wait()

    with pytest.raises(SystemExit):
        asyncio.run(main())

    assert (begun, runners[0].dropped) == ([], 1)
