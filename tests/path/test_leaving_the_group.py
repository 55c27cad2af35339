"""An instance that is full or unwell is out of its queue group until it is calm and well, in a whole mesh in memory."""

import asyncio
import logging
from typing import Any

import pytest
from bus_mesh_sdk import Mesh, MeshError, NoInstances, ResourceExhausted, Service, Serving, health, options, rpc
from bus_mesh_sdk.testing import MeshTest

from bus_mesh.agent.groups import LOOK_AGAIN, SETTLE
from bus_mesh.agent.inbound import Instance
from bus_mesh.agent.node import Node
from bus_mesh.bus.contract import Handler, Subscription
from bus_mesh.bus.memory import MemoryBroker
from bus_mesh.policy.traffic import Limit
from bus_mesh.resilience.limit import ConcurrencyLimit
from bus_mesh.resilience.shedding import CALM_SECONDS

BACK = SETTLE + CALM_SECONDS + 2 * LOOK_AGAIN
CHECKED = "kind: Service\nname: till\naccess: {{allow: [{{from: [test], methods: ['*']}}]}}\nhealth: {}\n"
LIMITED = """\
kind: Service
name: till
access: {allow: [{from: [test], methods: ['*']}]}
traffic: {limit: {concurrency: 2, queue: 0}}
"""


class Till(Service, name="till"):
    @rpc(idempotent=True)
    async def ring(self) -> str:
        raise NotImplementedError


class Ringing(Till):
    def __init__(self) -> None:
        self.rung = 0
        self.go = asyncio.Event()
        self.go.set()

    async def ring(self) -> str:
        self.rung += 1
        await self.go.wait()
        return "rung"


class Checked(Ringing):
    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.error: Exception | None = None
        self.stuck = False

    @health
    async def well(self) -> None:
        self.asked += 1
        if self.stuck:
            await asyncio.sleep(3600)
        if self.error is not None:
            raise self.error


def nodes(t: MeshTest) -> list[Node]:
    return list(t._network.nodes.values())


def broker(t: MeshTest) -> MemoryBroker:
    return t._network.broker


def node_of(t: MeshTest, serving: Serving) -> Node:
    return next(node for node in nodes(t) if serving.instance in node.hosting.instances)


def instance_of(t: MeshTest, serving: Serving) -> Instance:
    return node_of(t, serving).hosting.instances[serving.instance]


def full(t: MeshTest, serving: Serving) -> None:
    node_of(t, serving).hosting.full(instance_of(t, serving))


def members(t: MeshTest) -> int:
    return sum(one.queue == "till" for one in broker(t)._subscriptions)


async def states(t: MeshTest) -> list[str]:
    """What `busmesh get instances` shows."""
    mesh = await t.mesh("test")
    rows: list[dict[str, Any]] = await t._time.through(mesh.call("busmesh", "instances"))
    return sorted(row["state"] for row in rows)


async def plain_calls(t: MeshTest, count: int) -> int:
    """Publish as one who knows nothing of the mesh does; return how many found nobody."""
    nobody = 0

    def note(subject: str, reply: str, data: bytes, status: int) -> None:
        nonlocal nobody
        nobody += status == 503

    bus = broker(t).connect()
    await bus.subscribe("plain.reply", note)
    for _ in range(count):
        bus.publish("mesh.test.rpc.till.ring", b"hello", "plain.reply")
    await t.advance(0.01)
    await bus.close()
    return nobody


async def test_a_full_instance_says_so_at_once_leaves_after_a_moment_and_comes_back_when_calm() -> None:
    async with MeshTest() as t:
        serving = await t.serve(Ringing())
        node, limit = node_of(t, serving), ConcurrencyLimit[Any](Limit(concurrency=1, queue=0))
        instance_of(t, serving).limits["calls"] = limit
        limit.enter(1, 0.0, 9.0)
        full(t, serving)
        assert (members(t), instance_of(t, serving).state) == (1, "full")
        await t.advance(SETTLE + 0.01)
        assert (members(t), await plain_calls(t, 3)) == (0, 3)
        assert await t.call(Till.ring) == "rung", "what comes directly is answered all the while"
        assert await states(t) == ["full"]
        limit.leave(1, 0.0)
        await t.advance(BACK)

        assert (members(t), await states(t)) == (1, ["up"])
        assert b'busmesh_sheds_total{service="till",why="full"} 1.0' in node.metrics.render()


async def test_it_stays_out_while_its_places_are_taken_and_is_back_within_two_seconds_of_the_load_s_end() -> None:
    async with MeshTest() as t:
        serving = await t.serve(Ringing())
        limit = ConcurrencyLimit[Any](Limit(concurrency=4, queue=0))
        instance_of(t, serving).limits["calls"] = limit
        for number in range(4):
            limit.enter(number, 0.0, 9.0)
        for _ in range(20):
            full(t, serving)
            await t.advance(0.2)
        await t.advance(10.0)
        assert (members(t), instance_of(t, serving).state) == (0, "full")
        for number in range(4):
            limit.leave(number, 0.0)
        await t.advance(1.0)

        assert members(t) == 1
        assert node_of(t, serving).metrics.sheds["full"]["till"] == 1, "it was out once, all that time"


