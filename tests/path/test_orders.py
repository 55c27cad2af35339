"""Commands of operators to nodes, from a session at one agent to another agent, on a bus in memory."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
from control_world import Follower, Plane, until

from bus_mesh.agent.orders import NotAnOperator
from bus_mesh.agent.run import read_clocks
from bus_mesh.identity.certificate import May
from bus_mesh.identity.command import sign_command
from bus_mesh.identity.keys import NodeKey
from bus_mesh.protocol.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MeshError,
    NotFound,
    Ran,
    ResourceExhausted,
    Unimplemented,
)


class Pair:
    """Two agents that know each other; `done` is what b was asked to do."""

    def __init__(self, plane: Plane, a: Follower, b: Follower) -> None:
        self.plane, self.a, self.b = plane, a, b
        self.done: list[dict[str, Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        b.node.orders.on("start", May.SERVICES, self.start)
        b.node.orders.on("stats", May.OBSERVE, self.start)

    async def start(self, arguments: dict[str, Any]) -> object:
        self.done.append(arguments)
        await self.gate.wait()
        if arguments.get("service") == "none":
            raise NotFound("there is no service none", ran=Ran.NO)
        if arguments.get("service") == "broken":
            raise RuntimeError("secret of the inside")
        return {"started": arguments["service"], "times": len(self.done)}

    def signed(self, verb: str = "start", request: str = "", **more: Any) -> bytes:
        """A command signed by the mesh's own operator; `arguments`, `key`, `target`, `issued_us` and `mesh` differ."""
        home = self.plane.home.path
        chain = (home / "operator.delegation").read_bytes()
        from bus_mesh.identity import document

        said = {
            "mesh": "test",
            "verb": verb,
            "arguments": msgpack.packb({"service": "orders"}),
            "request": request or secrets.token_hex(8),
            "target": self.b.node.keyring.key_id,
            "issued_us": read_clocks().wall_us,
        }
        key = more.pop("key", NodeKey.from_bytes((home / "operator.key").read_bytes()))
        return sign_command(key, document.pack_row((chain,)), **{**said, **more})

    async def ask(self, signed: bytes, verb: str = "start", timeout: float = 5.0) -> Any:
        peer = self.a.node.keyring.latest("node-b")
        assert peer is not None
        subject = self.a.node.subjects.command("node-b")
        return msgpack.unpackb(await self.a.node.requests.ask(peer, subject, verb, signed, timeout))


@asynccontextmanager
async def two(folder: Path) -> AsyncIterator[Pair]:
    plane = Plane(folder)
    async with AsyncExitStack() as stack:
        a, b = [await stack.enter_async_context(plane.agent(f"node-{name}")) for name in "ab"]
        a.node.watch.ask_everyone()
        await until(lambda: a.node.keyring.latest("node-b") is not None)
        yield Pair(plane, a, b)


async def test_a_command_is_carried_out_by_the_node_that_it_is_for(tmp_path: Path) -> None:
    async with two(tmp_path) as pair:
        assert await pair.ask(pair.signed()) == {"started": "orders", "times": 1}


async def test_a_change_that_is_asked_twice_is_made_once_and_both_hear_of_it(tmp_path: Path) -> None:
    async with two(tmp_path) as pair:
        pair.gate.clear()
        signed = pair.signed(request="again")
        first = asyncio.create_task(pair.ask(signed))
        await until(lambda: len(pair.done) == 1)
        second = asyncio.create_task(pair.ask(signed))
        pair.gate.set()

        assert await first == await second == await pair.ask(signed) == {"started": "orders", "times": 1}


async def test_what_is_refused_for_want_of_room_is_no_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus_mesh.agent.orders.AT_ONCE", 1)
    async with two(tmp_path) as pair:
        pair.gate.clear()
        first = asyncio.create_task(pair.ask(pair.signed()))
        await until(lambda: len(pair.done) == 1)
        signed = pair.signed()
        with pytest.raises(ResourceExhausted, match="under way"):
            await pair.ask(signed)
        pair.gate.set()
        await first

        assert (await pair.ask(signed))["times"] == 2


