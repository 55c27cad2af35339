import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import msgpack
import pytest
from bus_mesh_sdk import (
    Mesh,
    MeshError,
    NoInstances,
    PermissionDenied,
    ResourceExhausted,
    Service,
    blocking,
    current,
    options,
    rpc,
)
from peer import PeerAgent
from shop import Order, Orders, OrdersImpl, OutOfStock, soon

from bus_mesh.protocol.frames import HEAD_LIMIT, Call, Fail, Reply, Serve, encode


@pytest.fixture
def orders() -> OrdersImpl:
    return OrdersImpl()


def head_of(frame: Reply | Fail) -> dict[str, Any]:
    assert frame.head is not None
    return frame.head


async def test_serving_says_what_the_contract_offers(mesh: Mesh, agent: PeerAgent, orders: OrdersImpl) -> None:
    serving = await mesh.serve(orders, labels={"zone": "a"})
    said = await agent.next(Serve)

    assert (said.service, said.version, said.labels) == ("orders", "1.2.0", {"zone": "a"})
    assert [tuple(m)[:3] for m in said.methods] == [("get", True, 500), ("create", False, 0)]
    assert serving.instance in agent.instances


async def test_an_answer_says_nothing_that_the_agent_knows_itself(
    mesh: Mesh, agent: PeerAgent, orders: OrdersImpl
) -> None:
    serving = await mesh.serve(orders)
    number = agent.session.call("orders", "get", {"id": "1"}, instance=serving.instance)
    reply = await agent.next(Reply)

    assert (reply.id, msgpack.unpackb(reply.payload)) == (number, {"id": "1", "qty": 1})
    assert reply.head is None


async def test_both_ends_meet(mesh: Mesh, agent: PeerAgent, orders: OrdersImpl) -> None:
    await mesh.serve(orders)

    assert await mesh.client(Orders).get("1") == Order(id="1")
    assert await mesh.call(Orders.create, Order(id="2", qty=3)) == Order(id="2", qty=3)


async def test_a_handler_knows_its_call(mesh: Mesh, agent: PeerAgent, orders: OrdersImpl) -> None:
    serving = await mesh.serve(orders)
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    agent.session.call("orders", "get", {"id": "1"}, metadata={"tenant": "a"}, traceparent=trace, attempt=2)
    await agent.next(Reply)
    (context,) = orders.contexts

    assert (context.caller, context.service, context.method) == ("tester", "orders", "get")
    assert (context.metadata, context.trace_id, context.attempt) == ({"tenant": "a"}, "ab" * 16, 2)
    assert (context.instance, context.cancelled) == (serving.instance, False)
    assert 1.5 < context.remaining() <= 2.0


async def test_a_context_without_a_handler_is_an_error() -> None:
    with pytest.raises(LookupError, match="only while a handler"):
        current()


async def test_nonsense_in_the_head_is_not_the_handlers_trouble(
    mesh: Mesh, agent: PeerAgent, orders: OrdersImpl
) -> None:
    await mesh.serve(orders)
    agent.session.call("orders", "get", {"id": "1"}, metadata=[1], traceparent=5, attempt="x", expires_us="soon")
    await agent.next(Reply)
    (context,) = orders.contexts

    assert (context.metadata, context.traceparent, context.trace_id, context.attempt) == ({}, "", "", 1)


async def test_a_call_past_its_deadline_does_not_run(mesh: Mesh, agent: PeerAgent, orders: OrdersImpl) -> None:
    await mesh.serve(orders)
    now_us = int(asyncio.get_running_loop().time() * 1_000_000)
    agent.session.call("orders", "get", {"id": "1"}, ttl_ms=5000, expires_us=now_us - 1)
    agent.session.call("orders", "get", {"id": "2"}, ttl_ms=0)
    failures = [await agent.next(Fail), await agent.next(Fail)]

    assert [(f.reason, head_of(f)["ran"]) for f in failures] == [("DEADLINE_EXCEEDED", "no")] * 2
    assert orders.ran == []


