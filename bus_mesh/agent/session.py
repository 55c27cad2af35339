"""One local connection: an app that calls, serves, or both.

Frames in, frames out. Identity is what `apps` granted at HELLO; the name that an app writes into a call is not read.
All frames of one turn leave in one write.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from bus_mesh.agent.apps import Peer
from bus_mesh.agent.inbound import Inbound, Instance
from bus_mesh.agent.outbound import Outbound
from bus_mesh.gates.gate import Flight
from bus_mesh.protocol.bunches import bunches
from bus_mesh.protocol.call import fail
from bus_mesh.protocol.errors import Draining, MeshError, Ran, ResourceExhausted, Unimplemented
from bus_mesh.protocol.frames import (
    Call,
    Cancel,
    Drain,
    Fail,
    Frame,
    Hello,
    Kind,
    Ping,
    Serve,
    Served,
    Welcome,
    Withdraw,
    encode,
    named,
)
from bus_mesh.protocol.session import FIRST_FRAME_SECONDS, PROTOCOL_VERSION, ProtocolError, Session, Side
from bus_mesh.protocol.turn import Turn

_CALL: Final = int(Kind.CALL)
_REPLY: Final = int(Kind.REPLY)
UNREAD_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of answers that an app may leave unread before its connection is closed."""
CALLS_PER_SESSION: Final = 4096
"""Calls in flight on one connection, in each direction."""
MOST_INSTANCES: Final = 64
"""Instances that one connection may serve."""
CONSOLE: Final = "busmesh"
"""The reserved service that every agent hosts for the command line."""


class Host(Protocol):
    """What a session needs of its agent."""

    outbound: Outbound
    inbound: Inbound
    draining: bool

    def now(self) -> float:
        """Monotonic seconds."""

    def welcome(self, peer: Peer) -> Welcome:
        """Return the answer to a HELLO from this process."""

    def refusal(self, app: str, peer: Peer) -> MeshError | None:
        """Return why a process may not speak as `app`, None when it may."""

    def serve(self, session: "LocalSession", frame: Serve) -> None:
        """Begin to serve; the session is told SERVED when it is in the group."""

    def withdraw(self, session: "LocalSession", frame: Withdraw) -> None:
        """Begin to leave; the session is told WITHDRAW when nothing more will come."""

    def console(self, session: "LocalSession", frame: Call) -> None:
        """Answer a call to the reserved service."""

    def admitted(self, session: "LocalSession") -> bool:
        """Count a connection in; False when its user has too many."""

    def holding(self, session: "LocalSession", held: int) -> bool:
        """Note how many bytes of half a frame a connection holds; False when its user holds too many."""

    def left(self, session: "LocalSession") -> None:
        """Count a connection out, and end what it held."""


