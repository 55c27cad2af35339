import asyncio
from typing import Any

import msgpack
import pytest
from bus_mesh_sdk import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    InvalidName,
    Mesh,
    MeshError,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
    options,
)
from peer import PeerAgent, fail
from shop import Order, Orders, OutOfStock

from bus_mesh.protocol.errors import Ran
from bus_mesh.protocol.frames import Call, Cancel, Reply


@pytest.fixture
def agent_waits(agent: PeerAgent) -> PeerAgent:
    """An agent that leaves calls to the test."""
    agent.carries = False
    return agent


def left_ms(call: Call) -> float:
    """What the deadline in the head leaves, in milliseconds from now."""
    assert call.head is not None
    return float(call.head["expires_us"] / 1_000_000 - asyncio.get_running_loop().time()) * 1000


async def test_a_call_by_client_returns_the_contracts_type(mesh: Mesh, agent_waits: PeerAgent) -> None:
    asked = asyncio.create_task(mesh.client(Orders).get("1"))
    call = await agent_waits.next(Call)
    agent_waits.answer(call, {"id": "1", "qty": 2})

    assert await asked == Order(id="1", qty=2)
    assert (call.service, call.method, call.caller) == ("orders", "get", "")
    assert msgpack.unpackb(call.payload) == {"id": "1"}
    assert call.head is not None and call.head["idempotent"] is True


async def test_a_call_by_reference_and_by_name_ask_the_same(mesh: Mesh, agent_waits: PeerAgent) -> None:
    by_reference = asyncio.create_task(mesh.call(Orders.get, "1"))
    first = await agent_waits.next(Call)
    by_name = asyncio.create_task(mesh.call("orders", "get", {"id": "1"}))
    second = await agent_waits.next(Call)
    agent_waits.answer(first, {"id": "1"})
    agent_waits.answer(second, {"id": "1"})

    assert first.payload == second.payload
    assert await by_reference == Order(id="1")
    assert await by_name == {"id": "1"}


async def test_a_call_with_instance_tells_who_answered(mesh: Mesh, agent_waits: PeerAgent) -> None:
    asked = asyncio.create_task(mesh.call_with_instance("orders", "get", {"id": "1"}, timeout=1.0))
    agent_waits.answer(await agent_waits.next(Call), 7)

    assert await asked == (7, "peer-1")


async def test_calls_of_one_turn_leave_in_one_write(mesh: Mesh, agent_waits: PeerAgent) -> None:
    chunks: list[int] = []
    receive = agent_waits.session.data_received

    def counted(data: bytes) -> None:
        chunks.append(len(data))
        receive(data)

    agent_waits.session.data_received = counted  # type: ignore[method-assign]  # to look on
    asked = [asyncio.create_task(mesh.call("orders", "get", {"id": str(n)})) for n in range(50)]
    calls = [await agent_waits.next(Call) for _ in asked]
    for call in calls:
        agent_waits.answer(call, 1)
    await asyncio.gather(*asked)

    assert len(chunks) == 1


async def test_answers_may_come_in_any_order(mesh: Mesh, agent_waits: PeerAgent) -> None:
    asked = [asyncio.create_task(mesh.call("orders", "get", {"id": str(n)})) for n in range(20)]
    calls = [await agent_waits.next(Call) for _ in asked]
    for call in reversed(calls):
        agent_waits.answer(call, msgpack.unpackb(call.payload)["id"])

    assert await asyncio.gather(*asked) == [str(n) for n in range(20)]
    assert len({call.id for call in calls}) == 20


async def deadline_of(mesh: Mesh, agent: PeerAgent, work: Any) -> Call:
    task = asyncio.ensure_future(work)
    call = await agent.next(Call)
    agent.answer(call, {"id": "1"})
    await task
    return call


async def test_the_nearest_word_on_the_timeout_holds(mesh: Mesh, agent_waits: PeerAgent) -> None:
    async def ttl(work: Any) -> int:
        return round((await deadline_of(mesh, agent_waits, work)).ttl_ms / 100)

    assert await ttl(mesh.client(Orders).create(Order(id="1"))) == 50
    assert await ttl(mesh.client(Orders).get("1")) == 5
    assert await ttl(mesh.client(Orders, timeout=2.0).get("1")) == 20
    with options(timeout=3.0):
        assert await ttl(mesh.client(Orders, timeout=2.0).get("1")) == 30
        assert await ttl(mesh.call("orders", "get", {"id": "1"}, timeout=4.0)) == 40