async def test_a_call_whose_time_ran_out_while_the_loop_was_busy_does_not_run(
    mesh: Mesh, agent: PeerAgent, orders: OrdersImpl
) -> None:
    class Busy(Service, name="busy"):
        @rpc
        async def work(self) -> None:
            until = asyncio.get_running_loop().time() + 0.1
            while asyncio.get_running_loop().time() < until:
                pass

    await mesh.serve(Busy())
    await mesh.serve(orders)
    agent.session.call("busy", "work")
    agent.session.call("orders", "get", {"id": "1"}, ttl_ms=50)
    failed = await agent.next(Fail)

    assert (failed.reason, head_of(failed)["ran"]) == ("DEADLINE_EXCEEDED", "no")
    assert orders.ran == []


async def test_a_handler_is_cancelled_at_the_deadline(mesh: Mesh, agent: PeerAgent, orders: OrdersImpl) -> None:
    await mesh.serve(orders)
    orders.hold()
    agent.session.call("orders", "get", {"id": "1"}, ttl_ms=50)
    failed = await agent.next(Fail)

    assert (failed.reason, head_of(failed)["ran"]) == ("DEADLINE_EXCEEDED", "maybe")
    assert await soon(orders.cancelled) == "1"


async def test_a_cancel_reaches_the_handler(mesh: Mesh, agent: PeerAgent, orders: OrdersImpl) -> None:
    await mesh.serve(orders)
    orders.hold()
    asked = asyncio.create_task(mesh.client(Orders).get("1"))
    await soon(orders.started)
    asked.cancel()

    assert await soon(orders.cancelled) == "1"
    assert (await agent.next(Fail)).reason == "CANCELLED"
    assert orders.contexts[0].cancelled


async def test_a_call_cancelled_in_the_turn_it_came_does_not_run(
    mesh: Mesh, agent: PeerAgent, orders: OrdersImpl
) -> None:
    from bus_mesh.protocol.frames import Cancel

    await mesh.serve(orders)
    payload = msgpack.packb({"id": "1"})
    agent.session.send(Call(1, 77, "orders", "get", 1000, "tester", None, payload), Cancel(4, 77))
    failed = await agent.next(Fail)

    assert (failed.id, failed.reason, head_of(failed)["ran"]) == (77, "CANCELLED", "no")
    assert orders.ran == []


async def test_a_cancel_of_an_unknown_call_is_ignored(mesh: Mesh, agent: PeerAgent, orders: OrdersImpl) -> None:
    from bus_mesh.protocol.frames import Cancel

    await mesh.serve(orders)
    agent.session.send(Cancel(4, 999_999))

    assert await mesh.client(Orders).get("1") == Order(id="1")


async def test_handlers_run_side_by_side_up_to_the_limit(mesh: Mesh, agent: PeerAgent, orders: OrdersImpl) -> None:
    serving = await mesh.serve(orders, concurrency=2, queue=1)
    orders.hold()
    for n in range(4):
        agent.session.call("orders", "get", {"id": str(n)})
    full = await agent.next(Fail)
    counted = serving.running, serving.queued
    orders.go.set()
    replies = [await agent.next(Reply) for _ in range(3)]

    assert counted == (2, 1)
    assert (full.reason, head_of(full)["ran"]) == ("RESOURCE_EXHAUSTED", "no")
    assert head_of(full)["retry_after_ms"] > 0
    assert "2 calls run and 1 wait" in full.message
    assert {msgpack.unpackb(r.payload)["id"] for r in replies} == {"0", "1", "2"}


async def test_a_queued_call_past_its_deadline_is_refused_in_time_and_never_runs(
    mesh: Mesh, agent: PeerAgent, orders: OrdersImpl
) -> None:
    await mesh.serve(orders, concurrency=1)
    orders.hold()
    agent.session.call("orders", "get", {"id": "0"})
    late = agent.session.call("orders", "get", {"id": "1"}, ttl_ms=50)
    failed = await agent.next(Fail)
    orders.go.set()
    await agent.next(Reply)
    await mesh.client(Orders).get("2")

    assert (failed.id, failed.reason, head_of(failed)["ran"]) == (late, "DEADLINE_EXCEEDED", "no")
    assert orders.ran == ["0", "2"]


