"""Handlers, run side by side, without a task for each.

A task costs more than all else that a short handler needs. So handlers that are begun in the same turn of the loop
share one, which runs them one after the other, each in context variables of its own. One that waits keeps the task, and
those behind it get tasks of their own. A method whose handler waited last time gets a task of its own at once. So what
`asyncio.current_task()`, timeouts and task groups need holds for every handler as long as it runs; but after a handler
that never waited, its task may go on as another's. What has not begun when its task is cancelled from outside, as a
loop that ends does with all, never begins, and its owner is told.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from functools import partial
from types import coroutine
from typing import Any, TypeAlias

Work: TypeAlias = Coroutine[Any, Any, None]


class Habit:
    """Whether the handler of one method waited when it ran last."""

    __slots__ = ("waits",)

    def __init__(self) -> None:
        self.waits = False


Started: TypeAlias = deque[tuple[Work, Habit, Callable[[], None]]]


class Runner:
    """Runs coroutines, each in a copy of `variables`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, variables: Context) -> None:
        self._loop = loop
        self._variables = variables
        self._ready: Started = deque()
        self._tasks: dict[asyncio.Task[None], Started] = {}

    def __repr__(self) -> str:
        return f"Runner(ready={len(self._ready)}, tasks={len(self._tasks)})"

    def run(self, work: Work, habit: Habit, dropped: Callable[[], None]) -> None:
        """Begin `work` in the next turn of the loop; `dropped` is called if it will never begin."""
        if habit.waits:
            self._begin(deque(((work, habit, dropped),)))
            return
        self._ready.append((work, habit, dropped))
        if len(self._ready) == 1:
            self._begin(self._ready)

    def _begin(self, started: Started) -> None:
        task = asyncio.Task(self._turn(started), loop=self._loop, context=self._variables.copy())
        self._tasks[task] = started
        task.add_done_callback(self._never_begun)

    async def _turn(self, started: Started) -> None:
        if started is self._ready:
            self._ready = deque()
        task, copy = asyncio.current_task(self._loop), self._variables.copy
        assert task is not None
        task.remove_done_callback(self._never_begun)  # a callback at its end would cost a turn of the loop
        try:
            # A task that a handler has cancelled is used for nothing else.
            while started and not task.cancelling():
                (work, habit, _), enter = started.popleft(), copy().run
                try:
                    waited = enter(work.send, None)
                except StopIteration:
                    habit.waits = False
                    continue
                habit.waits = True
                self._part(started)
                await _rest(work, enter, waited)
            self._part(started)
        finally:
            del self._tasks[task]
            _drop(started)

    def _part(self, started: Started) -> None:
        """Give what has not begun tasks of its own."""
        while started:
            self._begin(deque((started.popleft(),)))

    def _never_begun(self, task: asyncio.Task[None]) -> None:
        started = self._tasks.pop(task)
        if started is self._ready:
            self._ready = deque()
        _drop(started)


def _drop(started: Started) -> None:
    for work, _, dropped in started:
        work.close()
        dropped()
    started.clear()


@coroutine
def _rest(work: Work, enter: Callable[..., Any], waited: Any) -> Generator[Any, Any, None]:
    """Take `work` on from where it waits, step by step as awaiting it would, in its own context variables."""
    while True:
        try:
            step = partial[Any](work.send, (yield waited))
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:
            step = partial[Any](work.throw, error)
        try:
            waited = enter(step)
        except StopIteration:
            return