async def test_the_others_get_the_calls_and_no_call_is_lost() -> None:
    async with MeshTest() as t:
        tills = [Ringing(), Ringing()]
        first, _ = [await t.serve(till) for till in tills]
        await t.call(Till.ring)
        full(t, first)
        await t.advance(0.01)
        before = tills[0].rung
        for step in range(30):  # while it leaves, while the group has one member, and after
            assert await t.call(Till.ring) == "rung"
            if step % 10 == 9:
                await t.advance(0.2)

        assert tills[0].rung == before


async def test_who_is_full_by_policy_s_limit_refuses_with_a_delay_and_leaves_until_its_load_has_ended() -> None:
    async with MeshTest() as t:
        t.policy(LIMITED)
        tills = [Ringing(), Ringing()]
        first, other = [await t.serve(till) for till in tills]
        tills[0].go.clear()
        with options(instance=first.instance, timeout=600.0):
            held = [asyncio.create_task(t.call(Till.ring)) for _ in range(2)]
            await t.advance(0.01)
            with pytest.raises(ResourceExhausted) as refused:
                await t.call(Till.ring)
        await t.advance(SETTLE)
        assert refused.value.retry_after > 0
        assert (instance_of(t, first).state, members(t)) == ("full", 1)
        await t.advance(30.0)
        for _ in range(30):
            assert await t.call(Till.ring) == "rung"
        assert (members(t), tills[0].rung, tills[1].rung) == (1, 2, 30)
        tills[0].go.set()
        await asyncio.gather(*held)
        await t.advance(1.0)

        assert (instance_of(t, first).state, instance_of(t, other).state, members(t)) == ("up", "up", 2)


async def test_an_app_that_refuses_what_it_has_no_place_for_is_full() -> None:
    async with MeshTest() as t:
        till = Ringing()
        serving = await t.serve(till, concurrency=2, queue=0)
        till.go.clear()
        held = [asyncio.create_task(t.call(Till.ring)) for _ in range(2)]
        await t.advance(0.01)
        with pytest.raises(ResourceExhausted) as refused:
            await t.call(Till.ring)
        await t.advance(5.0 - 0.5)
        assert (refused.value.retry_after > 0, members(t)) == (True, 0)
        with pytest.raises(ResourceExhausted):
            await t.call(Till.ring)
        till.go.set()
        await asyncio.gather(*held)
        await t.advance(1.0)

        assert (members(t), instance_of(t, serving).state) == (1, "up")


@pytest.mark.parametrize("after", [0.0, 0.1, SETTLE, SETTLE + 0.02, 0.5, 0.95, BACK, BACK + 0.3])
@pytest.mark.parametrize("how", ["withdraw", "lost", "drain"])
async def test_whatever_ends_it_while_it_is_out_or_on_its_way_nothing_is_left_behind(after: float, how: str) -> None:
    async with MeshTest() as t:
        serving = await t.serve(Ringing())
        other = await t.serve(Ringing())
        node, instance = node_of(t, serving), instance_of(t, serving)
        full(t, serving)
        await t.advance(after)
        if how == "withdraw":
            await t._time.through(serving.close())
        elif how == "drain":
            await t._time.through(node.drain(1.0))
        else:
            for session in list(node.door.sessions):
                session.close()
            serving._take_back.__self__.closed = True  # or it dials again  # type: ignore[attr-defined]
            serving.end()
        await t.advance(3.0)

        assert instance.id not in node.hosting.instances or how == "drain"
        assert (instance.state, instance.refusing) == ("leaving", True)
        assert (members(t), instance_of(t, other).state) == (1, "up")
        assert await t.call(Till.ring) == "rung"


@pytest.mark.parametrize("how", ["withdraw", "lost"])
async def test_one_that_ends_while_the_broker_takes_it_back_is_drained_and_not_up(how: str) -> None:
    async with MeshTest() as t:
        serving = await t.serve(Ringing())
        node, instance = node_of(t, serving), instance_of(t, serving)
        subscribe, asked, go = node.bus.subscribe, asyncio.Event(), asyncio.Event()

        async def slow(subject: str, handler: Handler, queue: str = "") -> Subscription:
            asked.set()
            await go.wait()
            return await subscribe(subject, handler, queue)

        full(t, serving)
        node.bus.subscribe = slow  # type: ignore[method-assign]  # a broker that takes its time
        await t.advance(BACK)
        assert asked.is_set()
        if how == "withdraw":
            await t._time.through(serving.close())
        else:
            node.hosting.lost(next(iter(node.door.sessions)))
        go.set()
        await t.advance(1.0)

        assert (members(t), instance.state, instance.refusing) == (0, "leaving", True)
        with pytest.raises(NoInstances):
            await t.call(Till.ring)