async def test_a_queued_call_that_is_cancelled_never_runs(mesh: Mesh, agent: PeerAgent, orders: OrdersImpl) -> None:
    await mesh.serve(orders, concurrency=1)
    orders.hold()
    agent.session.call("orders", "get", {"id": "0"})
    asked = asyncio.create_task(mesh.client(Orders).get("1"))
    await agent.next(Call)
    asked.cancel()
    failed = await agent.next(Fail)
    orders.go.set()
    await agent.next(Reply)

    assert (failed.reason, head_of(failed)["ran"]) == ("CANCELLED", "no")
    assert orders.ran == ["0"]


async def test_an_unknown_method_and_a_wrong_parameter_did_not_run(
    mesh: Mesh, agent: PeerAgent, orders: OrdersImpl
) -> None:
    await mesh.serve(orders)
    agent.session.call("orders", "burn")
    unknown = await agent.next(Fail)
    agent.session.call("orders", "get", {"id": 5})
    wrong = await agent.next(Fail)

    assert (unknown.reason, head_of(unknown)["ran"]) == ("UNIMPLEMENTED", "no")
    assert (wrong.reason, head_of(wrong)["ran"]) == ("INVALID_ARGUMENT", "no")
    assert wrong.message == "orders.get: parameter 'id': expected str, came int 5"


async def test_a_handlers_own_error_travels_as_itself(mesh: Mesh, agent: PeerAgent, orders: OrdersImpl) -> None:
    await mesh.serve(orders)
    orders.error = OutOfStock("no tea", metadata={"sku": "tea"}, details={"left": 0})

    with pytest.raises(OutOfStock, match="no tea") as caught:
        await mesh.client(Orders).get("1")
    assert (caught.value.metadata, caught.value.details) == ({"sku": "tea"}, {"left": 0})
    assert caught.value.ran == "yes"


async def test_any_other_exception_travels_as_an_error_id_and_its_text_stays(
    mesh: Mesh, agent: PeerAgent, orders: OrdersImpl, caplog: pytest.LogCaptureFixture
) -> None:
    await mesh.serve(orders)
    orders.error = ValueError("the password is hunter2")
    agent.session.call("orders", "get", {"id": "1"})
    with caplog.at_level(logging.ERROR, "bus_mesh_sdk"):
        failed = await agent.next(Fail)
    error_id = head_of(failed)["metadata"]["error_id"]

    assert (failed.reason, head_of(failed)["ran"], len(error_id)) == ("INTERNAL", "yes", 16)
    assert "hunter2" not in repr(failed)
    assert [record.message for record in caplog.records] == [f"orders.get broke: error id {error_id}"]
    assert "hunter2" in caplog.text


@pytest.mark.parametrize("details", [object(), "x" * 100_000, [[]] * 100_000])
async def test_details_that_cannot_travel_are_left_out(
    mesh: Mesh, agent: PeerAgent, orders: OrdersImpl, details: Any
) -> None:
    await mesh.serve(orders)
    orders.error = OutOfStock("no tea \ud800" + "x" * 100_000, details=details)
    agent.session.call("orders", "get", {"id": "1"})
    failed = await agent.next(Fail)

    assert (failed.reason, failed.details) == ("TEST_OUT_OF_STOCK", None)
    assert len(encode(failed)) < HEAD_LIMIT


async def test_a_result_over_the_limit_is_an_error_with_both_sizes(mesh: Mesh, agent: PeerAgent) -> None:
    class Big(Service, name="big"):
        @rpc
        async def get(self) -> str:
            return "x" * 2_000_000

    await mesh.serve(Big())
    agent.session.call("big", "get")
    failed = await agent.next(Fail)

    assert (failed.reason, head_of(failed)["ran"]) == ("PAYLOAD_TOO_LARGE", "yes")
    assert failed.message == "the result of big.get has 2000005 bytes, over the limit of 1000000"


