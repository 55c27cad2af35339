"""Live calls as those see them who watch: at a real agent on a bus in memory."""

import asyncio
from typing import Any

import msgpack
import pytest
from bus_mesh_sdk.testing import MeshTest
from test_whole_mesh import Book, Ledger, network

from bus_mesh.agent.looks import HIGHEST_RATE, KEPT, MOST, Looks, Wanted
from bus_mesh.gates.gate import Flight, Path
from bus_mesh.protocol.call import Outcome
from bus_mesh.protocol.errors import InvalidArgument, MeshError, NotFound, Ran, ResourceExhausted
from bus_mesh.protocol.frames import Fail

GET = {"id": "one", "service": "orders"}


class World:
    def __init__(self) -> None:
        self.now = 100.0
        self.changes = 0
        self.allowed = True
        self.looks = Looks(lambda: self.now, lambda: 1e9 + self.now, self.change, lambda service, method: self.allowed)

    def change(self) -> None:
        self.changes += 1

    def call(self, method: str = "get", error: MeshError | None = None, caller: str = "web") -> None:
        flight = Flight(Path(), None, 1, "orders", method, caller, None, b"\x81", self.now - 0.25, self.now + 1)
        outcome = Outcome("a-1", b"answer") if error is None else Outcome.refusal(error, "a-1")
        self.looks.show(flight, outcome, self.now)

    async def poll(self, **more: Any) -> Any:
        return await self.looks.poll({**GET, **more})


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("bus_mesh.agent.looks.LINGER", 0.001)
    return World()


async def test_a_look_shows_the_calls_since_its_last_poll_once(world: World) -> None:
    assert await world.poll() == {"calls": [], "dropped": 0}
    world.call()
    (seen,) = (await world.poll())["calls"]

    assert seen == {
        "at": 1e9 + 100.0,
        "from": "web",
        "service": "orders",
        "method": "get",
        "instance": "a-1",
        "code": "OK",
        "reason": "",
        "took_ms": 250.0,
        "tries": 1,
    }
    assert (await world.poll())["calls"] == []


@pytest.mark.parametrize(
    ("wanted", "count"),
    [({}, 3), ({"from": "cli"}, 1), ({"method": "get"}, 2), ({"code": "NOT_FOUND"}, 1), ({"service": "stock"}, 0)],
)
async def test_a_look_shows_what_it_wants_and_nothing_else(world: World, wanted: dict[str, str], count: int) -> None:
    await world.poll(**wanted)
    world.call()
    world.call(error=NotFound("gone", ran=Ran.YES))
    world.call("create", caller="cli")

    assert len((await world.poll(**wanted))["calls"]) == count


async def test_more_than_a_look_may_show_in_a_second_is_counted(world: World) -> None:
    await world.poll(max_rps=5)
    for _ in range(12):
        world.call()
    told = await world.poll()
    world.now += 1
    world.call()

    assert (len(told["calls"]), told["dropped"]) == (5, 7)
    assert len((await world.poll())["calls"]) == 1


async def test_a_reader_that_stops_reading_costs_a_bounded_ring_and_is_told_what_it_missed(world: World) -> None:
    await world.poll(max_rps=HIGHEST_RATE)
    for _ in range(3):
        world.now += 1
        for _ in range(900):
            world.call()
    told, missed = 0, 0
    while (answer := await world.poll())["calls"]:
        told, missed = told + len(answer["calls"]), missed + answer["dropped"]

    assert (told, missed) == (KEPT, 2700 - KEPT)


async def test_a_look_that_nobody_polls_is_forgotten_and_paths_are_made_without_it(world: World) -> None:
    await world.poll()
    assert (world.looks.watched("orders"), world.changes) == (True, 1)

    world.now += 9.9
    world.looks.expire()
    assert world.looks.watched("orders")
    world.now += 0.2
    world.looks.expire()

    assert (world.looks.watched("orders"), world.changes) == (False, 2)


async def test_what_a_service_says_is_bounded_too(world: World) -> None:
    await world.poll(payload=True)
    for _ in range(150):
        flight = Flight(Path(), None, 1, "orders", "get", "web", None, b"x" * 10_000, world.now, world.now + 1)
        error = Fail(3, 0, 2, "R" * 30_000, "m", None, None)
        outcome = Outcome.failure(error, "a-1")
        outcome.payload = b"y" * 10_000
        world.looks.show(flight, outcome, world.now)
    first, second = await world.poll(), await world.poll()

    assert first["calls"][0]["reason"] == "R" * 64
    assert len(msgpack.packb(first)) < 300 * 1024
    assert len(first["calls"]) == len(second["calls"]) == 32, "the rest is for the next polls"


async def test_only_so_many_look_at_once(world: World) -> None:
    for number in range(MOST):
        await world.poll(id=f"n{number}")
    with pytest.raises(ResourceExhausted, match="8 look at this agent"):
        await world.poll(id="one more")


async def test_payload_shows_only_where_policy_lets_it_and_is_cut(world: World) -> None:
    await world.poll(payload=True)
    world.call()
    world.allowed = False
    world.call()
    open_, shut = (await world.poll())["calls"]

    assert (open_["request"], open_["answer"]) == (b"\x81", b"answer")
    assert (shut["request"], shut["answer"]) == (None, None)


@pytest.mark.parametrize(
    "wrong",
    [{"max_rps": 0}, {"max_rps": 1001}, {"max_rps": "5"}, {"from": 7}, {"payload": 1}, {"service": "a.b"}, {"id": ""}],
)
async def test_nonsense_is_refused(world: World, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        await world.poll(**wrong)
    assert not world.looks.watched("orders")


def test_what_is_wanted_has_defaults() -> None:
    assert Wanted.read(GET) == Wanted("orders", "", "", "", 100, False)


async def test_the_gate_is_in_the_path_only_while_somebody_watches() -> None:
    async with MeshTest() as t:
        await t.serve(Book())
        await t.call(Ledger.write, "a")
        looks = [node.looks for node in network(t).nodes.values()]
        compilers = [node._compiler for node in network(t).nodes.values()]

        def paths() -> set[str]:
            return {repr(one.route("ledger", "write").path) for one in compilers}

        assert not any("Tap" in path or "Trace" in path for path in paths())
        polls = [asyncio.ensure_future(look.poll({"id": "one", "service": "ledger"})) for look in looks]
        await t.advance(0.0)
        assert all(path.startswith("Measure > Tap > ") for path in paths())
        await t.call(Ledger.write, "b")
        await t.advance(2.0)
        (seen,) = [call for poll in polls for call in (await poll)["calls"]]
        assert (seen["service"], seen["method"], seen["code"]) == ("ledger", "write", "OK")
        await t.advance(12.0)
        assert not any("Tap" in path for path in paths())