async def test_a_change_is_remembered_while_its_command_could_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus_mesh.agent.orders._KEPT", 2)
    async with two(tmp_path) as pair:
        signed = [pair.signed() for _ in range(3)]
        for one in signed[:2]:
            await pair.ask(one)
        with pytest.raises(ResourceExhausted, match="as many as an agent remembers"):
            await pair.ask(signed[2])
        assert (await pair.ask(signed[0]))["times"] == 1, "the outcome, not another run"

        now = pair.b.node.orders._clock()
        pair.b.node.orders._clock = lambda: now._replace(wall_us=now.wall_us + 59_000_000)
        with pytest.raises(ResourceExhausted):
            await pair.ask(signed[2])
        later = pair.signed(issued_us=now.wall_us + 61_000_000)
        pair.b.node.orders._clock = lambda: now._replace(wall_us=now.wall_us + 61_000_000)
        assert (await pair.ask(later))["times"] == 3


async def test_a_failure_is_kept_like_a_success(tmp_path: Path) -> None:
    async with two(tmp_path) as pair:
        signed = pair.signed(arguments=msgpack.packb({"service": "none"}))
        for _ in range(2):
            with pytest.raises(NotFound, match="there is no service none"):
                await pair.ask(signed)

        assert len(pair.done) == 1


async def test_looking_is_never_answered_from_memory(tmp_path: Path) -> None:
    async with two(tmp_path) as pair:
        signed = pair.signed("stats")

        assert [(await pair.ask(signed, "stats"))["times"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"key": NodeKey(b"s" * 32)}, "is not signed by"),
        ({"target": b"12345678"}, "for another process"),
        ({"mesh": "prod"}, "mesh"),
        ({"issued_us": 1_700_000_000_000_000}, "expired"),
        ({"verb": "stop"}, "a command to 'stop' does not start"),
    ],
)
async def test_what_no_operator_signed_for_this_process_is_refused(
    tmp_path: Path, wrong: dict[str, Any], why: str
) -> None:
    async with two(tmp_path) as pair:
        with pytest.raises(MeshError, match=why) as caught:
            await pair.ask(pair.signed(**wrong))

        assert (caught.value.wire_reason or caught.value.reason, pair.done) == (NotAnOperator.reason, [])
        assert caught.value.ran is Ran.NO


async def test_a_revoked_operator_is_refused(tmp_path: Path) -> None:
    async with two(tmp_path) as pair:
        pair.b.node.orders.revoked = lambda name: name == "operator"
        with pytest.raises(MeshError, match="operator operator is revoked"):
            await pair.ask(pair.signed())


async def test_noise_instead_of_a_command_is_refused_and_an_unknown_verb_named(tmp_path: Path) -> None:
    async with two(tmp_path) as pair:
        with pytest.raises(MeshError, match="start: "):
            await pair.ask(b"noise")
        with pytest.raises(Unimplemented, match=r"cannot be asked to 'dance': it knows .*start"):
            await pair.ask(pair.signed("dance"), "dance")
        with pytest.raises(InvalidArgument, match="start takes other arguments"):
            await pair.ask(pair.signed(arguments=b"\x01"))


async def test_what_fails_inside_is_logged_and_not_told(tmp_path: Path) -> None:
    async with two(tmp_path) as pair:
        with pytest.raises(MeshError, match="start failed at node-b; its agent's log says why") as caught:
            await pair.ask(pair.signed(arguments=msgpack.packb({"service": "broken"})))

        assert "secret" not in caught.value.message


async def test_an_answer_that_does_not_come_ends_the_question(tmp_path: Path) -> None:
    async with two(tmp_path) as pair:
        pair.gate.clear()
        with pytest.raises(DeadlineExceeded, match=r"no answer from node-b for 0\.05 s"):
            await pair.ask(pair.signed(), timeout=0.05)
        pair.gate.set()


async def test_a_flood_of_commands_is_cut_off_and_others_are_heard(tmp_path: Path) -> None:
    async with two(tmp_path) as pair:
        peer = pair.a.node.keyring.latest("node-b")
        assert peer is not None
        for _ in range(1000):
            pair.a.node.requests.send(peer, pair.a.node.subjects.command("node-b"), "start", b"noise", 1.0)
        dropped = pair.b.node.metrics.envelope_failures
        await until(lambda: dropped["TOO_MANY_COMMANDS"] > 0)

        assert dropped["TOO_MANY_COMMANDS"] >= 1000 - 3 * 100