class Outer(Service, name="outer"):
    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.left = 0.0

    @rpc
    async def pass_on(self) -> str:
        self.left = current().remaining()
        return (await self.mesh.client(Orders, timeout=60).get("1")).id


async def test_a_nested_call_inherits_the_deadline_and_the_trace(
    mesh: Mesh, agent: PeerAgent, orders: OrdersImpl
) -> None:
    await mesh.serve(orders)
    await mesh.serve(Outer(mesh))
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    with options(timeout=77):
        agent.session.call("outer", "pass_on", ttl_ms=700, traceparent=trace)
        await agent.next(Reply)
    (inner,) = orders.contexts

    assert inner.remaining() <= 0.7
    assert inner.traceparent == trace


async def test_a_nested_call_is_cancelled_with_the_outer_one(mesh: Mesh, agent: PeerAgent, orders: OrdersImpl) -> None:
    await mesh.serve(orders)
    await mesh.serve(Outer(mesh))
    orders.hold()
    asked = asyncio.create_task(mesh.call("outer", "pass_on"))
    await soon(orders.started)
    asked.cancel()

    assert await soon(orders.cancelled) == "1"


async def test_an_error_passed_on_says_that_it_is_from_further_down(
    mesh: Mesh, agent: PeerAgent, orders: OrdersImpl
) -> None:
    await mesh.serve(orders)
    await mesh.serve(Outer(mesh))
    orders.error = NoInstances("nobody")
    number = agent.session.call("outer", "pass_on")
    from_orders, from_outer = await agent.next(Fail), await agent.next(Fail)

    assert from_outer.id == number
    assert "origin" not in head_of(from_orders)
    assert (from_outer.reason, head_of(from_outer)["origin"]) == ("NO_INSTANCES", "further")


async def test_a_handler_that_ran_says_so_even_if_what_it_called_did_not(mesh: Mesh, agent: PeerAgent) -> None:
    class Late(Service, name="late"):
        @rpc
        async def work(self) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await mesh.call("orders", "get", {})

    await mesh.serve(Late())
    agent.session.call("late", "work", ttl_ms=30)
    failed = await agent.next(Fail)

    assert (failed.reason, head_of(failed)["ran"]) == ("DEADLINE_EXCEEDED", "yes")


class Slow(Service, name="slow"):
    def __init__(self) -> None:
        self.go = threading.Event()
        self.began = threading.Event()
        self.seen: list[Any] = []

    @rpc
    @blocking
    def work(self, id: str) -> str:
        self.began.set()
        self.go.wait(5)
        self.seen.append((id, threading.current_thread().name, current().caller, current().cancelled))
        return id


async def test_a_blocking_handler_runs_in_a_thread_with_its_context(mesh: Mesh, agent: PeerAgent) -> None:
    slow = Slow()
    slow.go.set()
    await mesh.serve(slow)

    assert await mesh.call(Slow.work, "1") == "1"
    ((_, thread, caller, _),) = slow.seen
    assert thread.startswith("bus-mesh-blocking") and caller == "web"


async def test_a_cancelled_blocking_handler_keeps_its_slot_until_it_returns(mesh: Mesh, agent: PeerAgent) -> None:
    slow = Slow()
    serving = await mesh.serve(slow, concurrency=1)
    asked = asyncio.create_task(mesh.call(Slow.work, "1"))
    await asyncio.to_thread(slow.began.wait, 5)
    asked.cancel()
    agent.session.call("slow", "work", {"id": "2"}, ttl_ms=60)
    refused = await agent.next(Fail)
    running = serving.running
    slow.go.set()
    cancelled = await agent.next(Fail)

    assert (refused.reason, head_of(refused)["ran"]) == ("DEADLINE_EXCEEDED", "no")
    assert running == 1
    assert (cancelled.reason, head_of(cancelled)["ran"]) == ("CANCELLED", "maybe")
    assert [(id, cancelled) for id, _, _, cancelled in slow.seen] == [("1", True)]