async def test_one_that_is_full_again_while_the_broker_takes_it_back_leaves_again() -> None:
    async with MeshTest() as t:
        serving = await t.serve(Ringing())
        node, instance = node_of(t, serving), instance_of(t, serving)
        subscribe, go = node.bus.subscribe, asyncio.Event()

        async def slow(subject: str, handler: Handler, queue: str = "") -> Subscription:
            await go.wait()
            return await subscribe(subject, handler, queue)

        full(t, serving)
        node.bus.subscribe = slow  # type: ignore[method-assign]
        await t.advance(BACK)
        full(t, serving)
        go.set()
        await t.advance(SETTLE + 0.01)
        assert (members(t), instance.state) == (0, "full")
        await t.advance(BACK)

        assert (members(t), instance.state) == (1, "up")


async def test_one_that_is_well_costs_no_timer() -> None:
    async with MeshTest() as t:
        await t.serve(Ringing())
        before = len([timer for _, _, timer in t._time._timers if not timer.cancelled()])
        serving = await t.serve(Ringing())
        full(t, serving)
        await t.advance(BACK + 1.0)
        after = [timer for _, _, timer in t._time._timers if not timer.cancelled()]

        assert len(after) == 2 * before, "each agent has its beat and its sweep, and an instance nothing"


async def test_an_instance_that_fails_its_check_three_times_in_a_row_is_unwell_until_it_passes() -> None:
    async with MeshTest() as t:
        till = Checked()
        serving = await t.serve(till)
        await t.advance(10.0)
        assert (till.asked, instance_of(t, serving).state) == (3, "up"), "asked at once, and every five seconds"
        till.error = OSError("disk")
        await t.advance(10.0)
        assert (till.asked, instance_of(t, serving).state, members(t)) == (5, "up", 1)
        await t.advance(5.0 + SETTLE)
        assert (instance_of(t, serving).state, members(t), await states(t)) == ("unwell", 0, ["unwell"])
        assert await t.call(Till.ring) == "rung", "nobody else is there: it is asked directly"
        till.error = None
        await t.advance(5.0 + LOOK_AGAIN)

        assert (instance_of(t, serving).state, members(t)) == ("up", 1)
        assert node_of(t, serving).metrics.sheds["unwell"]["till"] == 1


async def test_an_app_that_is_stuck_fails_its_checks() -> None:
    async with MeshTest() as t:
        till = Checked()
        serving = await t.serve(till)
        till.stuck = True
        await t.advance(16.0 + SETTLE)

        assert (instance_of(t, serving).state, till.asked) == ("unwell", 4)


async def test_policy_says_how_often_how_long_and_how_many_and_from_the_next_question_on() -> None:
    async with MeshTest() as t:
        t.policy(CHECKED.format("{interval: 1s, timeout: 200ms, failures: 2}"))
        till = Checked()
        serving = await t.serve(till)
        till.error = OSError("disk")
        await t.advance(2.0)
        assert (instance_of(t, serving).state, till.asked) == ("unwell", 3)
        till.error = None
        await t.advance(1.5)
        assert instance_of(t, serving).state == "up"
        t.policy(CHECKED.format("{interval: 10s, failures: 1}"))
        await t.advance(1.0)
        asked, till.error = till.asked, OSError("disk")
        await t.advance(8.0)
        assert till.asked == asked
        await t.advance(2.0)

        assert (till.asked, instance_of(t, serving).state) == (asked + 1, "unwell")


async def test_a_service_without_a_check_is_never_asked_and_nobody_else_can_ask() -> None:
    async with MeshTest() as t:
        plain, checked = Ringing(), Checked()
        await t.serve(plain)
        serving = await t.serve(checked)
        asked: list[str] = []
        for node in nodes(t):
            node.inbound.stray = (lambda *answer, node=node: asked.append(node.own.node),)
        await t.advance(14.0)

        assert asked == [node_of(t, serving).own.node] * 2
        assert "_health" not in instance_of(t, serving).methods
        mesh = await t.mesh("test")
        with pytest.raises(MeshError, match="not a method name"):
            await mesh.call("till", "_health")


async def test_one_that_leaves_is_asked_no_more(caplog: pytest.LogCaptureFixture) -> None:
    async with MeshTest() as t:
        till = Checked()
        serving = await t.serve(till)
        await t.advance(0.5)
        await t._time.through(serving.close())
        asked = till.asked
        await t.advance(20.0)

        assert till.asked == asked
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_one_process_with_two_instances_has_each_of_them_asked_and_only_the_unwell_leaves() -> None:
    async with MeshTest() as t:
        first = Checked()
        serving = await t.serve(first)
        second = Checked()
        mesh: Mesh = t._servers[-1]
        other = await t._time.through(mesh.serve(second))
        second.error = OSError("disk")
        await t.advance(15.0 + SETTLE)
        with options(instance=other.instance):
            assert await t.call(Till.ring) == "rung"

        assert (first.asked, second.asked) == (4, 4)
        assert [instance_of(t, one).state for one in (serving, other)] == ["up", "unwell"]
