"""The method `service` of the reserved service `busmesh`, asked of real agents in one process."""

from typing import Any

import pytest
from bus_mesh_sdk import InvalidArgument, MeshError, Service, Unavailable, rpc
from bus_mesh_sdk.testing import MeshTest

from bus_mesh.agent.node import Node


class Ledger(Service, name="ledger", version="2.1.0"):
    @rpc(idempotent=True)
    async def read(self) -> str:
        raise NotImplementedError


class Book(Ledger):
    def __init__(self) -> None:
        self.broken = False

    async def read(self) -> str:
        if self.broken:
            raise Unavailable("the book is torn")
        return "read"


POLICY = """\
kind: Service
name: ledger
access: {allow: [{from: ["*"], methods: ["*"]}]}
traffic: {retry: off, balance: least_request, breaker: {failures: 1, rest: 4s}}
"""


async def describe(t: MeshTest, service: str) -> Any:
    mesh = await t.mesh(t.app)
    return await t._time.through(mesh.call("busmesh", "service", {"service": service}, timeout=5.0))


def caller_of(t: MeshTest) -> Node:
    """The agent of the app that calls."""
    assert t._mesh is not None
    (node,) = [node for node in t._mesh.nodes.values() if "ledger" not in node.own.certificate.serve]
    return node


async def open_one(t: MeshTest, books: list[Book]) -> None:
    """Have the circuit to the first instance open, once all are known."""
    for _ in range(4):
        await t.call(Ledger.read)
    books[0].broken = True
    for _ in range(8):
        try:
            await t.call(Ledger.read)
        except MeshError:
            break


async def test_circuits_that_policy_switches_off_are_closed_when_it_wants_them_again() -> None:
    async with MeshTest() as t:
        books = [Book(), Book()]
        for book in books:
            await t.serve(book)
        t.policy(POLICY)
        await open_one(t, books)
        t.policy(POLICY)
        kept = sorted(row["circuit"] for row in (await describe(t, "ledger"))["instances"])
        books[0].broken = False
        t.policy(POLICY.replace("breaker: {failures: 1, rest: 4s}", "breaker: off"))
        t.policy(POLICY)
        await t.call(Ledger.read)
        again = [row["circuit"] for row in (await describe(t, "ledger"))["instances"]]

        assert (kept, again) == (["closed", "open"], ["closed", "closed"])


async def test_instances_circuits_and_latencies_are_those_of_the_agent_that_is_asked() -> None:
    async with MeshTest() as t:
        books = [Book(), Book()]
        for book in books:
            await t.serve(book)
        t.policy(POLICY)
        assert (await describe(t, "ledger"))["followed"] is False
        await open_one(t, books)

        found = await describe(t, "ledger")

        assert found["followed"] is True
        assert found["policy"]["traffic"]["retry"] == {"value": "off", "from": "service"}
        assert sorted(row["circuit"] for row in found["instances"]) == ["closed", "open"]
        assert {row["version"] for row in found["instances"]} == {"2.1.0"}
        assert all(row["latency_ms"] is not None and row["inflight"] == 0 for row in found["instances"])
        assert b'busmesh_breaker_state{service="ledger"} 1.0' in caller_of(t).metrics.render()


async def test_a_question_without_a_name_or_with_an_impossible_one_is_refused() -> None:
    async with MeshTest() as t:
        mesh = await t.mesh(t.app)
        for asked in ({}, {"service": "No Service"}, {"service": 7}):
            with pytest.raises(InvalidArgument):
                await mesh.call("busmesh", "service", asked)


async def test_what_there_is_not_comes_with_the_names_of_what_there_is() -> None:
    async with MeshTest() as t:
        await t.serve(Book())

        found = await describe(t, "leger")

        assert (found["policy"], found["instances"], found["others"]) == (None, [], ["ledger"])
