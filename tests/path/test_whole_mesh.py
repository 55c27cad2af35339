"""What must never happen, tried on whole agents in one process: real envelopes, gates and sessions, a manual clock."""

import asyncio

import pytest
from bus_mesh_sdk import DeadlineExceeded, KeyReused, MeshError, NoInstances, OutcomeUnknown, Ran, Service, options, rpc
from bus_mesh_sdk.testing import MeshTest

from bus_mesh.agent.node import Node
from bus_mesh.agent.revocation import Revocations
from bus_mesh.agent.session import CALLS_PER_SESSION
from bus_mesh.bus.memory import Message
from bus_mesh.policy.models import Revocation
from bus_mesh.resilience.limit import LEAST
from bus_mesh.testing import MemoryMesh


class Ledger(Service, name="ledger"):
    @rpc
    async def write(self, line: str) -> str:
        raise NotImplementedError

    @rpc(idempotent=True)
    async def read(self, line: str) -> str:
        raise NotImplementedError


class Book(Ledger):
    """Counts what runs, and holds it while the test says so."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.go = asyncio.Event()
        self.go.set()

    async def write(self, line: str) -> str:
        self.ran.append(line)
        await self.go.wait()
        return line

    async def read(self, line: str) -> str:
        return await self.write(line)


def network(t: MeshTest) -> MemoryMesh:
    return t._network


def node_of(t: MeshTest, number: int) -> Node:
    return network(t).nodes[f"node-{number}"]


async def test_the_first_call_ever_runs_once_whichever_instance_the_broker_chooses() -> None:
    for _ in range(8):
        async with MeshTest() as t:
            books = [Book(), Book(), Book()]
            for book in books:
                await t.serve(book)

            assert await t.call(Ledger.write, "a") == "a"
            assert sum(len(book.ran) for book in books) == 1


async def test_what_a_stalled_bus_held_back_past_its_deadline_is_not_run() -> None:
    async with MeshTest() as t:
        book = Book()
        await t.serve(book)
        await t.call(Ledger.write, "before")
        network(t).broker.stall()
        call = asyncio.create_task(t.client(Ledger, timeout=1.0).write("late"))
        await t.advance(1.0)
        assert isinstance(call.exception(), DeadlineExceeded)

        network(t).broker.resume()
        await t.advance(1.0)

        assert book.ran == ["before"]


async def revoke_who_holds_the_call(t: MeshTest, book: Book) -> None:
    """Have every other agent learn that the node is revoked on which a call is being run."""
    await t.advance(0.05)
    nodes = network(t).nodes.values()
    holder = next(node for node in nodes if node.inbound.calls)
    book.go.set()
    for node in nodes:
        if node is not holder:
            Revocations(node, None).add(Revocation(nodes=(holder.own.node,)))
    await t.advance(0.05)


async def test_a_call_in_the_hands_of_a_revoked_node_ends_at_once() -> None:
    async with MeshTest() as t:
        book = Book()
        await t.serve(book)
        book.go.clear()
        call = asyncio.create_task(t.client(Ledger, timeout=60.0).write("a"))

        await revoke_who_holds_the_call(t, Book())

        assert isinstance(call.exception(), OutcomeUnknown)
        assert book.ran == ["a"]


async def test_a_call_that_is_idempotent_moves_away_from_a_revoked_node_at_once() -> None:
    async with MeshTest() as t:
        books = [Book(), Book()]
        for book in books:
            await t.serve(book)
            book.go.clear()
        call = asyncio.create_task(t.client(Ledger, timeout=60.0).read("a"))
        await t.advance(0.05)
        other = next(book for book in books if not book.ran)

        await revoke_who_holds_the_call(t, other)

        assert call.result() == "a"
        assert other.ran == ["a"]


async def test_an_envelope_that_comes_twice_runs_once() -> None:
    async with MeshTest() as t:
        book, seen = Book(), list[Message]()
        await t.serve(book)
        network(t).broker.tap(seen.append)
        await t.call(Ledger.write, "a")
        recorded = [message for message in seen if ".rpc.ledger." in message.subject]

        stranger = network(t).broker.connect()
        for message in recorded * 3:
            stranger.publish(message.subject, message.data)
        await t.advance(0.1)

        assert (len(recorded), book.ran) == (1, ["a"])


async def test_calls_with_one_key_at_once_run_once_and_all_have_the_answer() -> None:
    async with MeshTest() as t:
        book = Book()
        await t.serve(book)
        book.go.clear()
        with options(idempotency_key="order-7"):
            calls = [asyncio.create_task(t.call(Ledger.write, "a")) for _ in range(2)]
            await t.advance(0.1)
            with pytest.raises(KeyReused) as caught:
                await t.call(Ledger.write, "b")
            book.go.set()
            answers = await asyncio.gather(*calls)
            again = await t.call(Ledger.write, "a")

        assert caught.value.ran is Ran.NO
        assert (answers, again, book.ran) == (["a", "a"], "a", ["a"])
        counted = node_of(t, 1).metrics.events["idempotency_keys"]
        assert counted.values == {"ran": 1, "joined": 1, "reused": 1, "answered": 1}
        assert b'busmesh_idempotency_keys_total{result="joined"} 1.0' in node_of(t, 1).metrics.render()


async def test_a_503_of_a_stranger_moves_nothing() -> None:
    async with MeshTest() as t:
        book, seen = Book(), list[Message]()
        await t.serve(book)
        await t.call(Ledger.read, "first")
        book.go.clear()
        network(t).broker.tap(seen.append)
        call = asyncio.create_task(t.call(Ledger.read, "a"))
        await t.advance(0.0)
        (sent,) = [message for message in seen if ".rpc.ledger." in message.subject]

        network(t).broker.connect().publish(sent.reply, b"")
        await t.advance(0.01)

        assert book.ran == ["first", "a"]
        book.go.set()
        assert await call == "a"


@pytest.mark.parametrize("method", ["read", "write"])
async def test_a_process_that_dies_with_a_call_is_known_long_before_the_deadline(method: str) -> None:
    async with MeshTest() as t:
        books = [Book(), Book()]
        for book in books:
            await t.serve(book)
        for number in range(8):
            await t.call(Ledger.read, str(number))
        for book in books:
            book.go.clear()
            book.ran.clear()
        with options(timeout=60.0, instance=node_of(t, 1).announcer.instances.copy().popitem()[0]):
            call = asyncio.create_task(t.call("ledger", method, {"line": "a"}))
        await t.advance(0.0)
        assert books[0].ran == ["a"]

        await node_of(t, 1).bus.close()
        await t.advance(0.5)

        error = call.exception()
        assert isinstance(error, OutcomeUnknown | NoInstances)
        assert error.ran is Ran.MAYBE
        assert books[1].ran == [], "the caller asked for that one instance"


async def test_a_rolling_restart_loses_no_call() -> None:
    async with MeshTest() as t:
        books = [Book(), Book()]
        servings = [await t.serve(book) for book in books]
        answers = list[asyncio.Task[str]]()
        for serving in servings[:1]:
            closing = asyncio.create_task(serving.close())
            for number in range(40):
                answers.append(asyncio.create_task(t.call(Ledger.write, str(number))))
                await t.advance(0.01)
            await t.advance(1.0)
            assert closing.done()

        assert [answer.result() for answer in answers] == [str(number) for number in range(40)]
        assert sorted(books[0].ran + books[1].ran) == sorted(str(number) for number in range(40))
        assert books[1].ran[-10:] == [str(number) for number in range(30, 40)]


async def test_an_agent_that_leaves_answers_what_it_has() -> None:
    async with MeshTest() as t:
        book = Book()
        await t.serve(book)
        await t.call(Ledger.read, "first")
        book.go.clear()
        call = asyncio.create_task(t.call(Ledger.write, "a"))
        await t.advance(0.0)
        leaving = asyncio.create_task(node_of(t, 1).drain(30.0))
        await t.advance(1.0)
        assert not call.done()
        book.go.set()
        await t.advance(1.0)

        assert call.result() == "a"
        assert leaving.done()


async def test_an_agent_that_leaves_answers_also_those_that_wait_for_a_place() -> None:
    async with MeshTest() as t:
        book = Book()
        await t.serve(book)
        await t.call(Ledger.read, "first")
        book.go.clear()
        calls = [asyncio.create_task(t.client(Ledger, timeout=20.0).write(str(number))) for number in range(100)]
        await t.advance(0.1)
        assert len(book.ran) == 1 + LEAST, "the others wait in the agent"
        leaving = asyncio.create_task(node_of(t, 1).drain(30.0))
        await t.advance(1.0)
        book.go.set()
        await t.advance(1.0)

        assert [call.result() for call in calls] == [str(number) for number in range(100)]
        assert leaving.done()


@pytest.mark.parametrize("says", [100, 4])
async def test_an_instance_that_no_policy_limits_is_handed_what_it_says_that_it_runs_at_once(says: int) -> None:
    async with MeshTest() as t:
        book = Book()
        serving = await t.serve(book, concurrency=says)
        await t.call(Ledger.read, "first")
        book.go.clear()
        calls = [asyncio.create_task(t.client(Ledger, timeout=20.0).write(str(number))) for number in range(130)]
        await t.advance(0.1)
        instance = node_of(t, 1).hosting.instances[serving.instance]
        assert (len(book.ran), instance.limits[""].running) == (1 + says, max(says, LEAST))
        book.go.set()

        assert await asyncio.gather(*calls) == [str(number) for number in range(130)]


async def test_no_instance_has_more_places_than_its_connection_whatever_it_says() -> None:
    async with MeshTest() as t:
        serving = await t.serve(Book(), concurrency=10**9)
        await t.call(Ledger.read, "first")

        places = node_of(t, 1).hosting.instances[serving.instance].limits[""]
        assert places.concurrency == CALLS_PER_SESSION


async def test_of_a_thousand_calls_through_faults_each_has_one_end_and_ran_at_most_once() -> None:
    async with MeshTest() as t:
        books = [Book(), Book(), Book()]
        for book in books:
            await t.serve(book)
        await t.call(Ledger.read, "first")
        dropped = iter(range(10_000))
        network(t).broker.drop(lambda message: next(dropped) % 7 == 0)
        calls = list[asyncio.Task[str]]()
        for number in range(1000):
            calls.append(asyncio.create_task(t.client(Ledger, timeout=1.0).write(f"n{number}")))
            if number % 10 == 0:
                await t.advance(0.005)
        network(t).broker.drop(None)
        await t.advance(3.0)

        ran = [line for book in books for line in book.ran if line[0] == "n"]
        assert len(ran) == len(set(ran))
        for number, call in enumerate(calls):
            assert call.done()
            error = call.exception()
            assert error is None or isinstance(error, MeshError)
            if isinstance(error, MeshError) and error.ran is Ran.NO:
                assert f"n{number}" not in ran, "reported as not executed, and executed"
