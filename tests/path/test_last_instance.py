"""A service whose last instance has gone: callers are told so at once, and find it again when it is back."""

import asyncio
import time
from pathlib import Path

import pytest
from bus_mesh_sdk import Mesh, NoInstances
from two_agents import Counting, pair

from bus_mesh.bus.contract import Handler, Subscription


async def test_callers_are_told_at_once_that_nobody_serves_what_its_last_instance_left(tmp_path: Path) -> None:
    async with pair(tmp_path) as two:
        assert await two.mesh.call("ledger", "write") == "written"
        await two.serving.close()
        began = time.monotonic()
        with pytest.raises(NoInstances):
            await two.mesh.call("ledger", "write", timeout=5.0)

        assert time.monotonic() - began < 1.0, "the broker knows: nothing is waited for"


async def test_a_service_that_only_the_caller_s_own_node_serves_is_found_at_once(tmp_path: Path) -> None:
    async with pair(tmp_path) as two:
        await two.serving.close()
        async with Mesh.connect(app="ledger", socket=tmp_path / "right" / "agent.sock") as local:
            await local.serve(Counting())
            began = time.monotonic()
            assert await two.mesh.call("ledger", "write", timeout=5.0) == "written"

        assert time.monotonic() - began < 1.0, "a node does not answer its own questions, and knows all the same"


async def test_a_service_that_leaves_while_its_node_begins_to_be_found_leaves_nothing_behind(tmp_path: Path) -> None:
    async with pair(tmp_path) as two:
        node = two.nodes[1]
        await two.serving.close()
        subscribe, asked, go = node.bus.subscribe, asyncio.Event(), asyncio.Event()

        async def slow(subject: str, handler: Handler, queue: str = "") -> Subscription:
            asked.set()
            await go.wait()
            return await subscribe(subject, handler, queue)

        node.bus.subscribe = slow  # type: ignore[method-assign]  # a broker that takes its time
        async with Mesh.connect(app="ledger", socket=tmp_path / "wrong" / "agent.sock") as brief:
            joining = asyncio.create_task(brief.serve(Counting()))
            await asked.wait()
            joining.cancel()
        async with asyncio.timeout(2.0):
            while node.hosting.instances:
                await asyncio.sleep(0)
        node.bus.subscribe = subscribe  # type: ignore[method-assign]
        go.set()
        began = time.monotonic()
        with pytest.raises(NoInstances):
            await two.mesh.call("ledger", "write", timeout=5.0)

        assert time.monotonic() - began < 1.0, "nobody listens for questions about it any more"