async def test_the_deadline_travels_as_time_left_and_as_a_moment(mesh: Mesh, agent_waits: PeerAgent) -> None:
    task = asyncio.create_task(mesh.call("orders", "get", {}, timeout=1.0))
    call = await agent_waits.next(Call)

    assert 900 < left_ms(call) <= 1000
    assert 900 < call.ttl_ms <= 1000
    agent_waits.answer(call, 1)
    await task


async def test_options_travel_in_the_head(mesh: Mesh, agent_waits: PeerAgent) -> None:
    with options(metadata={"tenant": "a"}, key="user-7"), options(metadata={"lang": "de"}, idempotency_key="k1"):
        call = await deadline_of(mesh, agent_waits, mesh.call("orders", "create", {}))
    assert call.head is not None
    del call.head["expires_us"]

    assert call.head == {
        "metadata": {"tenant": "a", "lang": "de"},
        "key": "user-7",
        "idempotency_key": "k1",
        "implicit": True,
    }


async def test_options_end_with_their_block(mesh: Mesh, agent_waits: PeerAgent) -> None:
    with options(key="user-7"):
        pass
    call = await deadline_of(mesh, agent_waits, mesh.call("orders", "create", {}))

    assert call.head is not None and "key" not in call.head


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, {"a": "x" * 9000}])
async def test_metadata_that_cannot_travel_is_refused(mesh: Mesh, metadata: Any) -> None:
    with pytest.raises(InvalidArgument, match="metadata"), options(metadata=metadata):
        pass


async def test_a_call_that_nobody_answers_ends_at_its_deadline(mesh: Mesh, agent_waits: PeerAgent) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(DeadlineExceeded) as caught:
        await mesh.call("orders", "get", {}, timeout=0.1)
    took = loop.time() - began
    call = await agent_waits.next(Call)
    cancel = await agent_waits.next(Cancel)

    assert caught.value.ran == "maybe"
    assert 0.15 <= took < 0.5
    assert cancel.id == call.id


async def test_many_calls_end_at_their_deadline_with_one_timer(mesh: Mesh, agent_waits: PeerAgent) -> None:
    asked = [mesh.call("orders", "get", {}, timeout=0.1) for _ in range(2000)]
    ended = await asyncio.gather(*asked, return_exceptions=True)

    assert {type(end) for end in ended} == {DeadlineExceeded}
    assert len(mesh._link.flights.sent) == len(mesh._link.wheel) == 0


async def test_an_answer_after_the_deadline_is_dropped(mesh: Mesh, agent_waits: PeerAgent) -> None:
    with pytest.raises(DeadlineExceeded):
        await mesh.call("orders", "get", {}, timeout=0.01)
    agent_waits.answer(await agent_waits.next(Call), "late")

    assert (await deadline_of(mesh, agent_waits, mesh.call("orders", "get", {}))).id


async def test_cancelling_the_waiting_task_tells_the_agent(mesh: Mesh, agent_waits: PeerAgent) -> None:
    task = asyncio.create_task(mesh.call("orders", "get", {}))
    call = await agent_waits.next(Call)
    task.cancel()
    cancel = await agent_waits.next(Cancel)

    assert cancel.id == call.id
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not mesh._link.flights.sent


async def test_an_error_arrives_as_the_class_that_declared_it(mesh: Mesh, agent_waits: PeerAgent) -> None:
    task = asyncio.create_task(mesh.call("orders", "get", {}))
    sent = OutOfStock("no tea", metadata={"sku": "tea"}, details={"left": 0}, ran=Ran.YES, retry_after=0.25)
    agent_waits.session.send(fail((await agent_waits.next(Call)).id, sent))

    with pytest.raises(OutOfStock, match="no tea") as caught:
        await task
    error = caught.value
    assert (error.metadata, error.details, error.ran, error.retry_after) == ({"sku": "tea"}, {"left": 0}, "yes", 0.25)


async def test_an_unknown_reason_arrives_as_the_class_of_its_code(mesh: Mesh, agent_waits: PeerAgent) -> None:
    task = asyncio.create_task(mesh.call("orders", "get", {}))
    frame = fail((await agent_waits.next(Call)).id, NotFound("?"))
    agent_waits.session.send(frame._replace(reason="NO_SUCH_ORDER"))

    with pytest.raises(NotFound, match="NOT_FOUND/NO_SUCH_ORDER"):
        await task


async def test_a_failure_whose_head_makes_no_sense_is_an_error_all_the_same(mesh: Mesh, agent_waits: PeerAgent) -> None:
    task = asyncio.create_task(mesh.call("orders", "get", {}))
    frame = fail((await agent_waits.next(Call)).id, NotFound("?"))
    agent_waits.session.send(frame._replace(head={"ran": "perhaps", "retry_after_ms": "soon"}))

    with pytest.raises(MeshError):
        await task


