import asyncio
from pathlib import Path

import msgpack
import pytest
from bus_mesh_sdk import AgentAway, DeadlineExceeded, InvalidArgument, Mesh, OutcomeUnknown, Service, rpc
from peer import PeerAgent, listening
from shop import Order, Orders, OrdersImpl, soon

from bus_mesh.protocol.errors import Draining, PermissionDenied, Ran, Unavailable
from bus_mesh.protocol.frames import Call, Drain, Fail, Reply, Serve, Withdraw


async def away(mesh: Mesh) -> None:
    """Return once the SDK has noticed that its agent is gone."""
    way = mesh._link.flights.connection
    if way is not None:
        await way.closed


def quiet() -> PeerAgent:
    agent = PeerAgent()
    agent.carries = False
    return agent


async def test_connect_waits_for_an_agent_that_is_not_up_yet(socket: Path) -> None:
    opening = asyncio.create_task(Mesh.connect(app="web", socket=socket).__aenter__())
    await asyncio.sleep(0.05)  # it must have failed to connect at least once; whether it did is not what is tested
    async with listening(socket):
        mesh = await opening
        assert mesh.node == "node-a"
        await mesh.close()


async def test_an_agent_that_never_comes_is_an_error_with_the_path_and_the_next_step(socket: Path) -> None:
    with pytest.raises(AgentAway) as caught:
        await Mesh.connect(app="web", socket=socket, patience=0.1)

    assert f"no agent after 0.1 s ({socket}: No such file or directory)" in caught.value.message
    assert "`busmesh up`" in caught.value.message and "BUSMESH_SOCKET" in caught.value.message
    assert caught.value.ran == "no"


async def test_a_refusal_is_told_at_once(socket: Path) -> None:
    agent = PeerAgent()
    agent.refuses = PermissionDenied("user 1000 may not speak as web")
    async with listening(socket, agent):
        with pytest.raises(PermissionDenied, match="user 1000 may not speak as web"):
            await Mesh.connect(app="web", socket=socket)

    assert agent.hellos == 1


async def test_an_agent_that_is_leaving_is_waited_out(socket: Path) -> None:
    agent = PeerAgent()
    agent.refuses = Unavailable("this agent is leaving")
    async with listening(socket, agent):
        opening = asyncio.ensure_future(Mesh.connect(app="web", socket=socket).__aenter__())
        while agent.hellos < 2:
            await asyncio.sleep(0.001)
        agent.refuses = None
        await (await opening).close()


async def test_a_path_too_long_for_a_socket_is_refused_with_the_way_out() -> None:
    with pytest.raises(InvalidArgument, match=r"limit is 107: give the agent a shorter `socket:`"):
        Mesh.connect(app="web", socket="/tmp/" + "x" * 110)


async def test_a_service_is_served_again_by_the_next_agent(socket: Path) -> None:
    orders = OrdersImpl()
    async with listening(socket) as first:
        mesh = await Mesh.connect(app="web", socket=socket)
        serving = await mesh.serve(orders, labels={"zone": "a"})
        said = await first.next(Serve)
        before = serving.instance
    async with listening(socket) as second:
        again = await second.next(Serve)
        assert await mesh.client(Orders, timeout=2.0).get("1") == Order(id="1")
        assert again[2:] == said[2:]
        assert serving.instance in second.instances and serving.instance != before
        await mesh.close()


async def test_a_call_made_while_the_agent_is_away_waits_for_it(socket: Path) -> None:
    async with listening(socket, quiet()):
        mesh = await Mesh.connect(app="web", socket=socket)
    await away(mesh)
    asked = asyncio.create_task(mesh.call("orders", "create", {}))
    await asyncio.sleep(0)
    async with listening(socket, quiet()) as second:
        second.answer(await second.next(Call), 7)
        assert await asked == 7
        await mesh.close()


