"""A node that takes no calls until an operator says otherwise, and processes that are seen off, in memory."""

import asyncio
from typing import Any, TypeVar

from bus_mesh_sdk import Service, Serving, rpc
from bus_mesh_sdk.testing import MeshTest

from bus_mesh.agent.groups import SETTLE
from bus_mesh.agent.node import HEAR_SECONDS, Node
from bus_mesh.protocol.bunches import bunches
from bus_mesh.protocol.frames import Hello, Kind, encode
from bus_mesh.protocol.session import PROTOCOL_VERSION

T = TypeVar("T")


class Till(Service, name="till"):
    @rpc(idempotent=True)
    async def ring(self) -> str:
        raise NotImplementedError


class Ringing(Till):
    def __init__(self, name: str = "rung") -> None:
        self.name = name
        self.go = asyncio.Event()
        self.go.set()

    async def ring(self) -> str:
        await self.go.wait()
        return self.name


def node_of(t: MeshTest, serving: Serving) -> Node:
    return next(node for node in t._network.nodes.values() if serving.instance in node.hosting.instances)


def members(t: MeshTest) -> int:
    return sum(one.queue == "till" for one in t._network.broker._subscriptions)


async def ended(what: "asyncio.Future[T]") -> T:
    return await what


async def states(t: MeshTest) -> list[str]:
    mesh = await t.mesh("test")
    rows: list[dict[str, Any]] = await t._time.through(mesh.call("busmesh", "instances"))
    return sorted(row["state"] for row in rows)


async def test_a_drained_node_is_out_of_its_groups_and_back_when_it_is_undrained() -> None:
    async with MeshTest() as t:
        first, _ = await t.serve(Ringing("first")), await t.serve(Ringing("second"))
        node = node_of(t, first)
        assert [one.id for one in await t._time.through(node.hosting.drain())] == list(node.hosting.instances)
        drained = await states(t)
        answers = {await t.call(Till.ring) for _ in range(8)}
        assert (members(t), drained.count("drained")) == (2 - len(node.hosting.instances), len(node.hosting.instances))
        await t._time.through(node.hosting.undrain())
        await t.advance(0.01)

        assert (members(t), await states(t)) == (2, ["up", "up"])
        assert answers == {"second"}


async def test_what_begins_to_serve_on_a_drained_node_waits_for_its_end() -> None:
    async with MeshTest() as t:
        first = await t.serve(Ringing("first"))
        node = node_of(t, first)
        await t._time.through(node.hosting.drain())
        mesh = await t.mesh("till")
        hosts = [one for one in t._network.nodes.values() if one.door.sessions]
        for host in hosts:
            await t._time.through(host.hosting.drain())
        await t._time.through(mesh.serve(Ringing("late")))
        before = members(t)
        for host in hosts:
            await t._time.through(host.hosting.undrain())
        await t.advance(SETTLE + 0.01)

        assert before == 0 and members(t) == 2 and await states(t) == ["up", "up"]


async def test_a_service_is_taken_back_from_a_drained_node_as_from_any_other() -> None:
    async with MeshTest() as t:
        serving = await t.serve(Ringing())
        node = node_of(t, serving)
        await t._time.through(node.hosting.drain())
        await t._time.through(serving.close())

        assert node.hosting.instances == {}


async def test_who_is_seen_off_ends_its_calls_and_may_still_take_itself_back() -> None:
    async with MeshTest() as t:
        till = Ringing()
        serving = await t.serve(till)
        hosting = node_of(t, serving).hosting
        till.go.clear()
        call = asyncio.ensure_future(t.call(Till.ring))
        await t.advance(0.01)
        seen_off = asyncio.ensure_future(hosting.retire(list(hosting.instances.values()), 60.0))
        await t.advance(SETTLE + 0.1)
        assert not seen_off.done()
        till.go.set()
        assert await t._time.through(ended(call)) == "rung" and await t._time.through(ended(seen_off)) == 0
        await t._time.through(serving.close())

        assert hosting.instances == {}


async def test_calls_that_do_not_end_in_time_are_counted() -> None:
    async with MeshTest() as t:
        till = Ringing()
        hosting = node_of(t, await t.serve(till)).hosting
        till.go.clear()
        call = asyncio.ensure_future(t.call(Till.ring))
        await t.advance(0.01)
        left = await t._time.through(hosting.retire(list(hosting.instances.values()), 0.5))
        till.go.set()
        await t._time.through(ended(call))

        assert left == 1


class Deaf(asyncio.Protocol):
    """An app that says HELLO and hears nothing."""

    lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(bunches([encode(Hello(int(Kind.HELLO), PROTOCOL_VERSION, "test", "none", None))]))

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True


async def test_an_agent_that_leaves_waits_for_apps_to_hear_of_it_and_not_for_ever() -> None:
    async with MeshTest() as t:
        await t.mesh()
        (node,) = t._network.nodes.values()
        deaf = t._network.connect(node, Deaf())
        leaving = asyncio.create_task(node.drain(30.0))
        await t.advance(HEAR_SECONDS - 0.1)
        assert (leaving.done(), deaf.lost) == (False, False)
        await t.advance(SETTLE + 0.2)

        assert (leaving.done(), deaf.lost) == (True, True)


async def test_an_agent_whose_apps_have_heard_leaves_soon() -> None:
    async with MeshTest() as t:
        await t.mesh()
        (node,) = t._network.nodes.values()
        leaving = asyncio.create_task(node.drain(30.0))
        await t.advance(2 * SETTLE)

        assert leaving.done()
