import asyncio
import os
import signal
from pathlib import Path

import pytest
from bus_mesh_sdk import Mesh
from peer import listening
from shop import OrdersImpl, soon

from bus_mesh.protocol.frames import Fail, Reply, Withdraw


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_wait_once_running_calls_are_answered(socket: Path, number: signal.Signals) -> None:
    orders = OrdersImpl()
    orders.hold()
    before = signal.getsignal(number)
    async with listening(socket) as agent:
        async with Mesh.connect(app="web", socket=socket) as mesh:
            await mesh.serve(orders)
            agent.session.call("orders", "get", {"id": "1"})
            await soon(orders.started)
            waiting = asyncio.create_task(mesh.wait_closed())
            await asyncio.sleep(0)
            os.kill(os.getpid(), number)
            await agent.next(Withdraw)
            assert not waiting.done()
            orders.go.set()
            await waiting
        assert isinstance(await agent.next(Reply), Reply)

    assert signal.getsignal(number) is before


async def test_a_second_signal_stops_what_runs(socket: Path) -> None:
    orders = OrdersImpl()
    orders.hold()
    async with listening(socket) as agent, Mesh.connect(app="web", socket=socket) as mesh:
        await mesh.serve(orders)
        agent.session.call("orders", "get", {"id": "1"})
        await soon(orders.started)
        waiting = asyncio.create_task(mesh.wait_closed())
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await agent.next(Withdraw)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(waiting, 5)

        assert await soon(orders.cancelled) == "1"
        assert (await agent.next(Fail)).reason == "OUTCOME_UNKNOWN"


async def test_close_ends_the_wait(socket: Path) -> None:
    async with listening(socket), Mesh.connect(app="web", socket=socket) as mesh:
        waiting = asyncio.create_task(mesh.wait_closed())
        await asyncio.sleep(0)
        await mesh.close()
        await asyncio.wait_for(waiting, 5)