async def test_a_call_that_no_agent_came_back_for_was_not_sent(socket: Path) -> None:
    async with listening(socket, quiet()):
        mesh = await Mesh.connect(app="web", socket=socket)
    await away(mesh)
    with pytest.raises(AgentAway, match=r"orders\.get was not sent: ") as caught:
        await mesh.call("orders", "get", {}, timeout=0.1)
    await mesh.close()

    assert caught.value.ran == "no"


async def test_a_call_that_an_agent_took_along_may_have_run_even_if_it_is_never_sent_again(socket: Path) -> None:
    async with listening(socket, quiet()) as agent:
        mesh = await Mesh.connect(app="web", socket=socket)
        asked = asyncio.create_task(mesh.call("orders", "get", {}, timeout=0.3, idempotent=True))
        await agent.next(Call)
    with pytest.raises(AgentAway, match=r"orders\.get was not sent again: ") as caught:
        await asked
    await mesh.close()

    assert caught.value.ran == "maybe"


async def test_calls_in_flight_when_the_agent_dies_are_sent_again_only_if_idempotent(socket: Path) -> None:
    async with listening(socket, quiet()) as first:
        mesh = await Mesh.connect(app="web", socket=socket)
        idempotent = asyncio.create_task(mesh.client(Orders, timeout=3.0).get("1"))
        other = asyncio.create_task(mesh.client(Orders).create(Order(id="2")))
        sent = [await first.next(Call), await first.next(Call)]
    with pytest.raises(OutcomeUnknown) as caught:
        await other
    async with listening(socket, quiet()) as second:
        again = await second.next(Call)
        second.answer(again, {"id": "1"})
        assert await idempotent == Order(id="1")
        await mesh.close()

    assert caught.value.ran == "maybe"
    assert again.id not in {call.id for call in sent}
    assert again.head == sent[0].head, "the same deadline"
    assert again.ttl_ms <= sent[0].ttl_ms
    assert not any(isinstance(frame, Call) for frame in second.said())


async def test_a_late_answer_to_an_old_try_is_dropped(socket: Path) -> None:
    async with listening(socket, quiet()) as first:
        mesh = await Mesh.connect(app="web", socket=socket)
        asked = asyncio.create_task(mesh.call("orders", "get", {}, idempotent=True))
        old = await first.next(Call)
    async with listening(socket, quiet()) as second:
        again = await second.next(Call)
        second.answer(old, "old")
        second.answer(again, "new")
        assert await asked == "new"
        await mesh.close()


async def test_handlers_stop_when_their_agent_dies(socket: Path) -> None:
    orders = OrdersImpl()
    orders.hold()
    async with listening(socket) as first:
        mesh = await Mesh.connect(app="web", socket=socket)
        serving = await mesh.serve(orders, concurrency=1)
        first.session.call("orders", "get", {"id": "1"})
        first.session.call("orders", "get", {"id": "queued"})
        await soon(orders.started)
    assert await soon(orders.cancelled) == "1"
    orders.go.set()
    async with listening(socket) as second:
        await second.next(Serve)
        assert (await mesh.client(Orders, timeout=2.0).get("2")).id == "2"
        assert (serving.running, serving.queued, orders.ran) == (0, 0, ["1", "2"])
        await mesh.close()


async def test_after_drain_new_calls_wait_for_the_next_agent_and_old_ones_are_answered(socket: Path) -> None:
    async with listening(socket, quiet()) as first:
        mesh = await Mesh.connect(app="web", socket=socket)
        old = asyncio.create_task(mesh.call("orders", "get", {"n": 1}))
        call = await first.next(Call)
        leaving = first.session
        leaving.drain()
        way = mesh._link.flights.connection
        assert way is not None
        await way.ended
        new = asyncio.create_task(mesh.call("orders", "get", {"n": 2}))
        second = await first.next(Call)  # by the next connection: the SDK dials while the old one still answers
        assert first.session is not leaving
        first.answer(second, "new")
        first.answer(call, "old", leaving)
        assert (await old, await new) == ("old", "new")
        await mesh.close()


