"""The way to this machine's agent, kept open: dials, dials again, and serves again what it served.

    AWAY ──WELCOME──▶ JOINED ──DRAIN, or the socket dies──▶ AWAY … ──close──▶ CLOSED

A connection that an agent leaves stays until it has answered what it has; new calls meanwhile wait for the next agent.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar

from bus_mesh.protocol.errors import AgentAway, Cancelled, Draining, InvalidArgument, MeshError, PayloadTooLarge, Ran
from bus_mesh.protocol.frames import (
    HEAD_LIMIT,
    Cancel,
    Fail,
    Fields,
    Frame,
    Head,
    Hello,
    Kind,
    Ping,
    Serve,
    Served,
    Withdraw,
    encode,
    named,
)
from bus_mesh.protocol.wheel import Wheel
from bus_mesh_sdk._connection import Connection, Reach, by_socket, dial, error_of
from bus_mesh_sdk._context import answering, asked, deadline_of, head_of
from bus_mesh_sdk._failure import refusal
from bus_mesh_sdk._flights import Flight, Flights, ids
from bus_mesh_sdk._serving import Inbound, Serving, State

SHORTEST_PAUSE: Final = 0.020
LONGEST_PAUSE: Final = 0.500
"""Seconds between two dials: doubling from the one to the other, each with jitter of half its length."""
SETTLED_SECONDS: Final = 1.0
"""How long a connection must last before the pauses begin small again; a refused SERVE is repeated after as long."""
SERVE_SECONDS: Final = 10.0
"""How long an agent may take to accept a service."""
WITHDRAW_SECONDS: Final = 10.0
"""How long an agent may take to confirm that no further call will come."""
DRAIN_SECONDS: Final = 30.0
"""How long handlers may take to finish when their service is taken back."""

_CALL: Final = int(Kind.CALL)
_REPLY: Final = int(Kind.REPLY)
_R = TypeVar("_R")
_log: Final = logging.getLogger("bus_mesh_sdk")


class Link:
    """One app's way to its agent: its calls, its services and the connection that carries them."""

    def __init__(
        self, path: str, hello: Hello, entropy: Callable[[int], bytes] = os.urandom, reach: Reach = by_socket
    ) -> None:
        self.path = path
        self.hello = hello
        self.loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.wheel: Wheel[Flight | Inbound] = Wheel(self._arm)
        self.flights = Flights(self.loop, self.wheel)
        self.servings: list[Serving] = []
        self._entropy = entropy
        self._reach = reach
        self._connections: set[Connection] = set()
        self._asked: dict[int, tuple[Serving, Connection]] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] = self.loop.create_future()
        self.closed = False

    def __repr__(self) -> str:
        return f"Link({self.hello.app} by {self.path}, {self.flights}, serving={self.servings})"

    # ---- calls

    async def call(
        self,
        service: str,
        method: str,
        payload: bytes,
        said: float | None,
        otherwise: float | None,
        idempotent: bool,
        read: Callable[[Head | None, bytes], _R],
        explicit: float | None = None,
        named: bool = False,
    ) -> _R:
        """Return what `read` makes of the reply to a call, or raise its MeshError.

        Of the timeouts (seconds) the first that is not None holds: `explicit`, that of `options(...)`, `said`; and
        where nobody said one, `otherwise` (the contract's, or the default), which policy may shorten. With `named` the
        head of the reply says which instance answered.
        """
        options, parent, now = asked.get(), answering.get(), self.loop.time()
        timeout = explicit
        if timeout is None:
            timeout = said if options.timeout is None else options.timeout
        expires = deadline_of(now, otherwise if timeout is None else timeout, parent)
        said_head = head_of(options, parent, expires, idempotent)
        if timeout is None:
            said_head["implicit"] = True
        if named:
            said_head["named"] = True
        flights = self.flights
        way = flights.connection
        if self.closed or (way is not None and len(payload) > way.largest_payload):
            self._refuse(f"{service}.{method}", len(payload))
        flight = Flight(flights, service, method, payload, said_head, expires, idempotent)
        came_by = None if parent is None else parent.connection
        flights.depart(flight, now, came_by if came_by in self._connections else None)
        try:
            _, _, head, result = await flight.future
            return read(head, result)
        except asyncio.CancelledError:
            flights.cancelled(flight)
            raise
        finally:
            if flights.waiting:
                flights.pump()

    def _refuse(self, label: str, size: int) -> NoReturn:
        """Raise why a call cannot even be tried."""
        way = self.flights.connection
        if self.closed or way is None:
            raise RuntimeError("this Mesh is closed: connect again to make further calls")
        text = f"the parameters of {label} have {size} bytes, over the limit of {way.largest_payload}"
        raise PayloadTooLarge(text, ran=Ran.NO)

    # ---- the connection

    async def open(self, patience: float) -> None:
        """Wait for the first connection, at most `patience` seconds; MeshError saying what stood in the way."""
        self._keeper = self.loop.create_task(self._keep(), name="bus-mesh link")
        try:
            async with asyncio.timeout(patience):
                await asyncio.shield(self._first)
        except BaseException as error:
            await self._hang_up()
            if not isinstance(error, TimeoutError):
                raise
            raise AgentAway(
                f"no agent after {patience:g} s ({self.flights.trouble}): start one with `busmesh agent` or "
                "`busmesh up`, or name its socket in BUSMESH_SOCKET",
                ran=Ran.NO,
            ) from None

    async def _keep(self) -> None:
        pause = SHORTEST_PAUSE
        while True:
            began = self.loop.time()
            try:
                connection = await dial(self, self.path, self.hello, self._reach)
            except MeshError as error:
                self._not_joined(error)
            else:
                self._joined(connection)
                await asyncio.wait([connection.ended])
                self.flights.trouble = f"{self.path}: {connection.trouble or 'the agent went away'}"
                if self.loop.time() - began > SETTLED_SECONDS:
                    pause = SHORTEST_PAUSE
            await asyncio.sleep(pause * (0.5 + self._entropy(1)[0] / 512))
            pause = min(LONGEST_PAUSE, pause * 2)

    def _not_joined(self, error: MeshError) -> None:
        news, self.flights.trouble = error.message != self.flights.trouble, error.message
        if error.retryable:
            return  # nobody there yet: time will help
        if not self._first.done():
            self._first.set_exception(error)
        elif news:
            _log.warning("the agent at %s refuses %s: %s", self.path, self.hello.app, error)

    def _joined(self, connection: Connection) -> None:
        if connection.alive:
            self._connections.add(connection)
        if not connection.open:
            return  # it was lost, or said DRAIN, in the very turn in which it was welcomed
        self.flights.connection = connection
        if not self._first.done():
            self._first.set_result(None)
        for serving in self.servings:
            self._offer(serving)
        self.flights.pump()

    def leaving(self, connection: Connection) -> None:
        """The agent said DRAIN."""
        if self.flights.connection is connection:
            self.flights.connection = None
            self.flights.trouble = f"{self.path}: the agent is leaving"
        for serving in self.servings:
            serving.lost(connection)
        self._asked = {number: asked for number, asked in self._asked.items() if asked[1] is not connection}

    def lost(self, connection: Connection) -> None:
        """A socket is gone."""
        self._connections.discard(connection)
        self.leaving(connection)
        if connection.trouble and connection.node:
            _log.warning("%s: gave the connection up: %s", self.path, connection.trouble)
        for call in list(connection.inbound.values()):
            call.stop(Cancelled("the agent went away, so nobody can take the answer"))
        self.flights.lost(connection)
        self.flights.pump()

    def room(self, connection: Connection) -> None:
        """The agent reads again."""
        self.flights.pump()
        for serving in self.servings:
            serving.pump()

    def heard(self, connection: Connection, frame: Fields) -> None:
        """Take a frame from the agent."""
        kind = frame[0]
        if kind == _REPLY:
            self.flights.replied(frame)
        elif kind == _CALL:
            self._called(connection, frame)
        else:
            self._seldom(connection, named(frame))

    def _seldom(self, connection: Connection, frame: Frame) -> None:
        match frame:
            case Fail():
                if not self.flights.failed(frame, connection):
                    self._refused(frame)
            case Cancel():
                call = connection.inbound.get(frame.id)
                if call is not None:
                    call.stop(Cancelled("the caller gave up"))
            case Served():
                self._served(connection, frame)
            case Withdraw():
                self._withdrawn(frame)
            case Ping(kind=Kind.PING):
                connection.send(Ping(Kind.PONG.value, frame.id))

    # ---- services

    async def serve(self, serving: Serving) -> None:
        """Offer a service; MeshError when the agent refuses it."""
        size = len(encode(self._said(serving, 1 << 63)))
        if size > HEAD_LIMIT:
            raise InvalidArgument(
                f"{serving.service}: its methods and labels take {size} bytes, over the limit of {HEAD_LIMIT}"
            )
        if self.closed:
            raise RuntimeError("this Mesh is closed: connect again to serve")
        self.servings.append(serving)
        self._offer(serving)
        try:
            async with asyncio.timeout(SERVE_SECONDS):
                await asyncio.shield(serving.joined)
        except BaseException as error:
            self.servings.remove(serving)
            serving.end()
            if not isinstance(error, TimeoutError):
                raise
            raise AgentAway(
                f"{serving.service}: the agent did not accept it in {SERVE_SECONDS:.0f} s: {self.flights.trouble}",
                ran=Ran.NO,
            ) from None

    async def withdraw(self, serving: Serving) -> None:
        """Take a service back and wait until its handlers have ended."""
        way = serving.connection
        if serving.state is State.SERVING and way is not None and way.alive:
            serving.state = State.LEAVING
            number = next(ids)
            self._asked[number] = serving, way
            way.send(Withdraw(Kind.WITHDRAW.value, number, serving.instance))
        elif serving.state is not State.LEAVING:
            serving.end()
        await asyncio.wait([serving.withdrawn], timeout=WITHDRAW_SECONDS)
        if not await serving.idle(DRAIN_SECONDS):
            serving.stop()
            await serving.idle(1.0)
        serving.end()
        if serving in self.servings:
            self.servings.remove(serving)

    def _offer(self, serving: Serving) -> None:
        way = self.flights.connection
        if way is not None and serving.state is State.JOINING and serving in self.servings:
            number = next(ids)
            self._asked[number] = serving, way
            way.send(self._said(serving, number))

    def _said(self, serving: Serving, number: int) -> Serve:
        said = serving.service, serving.version, serving.labels, serving.methods, serving.concurrency
        return Serve(Kind.SERVE.value, number, *said)

    def _served(self, connection: Connection, frame: Served) -> None:
        serving, _ = self._asked.pop(frame.id, (None, None))
        if serving is None:
            return
        serving.connection, serving.instance = connection, frame.instance
        if serving.state is State.JOINING and serving in self.servings:
            serving.state = State.SERVING
            if not serving.joined.done():
                serving.joined.set_result(None)
        else:  # taken back before the agent had accepted it
            connection.send(Withdraw(Kind.WITHDRAW.value, next(ids), frame.instance))

    def _withdrawn(self, frame: Withdraw) -> None:
        self._asked.pop(frame.id, None)
        for serving in self.servings:
            if serving.instance == frame.instance:
                serving.end()

    def _refused(self, frame: Fail) -> None:
        serving, _ = self._asked.pop(frame.id, (None, None))
        if serving is None:
            return
        error = error_of(frame)
        if serving.state is State.LEAVING:
            serving.end()
        elif not serving.joined.done():
            serving.joined.set_exception(error)
        else:
            _log.warning("the agent refuses to take %s back: %s", serving.service, error)
            self.loop.call_later(SETTLED_SECONDS, self._offer, serving)

    def _called(self, connection: Connection, frame: Fields) -> None:
        _, number, service, _, _, _, head, _ = frame
        if number in connection.inbound:
            connection.abort(f"the agent used the id {number} for two calls at once")
            return
        serving = self._serving_of(service, head)
        if serving is not None:
            serving.called(connection, frame, self.loop.time())
            return
        error = Draining(f"{service} is not served here any more", ran=Ran.NO)
        connection.send(refusal(number, error, ""))

    def _serving_of(self, service: str, head: Head | None) -> Serving | None:
        """Return whom a call is for: the instance it names, or else any of that service."""
        servings = self.servings
        instance = None if head is None or len(servings) == 1 else head.get("instance")
        found = None
        for serving in servings:
            if serving.service == service:
                if instance is None or serving.instance == instance:
                    return serving
                found = found or serving
        return found

    # ---- deadlines and the end

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self.loop.time()
        for thing in self.wheel.due(now):
            thing.late(now)
        self.flights.pump()
        if (due := self.wheel.next_due()) is not None:
            self._arm(due)

    def hurry(self) -> None:
        """Wait for nothing more: what still runs is stopped."""
        for serving in self.servings:
            serving.end()
            serving.stop()

    async def close(self) -> None:
        """Take every service back, let handlers finish (30 s at most), then end all calls and hang up."""
        if self.servings:
            await asyncio.wait([self.loop.create_task(self.withdraw(serving)) for serving in self.servings])
        self.closed = True
        self.flights.close()
        await self._hang_up()

    async def _hang_up(self) -> None:
        self.closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        open_now = list(self._connections)
        for connection in open_now:
            connection.close()
        if open_now:
            await asyncio.wait([connection.closed for connection in open_now], timeout=1.0)
        for connection in open_now:
            connection.abort("")
        if self._timer is not None:
            self._timer.cancel()
