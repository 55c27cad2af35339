import asyncio
import random
import struct
from pathlib import Path

import pytest
from bus_mesh_sdk import FailedPrecondition, Mesh
from bus_mesh_sdk._connection import Connection
from peer import AppSession, PeerAgent, listening
from shop import Order, Orders, OrdersImpl

from bus_mesh.protocol.bunches import bunches
from bus_mesh.protocol.frames import (
    Call,
    Cancel,
    Drain,
    Fail,
    Frame,
    Hello,
    Ping,
    Reply,
    Served,
    Welcome,
    Withdraw,
    encode,
)


async def served(socket: Path, agent: PeerAgent) -> Mesh:
    mesh = await Mesh.connect(app="web", socket=socket)
    await mesh.serve(OrdersImpl())
    return mesh


async def test_a_ping_is_answered(mesh: Mesh, agent: PeerAgent) -> None:
    agent.session.send(Ping(23, 5))

    assert await agent.next(Ping) == Ping(24, 5)


async def test_answers_to_nothing_are_ignored(mesh: Mesh, agent: PeerAgent, socket: Path) -> None:
    await mesh.serve(OrdersImpl())
    agent.session.send(
        Reply(2, 10**9, None, b""), Served(19, 10**9, "x"), Withdraw(20, 10**9, "x"), Cancel(4, 10**9), Ping(24, 1)
    )

    assert await mesh.client(Orders).get("1") == Order(id="1")
    assert agent.hellos == 1


BREAKING = {
    "garbage": b"\x00\x00\x00\x03abc",
    "a frame over the limit": struct.pack(">I", 1 << 30),
    "a frame that only apps say": bunches([encode(Hello(16, 1, "web", "x", None))]),
    "a kind that is reserved": bunches([b"\x91\x06"]),
    "a second welcome": bunches([encode(Welcome(17, 1, "node-b", {}, 1000, None))]),
}


@pytest.mark.parametrize("data", BREAKING.values(), ids=list(BREAKING))
async def test_a_broken_agent_is_left_and_dialled_again(
    socket: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(socket) as agent:
        mesh = await served(socket, agent)
        agent.session.raw(data)
        await asyncio.wait_for(agent.session.gone.wait(), 5)

        assert await mesh.client(Orders, timeout=2.0).get("1") == Order(id="1")
        assert agent.hellos == 2
        assert "broke the protocol" in caplog.text
        await mesh.close()


async def test_an_id_used_twice_at_once_breaks_the_session(socket: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with listening(socket) as agent:
        mesh = await Mesh.connect(app="web", socket=socket)
        orders = OrdersImpl()
        orders.hold()
        await mesh.serve(orders)
        agent.session.call("orders", "get", {"id": "1"}, id=5)
        agent.session.call("orders", "get", {"id": "2"}, id=5)
        await asyncio.wait_for(agent.session.gone.wait(), 5)
        orders.go.set()
        await mesh.close()

    assert "the id 5 for two calls at once" in caplog.text


class NoTransport:
    """Takes what is written nowhere."""

    def set_write_buffer_limits(self, high: int) -> None: ...
    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


FRAMES: list[Frame] = [
    Call(1, 1, "orders", "get", 1000, "web", {"expires_us": 1, "metadata": {"a": "b"}}, b"\x81\xa2id\xa11"),
    Reply(2, 1, {"instance": "x"}, b"\xc0"),
    Fail(3, 1, 14, "DRAINING", "m", None, {"ran": "no"}),
    Cancel(4, 1),
    Served(19, 1, "x"),
    Withdraw(20, 1, "x"),
    Ping(23, 1),
]


async def test_no_bytes_make_the_sdk_raise(mesh: Mesh, agent: PeerAgent) -> None:
    await mesh.serve(OrdersImpl())
    link, dice, welcomed = mesh._link, random.Random(7), encode(Welcome(17, 1, "node-a", {}, 1000, None))
    for _ in range(3000):
        connection = Connection(link, link.hello, link.loop, link.loop.time)
        connection.connection_made(NoTransport())  # type: ignore[arg-type]  # all that is asked of one
        said = bytearray(encode(dice.choice(FRAMES)))
        for _ in range(dice.randrange(3)):
            said[dice.randrange(len(said))] = dice.randrange(256)
        connection.data_received((bunches([welcomed]) if dice.random() < 0.9 else b"") + bunches([bytes(said)]))
        connection.connection_lost(None)
        await asyncio.sleep(0)

    assert await mesh.client(Orders, timeout=3.0).get("1") == Order(id="1")


async def test_another_version_of_the_protocol_is_told_at_once(socket: Path) -> None:
    class Newer(PeerAgent):
        def _greet(self, session: AppSession, frame: object) -> None:
            session.send(Welcome(17, 2, "node-a", {}, 1000, None))

    async with listening(socket, Newer()):
        with pytest.raises(FailedPrecondition, match="speaks version 2 of the local protocol and this SDK 1"):
            await Mesh.connect(app="web", socket=socket)


async def test_an_agent_that_says_drain_at_once_is_left_alone_with_pauses(socket: Path) -> None:
    class Leaving(PeerAgent):
        def _greet(self, session: AppSession, frame: object) -> None:
            super()._greet(session, frame)  # type: ignore[arg-type]  # what `heard` matched
            if self.hellos < 3:
                session.send(Drain(25))

    agent = Leaving()
    async with listening(socket, agent):
        mesh = await Mesh.connect(app="web", socket=socket)
        await mesh.serve(OrdersImpl())

        assert await mesh.client(Orders, timeout=2.0).get("1") == Order(id="1")
        assert agent.hellos == 3
        await mesh.close()


async def test_frames_cut_anywhere_are_put_together(mesh: Mesh, agent: PeerAgent) -> None:
    await mesh.serve(OrdersImpl())
    agent.session.transport = _Slicing(agent.session.transport)

    assert await mesh.client(Orders).get("1") == Order(id="1")


class _Slicing:
    """A transport that hands the bytes of each write over one by one."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def write(self, data: bytes) -> None:
        for at in range(len(data)):
            self._transport.write(data[at : at + 1])

    def abort(self) -> None:
        self._transport.abort()
