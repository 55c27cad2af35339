"""How a service says whether it is well, and how its agent's question is answered.

The agent asks now and then, apart from all calls: a service that is full can still say that it is well. One that fails
its check leaves its queue group until it passes it again.
"""

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, TypeVar

from bus_mesh.protocol.errors import DeadlineExceeded, MeshError, Ran, ResourceExhausted, Unavailable
from bus_mesh.protocol.frames import Kind, encode
from bus_mesh_sdk._connection import Connection
from bus_mesh_sdk._failure import failure
from bus_mesh_sdk._service import Contract

_MARK: Final = "__bus_mesh_health__"
_WELL: Final = b"\xc0"
"""The answer of one that is well: nil, in MessagePack."""
_REPLY: Final = int(Kind.REPLY)
_F = TypeVar("_F", bound=Callable[[Any], Coroutine[Any, Any, None]])
_log: Final = logging.getLogger("bus_mesh_sdk")


def health(function: _F) -> _F:
    """Have this `async def` method say whether the service is well: it returns when it is, and raises when it is not.

    The agent asks every 5 s, or as policy says, and takes three failures in a row, or no answer within 1 s, for unwell.
    It takes nothing but `self`, and nobody else can call it. With `@blocking` below it may be a plain `def`.
    """
    shown = function.__qualname__
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{shown} is a plain def: write async def, or put @blocking between it and @health")
    if len(inspect.signature(function).parameters) != 1:
        raise TypeError(f"{shown} is asked by the agent, which has nothing to tell it: give it no parameter but self")
    setattr(function, _MARK, True)
    return function


def check_of(implementation: object, contract: Contract) -> Callable[[], Coroutine[Any, Any, None]] | None:
    """Return the bound health check of an implementation, None when it has none; TypeError for two, or for an @rpc."""
    kind = type(implementation)
    named = {name: None for base in kind.__mro__ for name, value in vars(base).items() if getattr(value, _MARK, False)}
    if len(named) > 1:
        raise TypeError(f"{kind.__qualname__} has {len(named)} health checks, {', '.join(sorted(named))}: keep one")
    for name in named:
        if any(method.attribute == name for method in contract.methods.values()):
            raise TypeError(f"{kind.__qualname__}.{name} is both @rpc and @health: nobody but the agent may ask it")
        check: Callable[[], Coroutine[Any, Any, None]] = getattr(implementation, name)
        if not inspect.iscoroutinefunction(check):
            raise TypeError(f"{kind.__qualname__}.{name} overrides a health check: write async def")
        return check
    return None


class Check:
    """The health check of one service, run once at a time. `variables` are what it is run in."""

    def __init__(
        self,
        check: Callable[[], Coroutine[Any, Any, None]],
        label: str,
        loop: asyncio.AbstractEventLoop,
        variables: Context,
    ) -> None:
        self._check = check
        self._label = label
        self._loop = loop
        self._variables = variables
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def __repr__(self) -> str:
        return f"Check({self._label}, failing={self._failing})"

    def asked(self, connection: Connection, number: int, expires: float) -> None:
        """Answer the agent's question; `expires` is when it stops to wait, on the loop's clock."""
        if expires <= self._loop.time():
            return
        if self._task is not None and not self._task.done():
            error = ResourceExhausted(f"the last health check of {self._label} still runs", ran=Ran.NO)
            connection.write(encode(failure(number, error, self._label, "", Ran.NO)))
            return
        work = self._run(connection, number, expires)
        self._task = self._loop.create_task(work, context=self._variables.copy())

    def stop(self) -> None:
        """End a check that runs."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self, connection: Connection, number: int, expires: float) -> None:
        error: MeshError | None = None
        try:
            async with asyncio.timeout_at(expires) as limit:
                await self._check()
        except Exception as raised:
            error = self._unwell(raised, late=limit.expired())
        if error is None:
            self._failing = False
            connection.write(encode((_REPLY, number, None, _WELL)))
        else:
            connection.write(encode(failure(number, error, self._label, "", Ran.YES)))

    def _unwell(self, raised: Exception, late: bool) -> MeshError:
        """Return what the agent is told, and log what it is not, once until the check passes again."""
        if not self._failing:
            _log.warning("the health check of %s failed", self._label, exc_info=raised)
        self._failing = True
        if late:
            return DeadlineExceeded(f"the health check of {self._label} took too long")
        if isinstance(raised, MeshError):
            return raised
        return Unavailable(f"the health check of {self._label} raised {type(raised).__name__}; its log tells more")
