"""The local protocol between an app and its agent, without a socket.

Bunches of frames over a stream. A `Session` says which frame may come in which state:

    app's side     JOINING ──WELCOME──▶ OPEN ──DRAIN──▶ LEAVING ──▶ CLOSED
    agent's side   JOINING ──HELLO────▶ OPEN ──(says DRAIN)──▶ LEAVING ──▶ CLOSED

Anything else is a ProtocolError, and the session is CLOSED.
"""

from enum import Enum
from typing import Final

from bus_mesh.protocol.bunches import LENGTH, read_bunch
from bus_mesh.protocol.frames import FRAME_LIMIT, Fields, FrameError, Kind, fit

PROTOCOL_VERSION: Final = 1
FIRST_FRAME_SECONDS: Final = 5.0
"""How long a new connection may take to say HELLO."""


class ProtocolError(Exception):
    """The peer said what it may not say; the session is over."""


class Decoder:
    """Bytes in, frames out; refuses a bunch over `limit` bytes from its length alone."""

    __slots__ = ("_held", "_missing", "limit")

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self.limit = limit
        self._held = bytearray()
        self._missing = 0

    def __repr__(self) -> str:
        return f"Decoder(held={self.held})"

    @property
    def held(self) -> int:
        """Bytes of a bunch that is not whole yet."""
        return len(self._held)

    def feed(self, data: bytes) -> list[Fields]:
        """Return the frames that `data` completes; raise ProtocolError for one that is too large or malformed."""
        if self._held:
            self._held += data
            if len(self._held) < self._missing:
                return []
            data = bytes(self._held)
            self._held.clear()
        frames: list[Fields] = []
        at, end = 0, len(data)
        while end - at >= 4:
            (size,) = LENGTH.unpack_from(data, at)
            if size > self.limit:
                raise ProtocolError(f"{size} bytes at once, over the limit of {self.limit}")
            stop = at + 4 + size
            if stop > end:
                break
            try:
                frames += map(fit, read_bunch(data, at + 4, stop))
            except FrameError as error:
                raise ProtocolError(str(error)) from None
            at = stop
        if at < end:
            self._hold(data[at:])
        return frames

    def _hold(self, rest: bytes) -> None:
        self._held += rest
        self._missing = 4 + LENGTH.unpack_from(rest)[0] if len(rest) >= 4 else 4


class State(Enum):
    """Where a session stands; see the diagram above."""

    JOINING = "joining"
    OPEN = "open"
    LEAVING = "leaving"
    CLOSED = "closed"


class Side(Enum):
    """Which end of the socket this session is."""

    APP = "app"
    AGENT = "agent"


_BOTH: Final = frozenset({Kind.CALL, Kind.REPLY, Kind.FAIL, Kind.CANCEL, Kind.WITHDRAW, Kind.PING, Kind.PONG})
_ROUTINE: Final = frozenset(map(int, _BOTH))  # plain numbers: they compare in half the time
_FIRST: Final[dict[Side, frozenset[int]]] = {
    Side.AGENT: frozenset({Kind.HELLO}),
    Side.APP: frozenset({Kind.WELCOME, Kind.FAIL}),
}
_LATER: Final[dict[Side, frozenset[int]]] = {
    Side.AGENT: _BOTH | {Kind.SERVE},
    Side.APP: _BOTH | {Kind.SERVED, Kind.DRAIN},
}


class Session:
    """One end of a connection: bytes in, frames that are allowed in this state out."""

    __slots__ = ("_allowed", "_routine", "_side", "decoder", "state")

    def __init__(self, side: Side, limit: int = FRAME_LIMIT) -> None:
        self.decoder = Decoder(limit)
        self.state = State.JOINING
        self._side = side
        self._allowed: frozenset[int] = _FIRST[side]
        self._routine: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"Session({self._side.value}, {self.state.value}, held={self.decoder.held})"

    def receive(self, data: bytes) -> list[Fields]:
        """Return the frames that `data` completes; raise ProtocolError, and be CLOSED, for what may not come now."""
        if self.state is State.CLOSED:
            return []
        try:
            frames = self.decoder.feed(data)
        except ProtocolError:
            self.close()
            raise
        for frame in frames:
            if frame[0] not in self._routine:
                self._turn(frame)
        return frames

    def leave(self) -> None:
        """Note that this end, an agent's, has said DRAIN: the app may now say that it has heard."""
        if self.state is State.OPEN:
            self.state = State.LEAVING
            self._allowed |= {Kind.DRAIN}

    def close(self) -> None:
        """Be CLOSED: nothing is read from here on."""
        self.state = State.CLOSED

    def _turn(self, frame: Fields) -> None:
        """Change the state as a frame asks that is not routine."""
        if frame[0] not in self._allowed:
            self._refuse(frame)
        if self.state is State.JOINING:
            if frame[0] == Kind.FAIL:
                self.close()
            else:
                self.state, self._allowed, self._routine = State.OPEN, _LATER[self._side], _ROUTINE
        elif frame[0] == Kind.DRAIN:
            self.state = State.LEAVING

    def _refuse(self, frame: Fields) -> None:
        said, state = Kind(frame[0]).name, self.state.value
        self.close()
        raise ProtocolError(f"{said} may not come to the {self._side.value} while {state}")