async def test_a_blocking_handler_whose_time_ran_out_before_a_thread_was_free_did_not_run(
    mesh: Mesh, agent: PeerAgent
) -> None:
    slow = Slow()
    await mesh.serve(slow, concurrency=64)
    for n in range(32):
        agent.session.call("slow", "work", {"id": str(n)})
    await asyncio.to_thread(slow.began.wait, 5)
    agent.session.call("slow", "work", {"id": "late"}, ttl_ms=60)
    refused = await agent.next(Fail)
    slow.go.set()
    for _ in range(32):
        await agent.next(Reply)

    assert (refused.reason, head_of(refused)["ran"]) == ("DEADLINE_EXCEEDED", "no")
    assert "late" not in [id for id, *_ in slow.seen]


async def test_nothing_new_runs_while_the_agent_does_not_read(mesh: Mesh, agent: PeerAgent) -> None:
    class Big(Service, name="big"):
        ran = 0

        @rpc
        async def get(self) -> str:
            Big.ran += 1
            return "x" * 900_000

    await mesh.serve(Big())
    agent.session.transport.pause_reading()
    way = mesh._link.flights.connection
    assert way is not None
    while not way.paused:
        agent.session.call("big", "get")
        await asyncio.sleep(0.001)  # the socket's buffer has to fill; the loop ends when it has
    ran = Big.ran
    for _ in range(10):
        agent.session.call("big", "get")
    while len(way.inbound) < 10:
        await asyncio.sleep(0.001)  # the calls have to arrive; the loop ends when they have
    assert Big.ran == ran

    agent.session.transport.resume_reading()
    for _ in range(ran + 10):
        await agent.next(Reply)


async def test_a_refused_service_says_why(mesh: Mesh, agent: PeerAgent, orders: OrdersImpl) -> None:
    agent.refuses_serve = PermissionDenied("web may not serve orders")

    with pytest.raises(PermissionDenied, match="web may not serve orders"):
        await mesh.serve(orders)
    assert mesh._link.servings == []


async def test_two_services_of_one_process_are_told_apart(mesh: Mesh, agent: PeerAgent, orders: OrdersImpl) -> None:
    other = OrdersImpl()
    first, second = await mesh.serve(orders), await mesh.serve(other, version="2.0.0")
    agent.session.call("orders", "get", {"id": "1"}, instance=first.instance)
    agent.session.call("orders", "get", {"id": "2"}, instance=second.instance)
    await agent.next(Reply)
    await agent.next(Reply)

    assert (orders.ran, other.ran) == (["1"], ["2"])


async def test_a_call_for_what_is_not_served_here_is_tried_elsewhere(mesh: Mesh, agent: PeerAgent) -> None:
    agent.session.call("stock", "get")
    failed = await agent.next(Fail)

    assert (failed.reason, head_of(failed)["ran"]) == ("DRAINING", "no")


async def test_a_handler_does_not_inherit_its_servers_options(agent: PeerAgent, socket: Path) -> None:
    with options(timeout=0.01, key="x"):
        async with Mesh.connect(app="web", socket=socket) as mesh:
            await mesh.serve(OrdersImpl())
            await mesh.serve(Outer(mesh))
            agent.session.call("outer", "pass_on")
            nested = await agent.next(Call)
            await agent.next(Reply)

    assert nested.head is not None and "key" not in nested.head
    assert nested.ttl_ms > 100


ENDLESS = ResourceExhausted("x", retry_after=float("inf"))


@pytest.mark.parametrize("error", [MeshError("x"), ValueError("x"), asyncio.CancelledError(), ENDLESS])
async def test_however_a_handler_ends_its_slot_is_free_again(
    mesh: Mesh, agent: PeerAgent, orders: OrdersImpl, error: BaseException
) -> None:
    serving = await mesh.serve(orders, concurrency=1)
    orders.error = error
    agent.session.call("orders", "get", {"id": "1"})
    await agent.next(Fail)
    orders.error = None

    assert await mesh.client(Orders).get("2") == Order(id="2")
    assert (serving.running, serving.queued, len(mesh._link.wheel)) == (0, 0, 0)
