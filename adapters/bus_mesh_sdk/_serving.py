"""One service that this process serves, and the calls that it answers.

    JOINING ──SERVED──▶ SERVING ──close, or the agent's WITHDRAW──▶ LEAVING ──WITHDRAW back──▶ CLOSED
       ▲                   │
       └── connection lost ┘

At most `concurrency` handlers run at once and `queue` calls wait for one; a call beyond is refused at once, and one
whose time runs out in the queue is refused without having run.
"""

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context as Variables
from contextvars import copy_context
from enum import Enum
from typing import Any, Final

from bus_mesh.protocol.errors import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    MeshError,
    OutcomeUnknown,
    PayloadTooLarge,
    Ran,
    ResourceExhausted,
    Unimplemented,
)
from bus_mesh.protocol.frames import Call, Fail, Kind, Reply
from bus_mesh_sdk._codec import Codec
from bus_mesh_sdk._connection import Connection
from bus_mesh_sdk._context import NOTHING, Context, answering, asked
from bus_mesh_sdk._deadlines import Deadlines
from bus_mesh_sdk._failure import failure, refusal
from bus_mesh_sdk._service import Contract, Service, is_blocking

RETRY_AFTER: Final = 0.1
"""Seconds that a full service asks its callers to wait."""


class State(Enum):
    """Where a serving is; see the diagram above."""

    JOINING = "joining"
    SERVING = "serving"
    LEAVING = "leaving"
    CLOSED = "closed"


_CLOSED: Final = State.CLOSED  # a member of an enum costs 0.1 µs to look up by its class
_REPLY: Final = int(Kind.REPLY)


class Inbound:
    """One call that this process answers."""

    __slots__ = ("connection", "context", "entered", "expires", "frame", "running", "serving", "task", "why")

    def __init__(
        self, serving: "Serving", connection: Connection, frame: Call, expires: float, context: Context
    ) -> None:
        self.serving = serving
        self.connection = connection
        self.frame = frame
        self.expires = expires
        self.context = context
        self.running = False
        """Whether it holds one of the slots."""
        self.entered = False
        """Whether its task has taken its first step."""
        self.task: asyncio.Task[None] | None = None
        self.why: MeshError | None = None
        """What ended it from outside, if something did."""

    def __repr__(self) -> str:
        state = "running" if self.running else "queued"
        return f"Inbound({self.frame.id}, {self.frame.service}.{self.frame.method}, {state})"

    def late(self, now: float) -> None:
        """End, its time being out."""
        began = self.context.began
        self.stop(
            DeadlineExceeded(
                f"the time of the call ran out {'in its handler' if began else 'before a handler was free'}"
            )
        )

    def stop(self, why: MeshError) -> None:
        """End from outside; a handler that has begun sees a cancellation."""
        if self.why is not None:
            return
        self.why = why
        self.context.cancelled = True
        if not self.running:
            self.serving.drop(self)
        elif self.entered and self.task is not None:
            self.task.cancel()
        # A task that has not begun finds `why` by itself: cancelled now, it would never reach its own `except`.


