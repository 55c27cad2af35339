import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bus_mesh_sdk import AgentAway, Mesh, SyncMesh, current, options
from peer import listening
from shop import Order, Orders, OrdersImpl, OutOfStock


class Server:
    """An agent and a service in a thread of their own."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.orders = OrdersImpl()
        self.ready = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.done = asyncio.Event()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=[self.run()])

    async def run(self) -> None:
        async with listening(self.socket), Mesh.connect(app="orders", socket=self.socket) as mesh:
            await mesh.serve(self.orders)
            self.ready.set()
            await self.done.wait()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.done.set)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def server(socket: Path) -> Iterator[Server]:
    server = Server(socket)
    server.thread.start()
    assert server.ready.wait(5)
    yield server
    server.stop()


def test_blocking_code_calls_by_reference_and_by_name(server: Server) -> None:
    with SyncMesh.connect(app="job", socket=server.socket) as mesh:
        assert mesh.call(Orders.get, "1") == Order(id="1")
        assert mesh.call("orders", "get", {"id": "2"}, timeout=3.0) == {"id": "2", "qty": 1}


def test_an_error_arrives_in_the_thread_that_called(server: Server) -> None:
    server.orders.error = OutOfStock("no tea")
    with SyncMesh.connect(app="job", socket=server.socket) as mesh, pytest.raises(OutOfStock, match="no tea"):
        mesh.call(Orders.get, "1")


def test_many_threads_share_a_session(server: Server) -> None:
    with SyncMesh.connect(app="job", socket=server.socket) as mesh, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: mesh.call("orders", "get", {"id": str(n)}, timeout=5.0)["id"], range(400)))

    assert found == [str(n) for n in range(400)]


def test_options_hold_in_the_thread_that_says_them(server: Server) -> None:
    with SyncMesh.connect(app="job", socket=server.socket) as mesh:
        with options(metadata={"tenant": "a"}):
            mesh.call(Orders.get, "1")
        mesh.call(Orders.get, "2")

    assert [context.metadata for context in server.orders.contexts] == [{"tenant": "a"}, {}]


def test_a_session_that_is_not_open_says_so(server: Server) -> None:
    mesh = SyncMesh.connect(app="job", socket=server.socket)
    with pytest.raises(RuntimeError, match="not open"):
        mesh.call(Orders.get, "1")
    with mesh:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        mesh.call(Orders.get, "1")


def test_an_absent_agent_is_an_error_and_leaves_no_thread(socket: Path) -> None:
    before = threading.active_count()
    with pytest.raises(AgentAway), SyncMesh.connect(app="job", socket=socket, patience=0.05):
        pass

    assert threading.active_count() == before


def test_there_is_no_context_outside_of_a_handler(server: Server) -> None:
    with SyncMesh.connect(app="job", socket=server.socket), pytest.raises(LookupError):
        current()


def test_it_works_on_uvloop_too(socket: Path) -> None:
    uvloop = pytest.importorskip("uvloop", reason="an extra of its own")

    async def main() -> Order:
        async with listening(socket), Mesh.connect(app="web", socket=socket) as mesh:
            await mesh.serve(OrdersImpl())
            found = await asyncio.gather(*(mesh.client(Orders).get(str(n)) for n in range(200)))
            return found[-1]

    assert uvloop.run(main()) == Order(id="199")
