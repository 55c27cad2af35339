"""One service that this process serves, and the calls that it answers.

    JOINING ──SERVED──▶ SERVING ──close, or the agent's WITHDRAW──▶ LEAVING ──WITHDRAW back──▶ CLOSED
       ▲                   │
       └── connection lost ┘

At most `concurrency` handlers run at once and `queue` calls wait for one; a call beyond is refused at once, and one
whose time runs out in the queue is refused without having run.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from contextvars import copy_context
from enum import Enum
from functools import partial
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
from bus_mesh.protocol.frames import Fail, Fields, Head, Kind, Method, encode
from bus_mesh.protocol.names import HEALTH, SCHEMA
from bus_mesh.protocol.wheel import OFF, Wheel
from bus_mesh_sdk._codec import Codec, Mismatch, pack, unpack
from bus_mesh_sdk._connection import Connection
from bus_mesh_sdk._context import NOTHING, Context, answering, asked
from bus_mesh_sdk._failure import failure, refusal
from bus_mesh_sdk._health import Check, check_of
from bus_mesh_sdk._runner import Habit, Runner
from bus_mesh_sdk._service import Contract, Service, is_blocking

RETRY_AFTER: Final = 0.1
"""Seconds that a full service asks its callers to wait."""


class State(Enum):
    """Where a serving is; see the diagram above."""

    JOINING = "joining"
    SERVING = "serving"
    LEAVING = "leaving"
    CLOSED = "closed"


_REPLY: Final = int(Kind.REPLY)
_CLOSED: Final = State.CLOSED  # a member of an enum costs 0.1 µs to look up by its class


class Inbound(Context):
    """One call that this process answers."""

    running = False
    """Whether it holds one of the slots."""
    task: asyncio.Task[None] | None = None
    """Who runs it, from its first step on."""
    why: MeshError | None = None
    """What ended it from outside, if something did."""
    slot = OFF  # these two are the wheel's
    due = 0.0

    def __init__(self, serving: "Serving", connection: Connection, frame: Fields, expires: float) -> None:
        _, self.number, self.service, self.method, _, self.caller, self.head, self.payload = frame
        self.instance = serving.instance
        self.deadline = expires
        self.connection = connection
        self.serving = serving
        self.now = serving.now

    def __repr__(self) -> str:
        state = "running" if self.running else "queued"
        return f"Inbound({self.number}, {self.service}.{self.method}, {state})"

    def late(self, now: float) -> None:
        """End, its time being out."""
        where = "in its handler" if self.began else "before a handler was free"
        self.stop(DeadlineExceeded(f"the time of the call ran out {where}"))

    def stop(self, why: MeshError) -> None:
        """End from outside; a handler that has begun sees a cancellation."""
        if self.why is not None:
            return
        self.why = why
        self.cancelled = True
        if not self.running:
            self.serving.drop(self)
        elif self.task is not None:
            self.task.cancel()
        # One that has not begun finds `why` by itself.


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
        wheel: Wheel[Any],
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
            name: (handler, contract.methods[name].codec, is_blocking(handler), Habit())
            for name, handler in contract.handlers(implementation).items()
        }
        self._take_back = take_back
        self.now: Callable[[], float] = loop.time
        self._loop = loop
        self._wheel = wheel
        self._running: set[Inbound] = set()
        self._queue: OrderedDict[Inbound, None] = OrderedDict()
        self._idle: asyncio.Future[None] | None = None
        variables = copy_context()
        variables.run(asked.set, NOTHING)  # a handler does not inherit what its server's author asked for
        self._runner = Runner(loop, variables)
        check = check_of(implementation, contract)
        self._check = None if check is None else Check(check, contract.service, loop, variables)
        if check is not None:
            self.methods += (Method(HEALTH, True, 0, ""),)

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

    def called(self, connection: Connection, frame: Fields, now: float) -> None:
        """Run a call, queue it, or refuse it."""
        _, number, _, method, ttl_ms, _, head, _ = frame
        expires = expiry_of(ttl_ms, head, now)
        full = len(self._queue) >= self.queue_limit and not self._free(connection)
        if method not in self._handlers or expires <= now or self.state is _CLOSED or full:
            if method == HEALTH and self._check is not None:
                self._check.asked(connection, number, expires)
                return
            if method == SCHEMA:
                connection.write(self._described(frame))
                return
            error = self._refusal(method, expires, now)
            connection.write(encode(refusal(number, error, self.instance)))
            return
        call = Inbound(self, connection, frame, expires)
        connection.inbound[number] = call
        self._wheel.add(call, expires, now)
        if self._queue or not self._free(connection):
            self._queue[call] = None
        else:
            self._start(call)

    def pump(self) -> None:
        """Run what is queued, oldest first, as far as there are slots."""
        while self._queue and self._free(next(iter(self._queue)).connection):
            call, _ = self._queue.popitem(last=False)
            self._start(call)

    def drop(self, call: Inbound) -> None:
        """Refuse a call that is still queued."""
        del self._queue[call]
        assert call.why is not None
        self._answer(call, encode(refusal(call.number, call.why, self.instance)))

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
        if self._check is not None:
            self._check.stop()
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

    def _described(self, frame: Fields) -> bytes:
        """Return the answer to the agent's question what a method takes and gives."""
        try:
            name = unpack(frame[7])["method"]
            _, codec, _, _ = self._handlers[name]
        except (Mismatch, KeyError, TypeError):
            error = Unimplemented(f"{self.service} has no such method", ran=Ran.NO)
            return encode(refusal(frame[1], error, self.instance))
        return encode((_REPLY, frame[1], None, pack(codec.schema())))

    def _refusal(self, method: str, expires: float, now: float) -> MeshError:
        if self.state is _CLOSED:
            return Draining(f"{self.service} is no longer served here", ran=Ran.NO)
        if method not in self._handlers:
            return Unimplemented(f"{self.service} {self.version} has no method {method}", ran=Ran.NO)
        if expires <= now:
            return DeadlineExceeded("the time of the call was out when it came", ran=Ran.NO)
        full = f"{self.service} is full: {len(self._running)} calls run and {len(self._queue)} wait"
        return ResourceExhausted(full, ran=Ran.NO, retry_after=RETRY_AFTER)

    def _start(self, call: Inbound) -> None:
        call.running = True
        self._running.add(call)
        self._runner.run(self._run(call), self._handlers[call.method][3], partial(self._dropped, call))

    def _dropped(self, call: Inbound) -> None:
        """Answer a call whose handler will never begin, because its task was ended from outside."""
        error = call.why or Draining("the handler's task was ended before it began", ran=Ran.NO)
        self._answer(call, encode(refusal(call.number, error, call.instance)), stopping=True)

    async def _run(self, call: Inbound) -> None:
        handler, codec, blocks, _ = self._handlers[call.method]
        answering.set(call)
        try:
            # Checked here, not before: the loop may have been busy since, and a late call must never run.
            if call.deadline <= self.now():
                call.late(0.0)
            if call.why is not None:
                raise call.why
            call.task = asyncio.current_task(self._loop)  # named, or it costs a system call
            arguments = codec.arguments(call.payload)
            call.payload = b""  # what a handler starts may hold on to the call for long
            call.began = not blocks
            answer = self._reply(call, codec, await handler(**arguments))
        except BaseException as error:
            stopping = not isinstance(error, Exception) and call.why is None
            self._answer(call, encode(self._failed(call, codec, error)), stopping=stopping)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        else:
            self._answer(call, answer)

    def _reply(self, call: Inbound, codec: Codec, result: Any) -> bytes:
        payload, most = codec.answer(result), call.connection.largest_payload
        if len(payload) > most:
            raise PayloadTooLarge(f"the result of {codec.label} has {len(payload)} bytes, over the limit of {most}")
        return encode((_REPLY, call.number, None, payload))

    def _failed(self, call: Inbound, codec: Codec, error: BaseException) -> Fail:
        ran = Ran.YES if call.began else Ran.NO
        if call.why is not None and isinstance(error, asyncio.CancelledError):
            # Stopped from outside while it ran: how far it came, only the handler could tell.
            error, ran = call.why, Ran.MAYBE if call.began else Ran.NO
        return failure(call.number, error, codec.label, call.instance, ran)

    def _answer(self, call: Inbound, answer: bytes, *, stopping: bool = False) -> None:
        """Send an answer and give the slot on; not at once when it seems that the whole loop is being stopped."""
        if call.connection.inbound.pop(call.number, None) is not None:
            call.connection.write(answer)
        call.task = None
        self._running.discard(call)
        self._wheel.remove(call)
        if self._queue and not stopping:
            self.pump()
        elif self._queue and not self._loop.is_closed():
            self._loop.call_soon(self.pump)
        if self._idle is not None and not self._idle.done() and not (self._running or self._queue):
            self._idle.set_result(None)


def expiry_of(ttl_ms: int, head: Head | None, now: float) -> float:
    """Return when a call is out of time, on the clock that both ends of the socket share."""
    expires = now + ttl_ms / 1000
    said = None if head is None else head.get("expires_us")
    return said / 1_000_000 if type(said) is int and said < expires * 1_000_000 else expires
