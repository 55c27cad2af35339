"""The agent's end of the local protocol, for the SDK's tests: a real socket, and an agent that does as it is told.

By itself it welcomes, accepts what is served, carries calls to whoever serves them and confirms withdrawals. A test
switches any of this off and takes the frames into its own hands.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgpack

from bus_mesh.protocol.bunches import bunches
from bus_mesh.protocol.errors import MeshError, Ran
from bus_mesh.protocol.frames import (
    Call,
    Cancel,
    Drain,
    Fail,
    Frame,
    Hello,
    Kind,
    Ping,
    Reply,
    Serve,
    Served,
    Welcome,
    Withdraw,
    encode,
    named,
)
from bus_mesh.protocol.session import ProtocolError, Session, Side

F = TypeVar("F")
_numbers = itertools.count(1)


class AppSession(asyncio.Protocol):
    """One app's connection, seen from the agent."""

    def __init__(self, agent: "PeerAgent") -> None:
        self.agent = agent
        self.session = Session(Side.AGENT)
        self.transport: Any = None
        self.gone = asyncio.Event()
        self.hello: Hello | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.agent.sessions.append(self)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self.session.receive(data)
        except ProtocolError as error:
            self.agent.broken.append(str(error))
            self.transport.abort()
            return
        for frame in frames:
            self.agent.heard(self, named(frame))

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set()
        self.agent.sessions.remove(self)
        self.agent.instances = {k: v for k, v in self.agent.instances.items() if v[0] is not self}

    def send(self, *frames: Frame) -> None:
        self.transport.write(bunches([encode(frame) for frame in frames]))

    def raw(self, data: bytes) -> None:
        self.transport.write(data)

    def call(
        self, service: str, method: str, params: Any = None, *, ttl_ms: int = 2000, id: int | None = None, **head: Any
    ) -> int:
        """Ask the app to run a method, and return the id of the call."""
        number = next(self.agent.numbers) if id is None else id
        payload = params if isinstance(params, bytes) else msgpack.packb(params or {})
        self.send(Call(1, number, service, method, ttl_ms, "tester", head or None, payload))
        return number

    def drain(self) -> None:
        self.session.leave()
        self.send(Drain(25))


class PeerAgent:
    """An agent that does as it is told."""

    def __init__(self) -> None:
        self.sessions: list[AppSession] = []
        self.instances: dict[str, tuple[AppSession, str]] = {}
        """Instance id to its session and service."""
        self.broken: list[str] = []
        self.numbers = _numbers
        self.hellos = 0
        self.carries = True
        """Whether calls are carried to who serves them; else they are left to the test."""
        self.confirms = True
        """Whether SERVE and WITHDRAW are answered."""
        self.refuses: MeshError | None = None
        """What a HELLO is refused with."""
        self.refuses_serve: MeshError | None = None
        self.largest_payload = 1_000_000
        self.most_calls = 4096
        self._frames: asyncio.Queue[tuple[AppSession, Frame]] = asyncio.Queue()
        self._carried: dict[int, tuple[AppSession, int, AppSession]] = {}

    @property
    def session(self) -> AppSession:
        """The newest connection."""
        return self.sessions[-1]

    async def next(self, kind: type[F]) -> F:
        """Return the next frame of this kind that an app said; others before it are passed over."""
        async with asyncio.timeout(5):
            while True:
                _, frame = await self._frames.get()
                if isinstance(frame, kind):
                    return frame

    def said(self) -> list[Frame]:
        """Return what apps said and nobody took yet."""
        found = []
        while not self._frames.empty():
            found.append(self._frames.get_nowait()[1])
        return found

    def answer(self, call: Call, value: Any, session: AppSession | None = None) -> None:
        (session or self.session).send(Reply(2, call.id, {"instance": "peer-1", "load": 0}, msgpack.packb(value)))

    def refuse(self, call: Call, error: MeshError, ran: Ran, session: AppSession | None = None) -> None:
        error.ran = ran
        (session or self.session).send(fail(call.id, error))

    def heard(self, session: AppSession, frame: Frame) -> None:
        self._frames.put_nowait((session, frame))
        match frame:
            case Hello():
                self._greet(session, frame)
            case Serve() if self.refuses_serve is not None:
                session.send(fail(frame.id, self.refuses_serve))
            case Serve() if self.confirms:
                instance = f"i-{next(self.numbers)}"
                self.instances[instance] = session, frame.service
                session.send(Served(19, frame.id, instance))
            case Withdraw() if self.confirms:
                self.instances.pop(frame.instance, None)
                session.send(frame)
            case Call() if self.carries:
                self._carry(session, frame)
            case Reply() | Fail() if frame.id in self._carried:
                back, number, _ = self._carried.pop(frame.id)
                back.send(frame._replace(id=number))
            case Cancel():
                for number, (back, asked, there) in self._carried.items():
                    if back is session and asked == frame.id:
                        there.send(Cancel(4, number))

    def _greet(self, session: AppSession, frame: Hello) -> None:
        self.hellos += 1
        session.hello = frame
        if self.refuses is not None:
            session.send(fail(0, self.refuses))
            session.transport.close()
        else:
            session.send(Welcome(17, 1, "node-a", {"calls": self.most_calls}, self.largest_payload, None))

    def _carry(self, session: AppSession, frame: Call) -> None:
        for there, service in self.instances.values():
            if service == frame.service:
                number = next(self.numbers)
                self._carried[number] = session, frame.id, there
                there.send(frame._replace(id=number, caller=session.hello.app if session.hello else "?"))
                return


def fail(number: int, error: MeshError) -> Fail:
    code, reason, message, details, head = error.to_wire()
    return Fail(Kind.FAIL.value, number, code, reason, message, details, head)


@asynccontextmanager
async def listening(path: Path, agent: PeerAgent | None = None) -> AsyncIterator[PeerAgent]:
    """An agent on a socket; at the end it is gone like one that was killed."""
    agent = agent or PeerAgent()
    server = await asyncio.get_running_loop().create_unix_server(lambda: AppSession(agent), str(path))
    try:
        yield agent
    finally:
        server.close()
        path.unlink(missing_ok=True)
        for session in list(agent.sessions):
            session.transport.abort()
            await session.gone.wait()


__all__ = ["AppSession", "PeerAgent", "Ping", "fail", "listening"]