class Serving:
    """A service on offer from this process. `await close()` takes it back; leaving the mesh does so too."""

    def __init__(
        self,
        implementation: Service,
        contract: Contract,
        *,
        version: str,
        labels: Mapping[str, str],
        concurrency: int,
        queue: int,
        loop: asyncio.AbstractEventLoop,
        deadlines: Deadlines,
        take_back: "Callable[[Serving], Coroutine[Any, Any, None]]",
    ) -> None:
        self.service = contract.service
        self.version = version
        self.labels = dict(labels)
        self.methods = tuple(method.offered() for method in contract.methods.values())
        self.concurrency = concurrency
        self.queue_limit = queue
        self.instance = ""
        """The instance's id, given by the agent; a new one after each reconnection."""
        self.state = State.JOINING
        self.connection: Connection | None = None
        self.joined: asyncio.Future[None] = loop.create_future()
        """Done once the agent has accepted it for the first time."""
        self.withdrawn: asyncio.Future[None] = loop.create_future()
        """Done once no further call will come."""
        self._handlers = {
            name: (handler, contract.methods[name].codec, is_blocking(handler))
            for name, handler in contract.handlers(implementation).items()
        }
        self._take_back = take_back
        self._pumping = False
        self._loop = loop
        self._deadlines = deadlines
        self._running: set[Inbound] = set()
        self._queue: OrderedDict[Inbound, None] = OrderedDict()
        self._idle: asyncio.Future[None] | None = None
        self._variables = copy_context()
        self._variables.run(asked.set, NOTHING)  # a handler does not inherit what its server's author asked for

    def __repr__(self) -> str:
        where = f"{self.service} {self.version} as {self.instance or '?'}"
        return f"Serving({where}, {self.state.value}, running={len(self._running)}, queued={len(self._queue)})"

    @property
    def running(self) -> int:
        """Handlers that run now."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """Calls that wait for a handler."""
        return len(self._queue)

    async def close(self) -> None:
        """Take the service back: announce it as leaving, answer what has come (30 s at most), then return."""
        await self._take_back(self)

    def called(self, connection: Connection, frame: Call, now: float) -> None:
        """Run a call, queue it, or refuse it."""
        expires = expiry_of(frame, now)
        error = self._refusal(connection, frame, expires, now)
        if error is not None:
            connection.send(refusal(frame.id, error, self.instance))
            return
        context = Context(frame, self.instance, expires, self._loop.time, connection)
        call = Inbound(self, connection, frame, expires, context)
        connection.inbound[frame.id] = call
        self._deadlines.add(call, expires)
        if self._queue or not self._free(connection):
            self._queue[call] = None
        else:
            self._start(call)

    def pump(self) -> None:
        """Run what is queued, oldest first, as far as there are slots."""
        if self._pumping:
            return  # a handler that ended in its first step, inside the loop below, which goes on by itself
        self._pumping = True
        while self._queue and self._free(next(iter(self._queue)).connection):
            call, _ = self._queue.popitem(last=False)
            self._start(call)
        self._pumping = False

    def drop(self, call: Inbound) -> None:
        """Refuse a call that is still queued."""
        del self._queue[call]
        assert call.why is not None
        self._answer(call, refusal(call.frame.id, call.why, self.instance))

    def lost(self, connection: Connection) -> None:
        """Note that no new call comes by this connection: it is gone, or its agent is leaving."""
        if self.connection is connection:
            self.connection, self.instance = None, ""
            if self.state is State.SERVING:
                self.state = State.JOINING
            elif self.state is State.LEAVING:
                self.end()

    def end(self) -> None:
        """Note that no further call will come."""
        self.state = State.CLOSED
        if not self.withdrawn.done():
            self.withdrawn.set_result(None)
        if not self.joined.done():
            self.joined.set_exception(
                Cancelled(f"{self.service} was taken back before the agent had accepted it", ran=Ran.NO)
            )
            self.joined.exception()  # nobody need be waiting for it

    def stop(self) -> None:
        """Stop whatever still runs or waits."""
        for call in [*self._queue, *self._running]:
            call.stop(OutcomeUnknown("its instance is shutting down", ran=Ran.MAYBE))

    async def idle(self, patience: float) -> bool:
        """Wait until nothing runs, at most `patience` seconds; return whether that came about."""
        if self._running or self._queue:
            if self._idle is None or self._idle.done():
                self._idle = self._loop.create_future()
            await asyncio.wait([self._idle], timeout=patience)
        return not (self._running or self._queue)

    def _free(self, connection: Connection) -> bool:
        # Results for an agent that does not read would pile up here, so nothing new runs for it meanwhile.
        return len(self._running) < self.concurrency and not connection.paused

    def _refusal(self, connection: Connection, frame: Call, expires: float, now: float) -> MeshError | None:
        if self.state is _CLOSED:
            return Draining(f"{self.service} is no longer served here", ran=Ran.NO)
        if frame.method not in self._handlers:
            return Unimplemented(f"{self.service} {self.version} has no method {frame.method}", ran=Ran.NO)
        if expires <= now:
            return DeadlineExceeded("the time of the call was out when it came", ran=Ran.NO)
        if len(self._queue) >= self.queue_limit and not self._free(connection):
            full = f"{self.service} is full: {len(self._running)} calls run and {len(self._queue)} wait"
            return ResourceExhausted(full, ran=Ran.NO, retry_after=RETRY_AFTER)
        return None

    def _start(self, call: Inbound) -> None:
        call.running = True
        self._running.add(call)
        call.task = start(self._run(call), self._loop, self._variables.copy())

    async def _run(self, call: Inbound) -> None:
        handler, codec, blocks = self._handlers[call.frame.method]
        call.entered = True
        answering.set(call.context)
        answer: Reply | Fail
        try:
            # Checked here, not before: the loop may have been busy since, and a late call must never run.
            if call.expires <= self._loop.time():
                call.late(0.0)
            if call.why is not None:
                raise call.why
            arguments = codec.arguments(call.frame.payload)
            call.context.began = not blocks
            answer = self._reply(call, codec, await handler(**arguments))
        except BaseException as error:
            answer = self._failed(call, codec, error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        self._answer(call, answer)

    def _reply(self, call: Inbound, codec: Codec, result: Any) -> Reply:
        payload = codec.answer(result)
        if len(payload) > call.connection.largest_payload:
            size, most = len(payload), call.connection.largest_payload
            raise PayloadTooLarge(f"the result of {codec.label} has {size} bytes, over the limit of {most}")
        head = call.frame.head
        if head is not None and "instance" in head:  # the agent names one only where a process serves several
            head = {"instance": call.context.instance, "load": len(self._running) + len(self._queue) - 1}
            return Reply(_REPLY, call.frame.id, head, payload)
        return Reply(_REPLY, call.frame.id, None, payload)

    def _failed(self, call: Inbound, codec: Codec, error: BaseException) -> Fail:
        ran = Ran.YES if call.context.began else Ran.NO
        if call.why is not None and isinstance(error, asyncio.CancelledError):
            # Stopped from outside while it ran: how far it came, only the handler could tell.
            error, ran = call.why, Ran.MAYBE if call.context.began else Ran.NO
        return failure(call.frame.id, error, codec.label, call.context.instance, ran)

    def _answer(self, call: Inbound, frame: Reply | Fail) -> None:
        self._running.discard(call)
        self._deadlines.drop(call, call.expires)
        if call.connection.inbound.pop(call.frame.id, None) is not None:
            call.connection.send(frame)
        self.pump()
        if self._idle is not None and not self._idle.done() and not (self._running or self._queue):
            self._idle.set_result(None)


def expiry_of(frame: Call, now: float) -> float:
    """Return when a call is out of time, on the clock that both ends of the socket share."""
    expires = now + frame.ttl_ms / 1000
    said = frame.head.get("expires_us") if frame.head else None
    return min(expires, said / 1_000_000) if type(said) is int else expires


def start(work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, variables: Variables) -> asyncio.Task[None]:
    """Start a task; where Python can (3.12), its first step runs at once: a short handler costs no loop turn."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, context=variables, eager_start=True)
    return loop.create_task(work, context=variables)
