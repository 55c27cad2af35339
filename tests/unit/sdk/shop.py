"""The contract that the SDK's tests speak, and an implementation that a test can hold and look into."""

import asyncio
from typing import Any

from bus_mesh_sdk import Code, Context, MeshError, Service, current, rpc
from pydantic import BaseModel


class Order(BaseModel):
    id: str
    qty: int = 1


class OutOfStock(MeshError, code=Code.FAILED_PRECONDITION, reason="TEST_OUT_OF_STOCK"):
    """Nothing left."""


class Orders(Service, name="orders", version="1.2.0"):
    @rpc(idempotent=True, timeout=0.5)
    async def get(self, id: str) -> Order:
        raise NotImplementedError

    @rpc
    async def create(self, order: Order) -> Order:
        raise NotImplementedError


class OrdersImpl(Orders):
    """Notes what runs; `hold` keeps handlers from ending until the test lets go."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.ended: list[str] = []
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.go = asyncio.Event()
        self.go.set()
        self.contexts: list[Context] = []
        self.error: BaseException | None = None

    def hold(self) -> None:
        self.go.clear()

    async def get(self, id: str) -> Order:
        self.ran.append(id)
        self.contexts.append(current())
        self.started.put_nowait(id)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.put_nowait(id)
            raise
        if self.error is not None:
            raise self.error
        self.ended.append(id)
        return Order(id=id)

    async def create(self, order: Order) -> Order:
        return order


async def soon(queue: "asyncio.Queue[Any]") -> Any:
    """Return what comes next, within five seconds."""
    async with asyncio.timeout(5):
        return await queue.get()
