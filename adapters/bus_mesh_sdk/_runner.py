"""Handlers, run side by side, without a task for each.

A task costs more than all else that a short handler needs. Handlers that are begun in the same turn of the loop share
one: it runs them one after the other, each in context variables of its own, until one waits; the rest then get another
task. So a handler that waits has a task to itself, which is what `asyncio.current_task()`, timeouts and task groups
need, and a bunch of handlers that never wait costs one task together.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from functools import partial
from types import coroutine
from typing import Any, TypeAlias

Work: TypeAlias = Coroutine[Any, Any, None]


class Runner:
    """Runs coroutines, each in a copy of `variables`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, variables: Context) -> None:
        self._loop = loop
        self._variables = variables
        self._ready: deque[Work] = deque()
        self._coming = False
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"Runner(ready={len(self._ready)}, tasks={len(self._tasks)})"

    def run(self, work: Work) -> None:
        """Begin `work` in the next turn of the loop."""
        self._ready.append(work)
        if not self._coming:
            self._call_another()

    def _call_another(self) -> None:
        if self._ready and not self._coming:
            self._coming = True
            self._tasks.add(asyncio.Task(self._turn(), loop=self._loop, context=self._variables.copy()))

    async def _turn(self) -> None:
        self._coming = False
        task = asyncio.current_task(self._loop)
        assert task is not None
        ready, copy = self._ready, self._variables.copy
        try:
            # A task that somebody has cancelled, for good reason or not, is used for nothing else.
            while ready and not task.cancelling():
                work, enter = ready.popleft(), copy().run
                try:
                    waited = enter(work.send, None)
                except StopIteration:
                    continue
                self._call_another()
                await _rest(work, enter, waited)
        finally:
            self._tasks.discard(task)
            self._call_another()


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