class LocalSession(asyncio.Protocol):
    """The agent's end of one local connection."""

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop, identify: Callable[[Any], Peer]) -> None:
        self.app = ""
        self.peer = Peer(0, -1, frozenset(), None)
        self.heard = False
        """Whether the app knows that this agent leaves, and so has no new call on its way."""
        self.flights: dict[int, Flight] = {}
        self.serving: dict[int, Flight] = {}
        self.instances: dict[str, Instance] = {}
        self._host = host
        self._loop = loop
        self._identify = identify
        self._session = Session(Side.AGENT)
        self._transport: asyncio.Transport | None = None
        self._turn = Turn(loop.call_soon, host.now, self._flush)
        self.write: Final[Callable[[bytes], None]] = self._turn.add
        """Have an encoded frame leave with all others of this turn."""
        self._numbers = 0
        self._first: asyncio.TimerHandle | None = None
        self._admitted = False
        self._held = 0

    def __repr__(self) -> str:
        who, serves = self.app or "?", list(self.instances)
        return f"LocalSession({who}, pid={self.peer.pid}, calls={len(self.flights)}, serves={serves})"

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn who is at the other end, and give it five seconds to say HELLO."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none of its subclasses
        self._transport.set_write_buffer_limits(high=0)  # a write goes to the system at once
        self.peer = self._identify(transport)
        if not self._host.admitted(self):
            self.refuse(ResourceExhausted("this user has too many connections to the agent", ran=Ran.NO))
            return
        self._admitted = True
        self._first = self._loop.call_later(FIRST_FRAME_SECONDS, self.close)

    def data_received(self, data: bytes) -> None:
        """Handle every frame that these bytes complete."""
        try:
            frames = self._session.receive(data)
        except ProtocolError as error:
            self.refuse(MeshError(str(error)))
            return
        now, outbound, inbound = self._host.now(), self._host.outbound, self._host.inbound
        for frame in frames:
            kind = frame[0]
            if kind == _CALL:
                if frame[2] == CONSOLE:
                    self._host.console(self, Call._make(frame))
                else:
                    outbound.call(self, frame, now)
            elif kind == _REPLY:
                inbound.reply(self, frame, now)
            else:
                self._seldom(named(frame), now)
        held, before = self._session.decoder.held, self._held
        self._held = held
        if held != before and not self._host.holding(self, held):
            self.refuse(ResourceExhausted("this user has too many unfinished frames", ran=Ran.NO))

    def connection_lost(self, exc: Exception | None) -> None:
        """End what this connection held."""
        self._session.close()
        if self._first is not None:
            self._first.cancel()
        if self._admitted:
            self._host.left(self)

    # The agent's side.

    def send(self, frame: Frame) -> None:
        """Write a frame at the end of this turn."""
        self.write(encode(frame))

    def next_number(self) -> int:
        """Return a number for a call on this socket, never used before."""
        self._numbers += 1
        return self._numbers

    def drain(self) -> None:
        """Tell the app that this agent is leaving; one that is no app yet is told when it is."""
        if self.app:
            self._session.leave()
            self.send(Drain(int(Kind.DRAIN)))

    def refuse(self, error: MeshError) -> None:
        """Say why, and close."""
        self.send(fail(0, error))
        self._session.close()
        self._loop.call_soon(self.close)

    def close(self) -> None:
        """Close once what was written is sent."""
        self._session.close()
        if self._transport is not None:
            self._transport.close()

    @property
    def idle(self) -> bool:
        """Whether no call is under way in either direction, and nothing is left to write."""
        unsent = bool(self._turn) or (self._transport is not None and self._transport.get_write_buffer_size() > 0)
        return not (self.flights or self.serving or unsent)

    # Inside.

    def _seldom(self, frame: Frame, now: float) -> None:
        match frame:
            case Fail():
                self._host.inbound.fail(self, frame, now)
            case Cancel():
                self._host.outbound.cancel(self, frame.id, now)
            case Hello():
                self._hello(frame)
            case Serve():
                self._serve(frame)
            case Withdraw():
                self._host.withdraw(self, frame)
            case Ping(kind=Kind.PING):
                self.send(Ping(int(Kind.PONG), frame.id))
            case Drain():
                self.heard = True
            case _:
                pass  # a PONG: that it came is all there is to know

    def _hello(self, frame: Hello) -> None:
        if self._first is not None:
            self._first.cancel()
        if frame.version != PROTOCOL_VERSION:
            text = (
                f"this agent speaks version {PROTOCOL_VERSION} of the local protocol, not {frame.version}: upgrade one"
            )
            self.refuse(Unimplemented(text, ran=Ran.NO))
            return
        self.peer = self.peer._replace(token=frame.token)
        error = self._host.refusal(frame.app, self.peer)
        if error is not None:
            self.refuse(error)
            return
        self.app = frame.app
        self.send(self._host.welcome(self.peer))
        if self._host.draining:
            self.drain()

    def _serve(self, frame: Serve) -> None:
        error = self._host.refusal(frame.service, self.peer)
        if error is None and len(self.instances) >= MOST_INSTANCES:
            error = ResourceExhausted(f"one connection may serve {MOST_INSTANCES} instances", ran=Ran.NO)
        if error is None and self._host.draining:
            error = Draining("this node's agent is leaving", ran=Ran.NO)
        if error is not None:
            self.send(fail(frame.id, error))
        else:
            self._host.serve(self, frame)

    def _flush(self, frames: list[bytes]) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(bunches(frames))
        if transport.get_write_buffer_size() > UNREAD_LIMIT:
            transport.abort()

    def served(self, number: int, instance: Instance) -> None:
        """Tell the app that its instance is in the group."""
        self.send(Served(int(Kind.SERVED), number, instance.id))