async def test_a_result_that_is_not_the_contracts_is_an_error(mesh: Mesh, agent_waits: PeerAgent) -> None:
    task = asyncio.create_task(mesh.client(Orders).get("1"))
    agent_waits.session.send(Reply(2, (await agent_waits.next(Call)).id, None, b"\xc1"))

    with pytest.raises(Internal, match=r"orders\.get answered what its contract does not say: not MessagePack"):
        await task


async def test_parameters_over_the_limit_are_refused_here(mesh: Mesh, agent_waits: PeerAgent) -> None:
    with pytest.raises(PayloadTooLarge, match="over the limit of 1000000") as caught:
        await mesh.call("orders", "get", {"id": "x" * 1_000_001})

    assert caught.value.ran == "no"


async def test_a_name_that_cannot_be_is_refused_here(mesh: Mesh) -> None:
    with pytest.raises(InvalidName):
        await mesh.call("Orders.*", "get", {})


@pytest.mark.parametrize("timeout", [0, -1, 601])
async def test_a_timeout_out_of_range_is_refused(mesh: Mesh, timeout: float) -> None:
    with pytest.raises(InvalidArgument, match="over 0 and at most 600 s"):
        await mesh.call("orders", "get", {}, timeout=timeout)


async def test_calls_over_the_sessions_limit_wait_for_room(mesh: Mesh, agent_waits: PeerAgent) -> None:
    way = mesh._link.flights.connection
    assert way is not None
    way.most_calls = 2
    asked = [asyncio.create_task(mesh.call("orders", "get", {"n": n})) for n in range(5)]
    first, second = await agent_waits.next(Call), await agent_waits.next(Call)

    assert len(mesh._link.flights.waiting) == 3
    for call in (first, second):
        agent_waits.answer(call, 1)
    for _ in range(3):
        agent_waits.answer(await agent_waits.next(Call), 1)
    assert await asyncio.gather(*asked) == [1] * 5


async def test_a_call_that_finds_no_room_in_time_was_not_sent(mesh: Mesh, agent_waits: PeerAgent) -> None:
    way = mesh._link.flights.connection
    assert way is not None
    way.most_calls = 1
    first = asyncio.create_task(mesh.call("orders", "get", {}))
    await agent_waits.next(Call)
    with pytest.raises(DeadlineExceeded, match="behind 1 calls in flight") as caught:
        await mesh.call("orders", "get", {}, timeout=0.05)
    first.cancel()
    await agent_waits.next(Cancel)

    assert caught.value.ran == "no"
    assert not any(isinstance(frame, Call) for frame in agent_waits.said())


async def test_calls_wait_while_the_agent_does_not_read(mesh: Mesh, agent_waits: PeerAgent) -> None:
    agent_waits.session.transport.pause_reading()
    large = {"id": "x" * 900_000}
    asked = [asyncio.create_task(mesh.call("orders", "get", large)) for _ in range(6)]
    await asyncio.sleep(0)  # one turn for the tasks to start, one for the write that fills the socket
    await asyncio.sleep(0)
    held = asyncio.create_task(mesh.call("orders", "get", {}))
    await asyncio.sleep(0)
    paused = mesh._link.flights.connection is not None and mesh._link.flights.connection.paused
    waiting = len(mesh._link.flights.waiting)
    agent_waits.session.transport.resume_reading()
    for _ in range(7):
        agent_waits.answer(await agent_waits.next(Call), 1)

    assert paused and waiting
    assert await asyncio.gather(*asked, held) == [1] * 7


async def test_closing_ends_every_call(agent: PeerAgent, socket: Any) -> None:
    agent.carries = False
    async with Mesh.connect(app="web", socket=socket) as mesh:
        sent = asyncio.create_task(mesh.call("orders", "get", {}))
        await agent.next(Call)
        assert mesh._link.flights.connection is not None
        mesh._link.flights.connection.most_calls = 1
        waiting = asyncio.create_task(mesh.call("orders", "get", {}))
        await asyncio.sleep(0)

    with pytest.raises(OutcomeUnknown):
        await sent
    with pytest.raises(Cancelled):
        await waiting
    with pytest.raises(RuntimeError, match="closed"):
        await mesh.call("orders", "get", {})


async def test_a_mesh_that_is_not_open_says_so(socket: Any) -> None:
    with pytest.raises(RuntimeError, match="not open"):
        await Mesh.connect(app="web", socket=socket).call("orders", "get", {})
