"""One socket to the agent: bytes to frames and back, everything of one loop turn in one write.

    DIALLING ──WELCOME──▶ OPEN ──DRAIN──▶ LEAVING ──▶ CLOSED

What the frames mean is the owner's affair. A connection is never reused: after it is CLOSED the owner dials another.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, TypeAlias, cast

from bus_mesh.clock import monotonic
from bus_mesh.protocol.bunches import bunches
from bus_mesh.protocol.errors import AgentAway, FailedPrecondition, MeshError, PermissionDenied, Ran
from bus_mesh.protocol.frames import (
    FRAME_LIMIT,
    HEAD_LIMIT,
    Drain,
    Fail,
    Fields,
    Frame,
    Hello,
    Kind,
    Welcome,
    encode,
    named,
)
from bus_mesh.protocol.session import PROTOCOL_VERSION, ProtocolError, Session, Side, State
from bus_mesh.protocol.turn import Turn

# A member of an enum costs 0.1 µs to look up by its class, several times a call.
_DRAIN: Final = int(Kind.DRAIN)
_OPEN: Final = State.OPEN
_LEAVING: Final = State.LEAVING
_CLOSED: Final = State.CLOSED
UNSENT_LIMIT: Final = 64 * 1024 * 1024
"""Unsent bytes at which the agent is taken for dead."""
WELCOME_SECONDS: Final = 5.0
"""How long an agent may take to answer HELLO."""


class Owner(Protocol):
    """Who a connection reports to. Called from the loop; must not raise."""

    def heard(self, connection: "Connection", frame: Fields) -> None:
        """Take a frame other than the first."""

    def leaving(self, connection: "Connection") -> None:
        """The agent said DRAIN: no new call may go this way."""

    def lost(self, connection: "Connection") -> None:
        """The socket is gone, whatever the reason."""

    def room(self, connection: "Connection") -> None:
        """The agent reads again after it had fallen behind."""


class Connection(asyncio.Protocol):
    """A session with an agent, over one socket."""

    def __init__(self, owner: Owner, hello: Hello, loop: asyncio.AbstractEventLoop, now: Callable[[], float]) -> None:
        self.session = Session(Side.APP)
        self.paused = False
        self.trouble = ""
        """Why this end gave the connection up, if it did."""
        self.largest_payload = FRAME_LIMIT - HEAD_LIMIT
        self.most_calls = 4096
        self.node = ""
        self.inbound: dict[int, Any] = {}
        """Calls of the agent that are being answered, by id; the serving side's own."""
        self.welcome: asyncio.Future[Welcome] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        """Done once no new call may go this way."""
        self.closed: asyncio.Future[None] = loop.create_future()
        self._owner = owner
        self._hello = hello
        self.turn = Turn(loop.call_soon, now, self._flush)
        self.write: Final[Callable[[bytes], None]] = self.turn.add
        """Have an encoded frame leave with all others of this turn; lost on a connection that is gone."""
        self._transport: asyncio.Transport | None = None

    def __repr__(self) -> str:
        return f"Connection({self.node or 'nobody yet'}, {self.session.state.value}{', paused' if self.paused else ''})"

    @property
    def open(self) -> bool:
        """Whether calls may go this way."""
        return self.session.state is _OPEN

    @property
    def alive(self) -> bool:
        """Whether answers may still go this way."""
        return self.session.state is _OPEN or self.session.state is _LEAVING

    def send(self, frame: Frame) -> None:
        """Send a frame with all others of this loop turn; nothing happens on a connection that is gone."""
        self.write(encode(frame))

    def close(self) -> None:
        """Close once everything sent is on its way."""
        self.turn.leave()
        self.session.close()
        if self._transport is not None:
            self._transport.close()

    def abort(self, trouble: str) -> None:
        """Drop the connection and what is unsent."""
        self.trouble = self.trouble or trouble
        self.session.close()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say HELLO."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none of its subclasses
        # A write goes to the system at once, and calls wait as soon as that takes no more: the agent is behind.
        self._transport.set_write_buffer_limits(high=0)
        self.send(self._hello)

    def data_received(self, data: bytes) -> None:
        """Hand over every frame that `data` completes; a frame that may not come ends the connection."""
        try:
            frames = self.session.receive(data)
        except ProtocolError as error:
            self.abort(f"the agent broke the protocol: {error}")
            return
        heard = self._owner.heard
        for frame in frames:
            if frame[0] == _DRAIN:
                self._end()
                self._owner.leaving(self)
                self.send(Drain(_DRAIN))  # behind the calls that had left before it was heard
            elif self.node:
                heard(self, frame)
            else:
                self._greeted(named(frame))

    def pause_writing(self) -> None:
        """Let calls wait: the agent has fallen behind by a megabyte."""
        self.paused = True

    def resume_writing(self) -> None:
        """Let calls go again."""
        self.paused = False
        self._owner.room(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Report the end, once."""
        self.session.close()
        self._transport = None
        self._refused(AgentAway(self.trouble or "the agent closed the connection", ran=Ran.NO))
        self._end()
        self.closed.set_result(None)
        self._owner.lost(self)

    def _flush(self, frames: list[bytes]) -> None:
        if self._transport is None or self.session.state is _CLOSED:
            return
        self._transport.write(bunches(frames))
        if self.paused and self._transport.get_write_buffer_size() > UNSENT_LIMIT:
            self.abort("the agent has stopped reading")

    def _greeted(self, frame: Frame) -> None:
        if isinstance(frame, Fail):
            self._refused(error_of(frame))
        elif isinstance(frame, Welcome) and frame.version == PROTOCOL_VERSION and not self.welcome.done():
            self.node = frame.node or "?"
            if 0 < frame.largest_payload < self.largest_payload:
                self.largest_payload = frame.largest_payload
            most = frame.limits.get("calls")
            self.most_calls = most if type(most) is int and most > 0 else self.most_calls
            self.welcome.set_result(frame)
        else:
            spoken = getattr(frame, "version", "?")
            self._refused(
                FailedPrecondition(
                    f"the agent speaks version {spoken} of the local protocol and this SDK {PROTOCOL_VERSION}: "
                    "install the same bus-mesh release on both sides",
                    ran=Ran.NO,
                )
            )
            self.abort("another version of the local protocol")

    def _refused(self, error: MeshError) -> None:
        if not self.welcome.done():
            self.welcome.set_exception(error)
            self.welcome.exception()  # who dialled may have given up already; the loop need not complain

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


Make: TypeAlias = Callable[[Callable[[], float]], Connection]
"""Returns a new connection that is told monotonic seconds by its argument."""
Reach: TypeAlias = Callable[[Make, str], Coroutine[Any, Any, Connection]]
"""Returns a connection, made by its first argument, whose bytes go to the agent at a path; OSError if none is there."""


async def by_socket(make: Make, path: str) -> Connection:
    """Reach an agent by its Unix socket."""
    _, connection = await asyncio.get_running_loop().create_unix_connection(lambda: make(monotonic), path)
    return connection


async def dial(owner: Owner, path: str, hello: Hello, reach: Reach = by_socket) -> Connection:
    """Return an OPEN connection to the agent at `path`; MeshError saying what stands in the way."""
    loop = asyncio.get_running_loop()
    try:
        connection = await reach(lambda now: Connection(owner, hello, loop, now), path)
    except PermissionError as error:
        raise PermissionDenied(
            f"{path}: this user may not connect to the agent: join the socket's group", ran=Ran.NO
        ) from error
    except OSError as error:
        raise AgentAway(f"{path}: {error.strerror or error}", ran=Ran.NO) from error
    try:
        async with asyncio.timeout(WELCOME_SECONDS):
            await connection.welcome
    except BaseException as error:
        connection.abort("it did not become a session")
        if isinstance(error, TimeoutError):
            raise AgentAway(
                f"{path}: something listens there and did not answer in {WELCOME_SECONDS:.0f} s", ran=Ran.NO
            ) from None
        raise
    return connection


def error_of(frame: Fail) -> MeshError:
    """Return the error that a FAIL frame says; a frame that makes no sense is an error of its own."""
    try:
        return MeshError.from_wire(frame.code, frame.reason, frame.message, frame.details, frame.head)
    except Exception:  # an application's error class, or a head that an agent of another kind wrote
        return MeshError(f"{frame.reason}: {frame.message}", ran=Ran.MAYBE)