async def test_a_call_that_crossed_the_drain_is_sent_to_the_next_agent(socket: Path) -> None:
    async with listening(socket, quiet()) as agent:
        mesh = await Mesh.connect(app="web", socket=socket)
        asked = asyncio.create_task(mesh.call("orders", "create", {}))
        crossed = await agent.next(Call)
        leaving = agent.session
        leaving.drain()
        agent.refuse(crossed, Draining("leaving"), Ran.NO, leaving)
        again = await agent.next(Call)
        agent.answer(again, 7)

        assert await asked == 7
        assert again.id != crossed.id
        await mesh.close()


async def test_an_app_says_drain_behind_the_calls_that_it_made_before_it_heard(socket: Path) -> None:
    async with listening(socket, quiet()) as agent:
        mesh = await Mesh.connect(app="web", socket=socket)
        leaving = agent.session
        calls = [asyncio.create_task(mesh.call("orders", "create", {})) for _ in range(3)]
        await asyncio.sleep(0)  # they are said, and DRAIN is not read
        leaving.drain()
        crossed = [await agent.next(Call) for _ in calls]
        await agent.next(Drain)
        for call in crossed:
            agent.refuse(call, Draining("leaving"), Ran.NO, leaving)
        for number in range(3):
            agent.answer(await agent.next(Call), number)
        assert sorted(await asyncio.gather(*calls)) == [0, 1, 2]
        await mesh.close()


async def test_a_draining_instance_elsewhere_is_not_mistaken_for_a_leaving_agent(socket: Path) -> None:
    async with listening(socket, quiet()) as agent:
        mesh = await Mesh.connect(app="web", socket=socket)
        asked = asyncio.create_task(mesh.call("orders", "create", {}))
        agent.refuse(await agent.next(Call), Draining("that instance is leaving"), Ran.NO)

        with pytest.raises(Draining):
            await asked
        await mesh.close()


async def test_after_drain_a_service_is_offered_to_the_next_agent_and_answers_the_old_one(socket: Path) -> None:
    orders = OrdersImpl()
    orders.hold()
    async with listening(socket) as agent:
        mesh = await Mesh.connect(app="web", socket=socket)
        await mesh.serve(orders)
        await agent.next(Serve)
        leaving = agent.session
        number = leaving.call("orders", "get", {"id": "1"})
        await soon(orders.started)
        leaving.drain()
        await agent.next(Serve)
        orders.go.set()

        assert (await agent.next(Reply)).id == number
        await mesh.close()


async def test_what_a_leaving_agent_waits_for_may_still_call(socket: Path) -> None:
    class Outer(Service, name="outer"):
        started: asyncio.Queue[int] = asyncio.Queue()
        go = asyncio.Event()

        @rpc
        async def run(self) -> int:
            self.started.put_nowait(1)
            await self.go.wait()
            found: int = await mesh.call("orders", "get", {})
            return found

    agent = quiet()
    async with listening(socket, agent):
        mesh = await Mesh.connect(app="web", socket=socket)
        await mesh.serve(Outer())
        leaving = agent.session
        number = leaving.call("outer", "run")
        await soon(Outer.started)
        agent.refuses = Unavailable("leaving")
        leaving.drain()
        way = mesh._link.flights.connection
        assert way is not None
        await way.ended
        Outer.go.set()
        nested = await agent.next(Call)
        agent.answer(nested, 7, leaving)
        reply = await agent.next(Reply)

        assert (reply.id, msgpack.unpackb(reply.payload)) == (number, 7)
        await mesh.close()


async def test_no_idempotent_call_is_lost_while_agents_come_and_go(socket: Path) -> None:
    orders = OrdersImpl()
    ended: list[str] = []

    async def caller(mesh: Mesh, worker: int) -> None:
        for n in range(60):
            order = f"{worker}-{n}"
            try:
                assert (await mesh.client(Orders, timeout=5.0).get(order)).id == order
                ended.append("ok")
            except (OutcomeUnknown, DeadlineExceeded, AgentAway) as error:
                ended.append(error.reason)

    async with listening(socket):
        mesh = await Mesh.connect(app="web", socket=socket)
        await mesh.serve(orders)
        callers = [asyncio.create_task(caller(mesh, n)) for n in range(4)]
        while len(ended) < 20:
            await asyncio.sleep(0)
    for enough in (60, 100, 140):
        async with listening(socket):
            while len(ended) < enough:
                await asyncio.sleep(0)
    async with listening(socket):
        await asyncio.gather(*callers)
        await mesh.close()

    assert ended == ["ok"] * 240


async def test_a_service_that_the_next_agent_refuses_is_offered_again(
    socket: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bus_mesh_sdk._link.SETTLED_SECONDS", 0.01)
    async with listening(socket):
        mesh = await Mesh.connect(app="web", socket=socket)
        serving = await mesh.serve(OrdersImpl())
    async with listening(socket) as second:
        second.refuses_serve = PermissionDenied("no policy yet")
        await second.next(Serve)
        second.refuses_serve = None
        await second.next(Serve)
        assert (await mesh.client(Orders, timeout=2.0).get("1")).id == "1"
        assert serving.instance in second.instances
        await mesh.close()

    assert "the agent refuses to take orders back" in caplog.text


async def test_leaving_takes_services_back_and_lets_handlers_finish(socket: Path) -> None:
    orders = OrdersImpl()
    orders.hold()
    async with listening(socket) as agent:
        agent.confirms = True
        mesh = await Mesh.connect(app="web", socket=socket)
        await mesh.serve(orders)
        number = agent.session.call("orders", "get", {"id": "1"})
        await soon(orders.started)
        session = agent.session
        closing = asyncio.create_task(mesh.close())
        await agent.next(Withdraw)
        assert not closing.done()
        orders.go.set()
        reply = await agent.next(Reply)
        await closing
        await asyncio.wait_for(session.gone.wait(), 5)

        assert (reply.id, orders.ended) == (number, ["1"])


async def test_calls_that_come_before_the_agent_confirms_are_answered(socket: Path) -> None:
    async with listening(socket) as agent:
        mesh = await Mesh.connect(app="web", socket=socket)
        await mesh.serve(OrdersImpl())
        agent.confirms = False
        closing = asyncio.create_task(mesh.close())
        withdraw = await agent.next(Withdraw)
        agent.session.call("orders", "get", {"id": "1"})
        await agent.next(Reply)
        agent.session.send(withdraw)
        await closing


async def test_one_service_can_leave_while_the_others_stay(socket: Path) -> None:
    async with listening(socket) as agent, Mesh.connect(app="web", socket=socket) as mesh:
        first, second = await mesh.serve(OrdersImpl()), await mesh.serve(OrdersImpl())
        gone = first.instance
        await first.close()
        await first.close()

        assert list(agent.instances) == [second.instance]
        agent.session.call("orders", "get", {"id": "1"}, instance=gone)
        assert msgpack.unpackb((await agent.next(Reply)).payload) == {"id": "1", "qty": 1}


async def test_an_instance_that_the_agent_takes_back_refuses_what_still_comes(socket: Path) -> None:
    async with listening(socket) as agent, Mesh.connect(app="web", socket=socket) as mesh:
        serving = await mesh.serve(OrdersImpl())
        agent.session.send(Withdraw(20, 0, serving.instance))
        agent.session.call("orders", "get", {"id": "1"})
        failed = await agent.next(Fail)

        assert failed.reason == "DRAINING"


async def test_handlers_that_do_not_end_are_stopped(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus_mesh_sdk._link.DRAIN_SECONDS", 0.05)
    orders = OrdersImpl()
    orders.hold()
    async with listening(socket) as agent:
        mesh = await Mesh.connect(app="web", socket=socket)
        await mesh.serve(orders)
        agent.session.call("orders", "get", {"id": "1"})
        await soon(orders.started)
        await mesh.close()
        failed = await agent.next(Fail)

        assert (failed.reason, failed.head and failed.head["ran"]) == ("OUTCOME_UNKNOWN", "maybe")
        assert await soon(orders.cancelled) == "1"
