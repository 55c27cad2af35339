"""`python -m bus_mesh.demo.web`: a gentle load on `orders`, `$SHOP_RATE` calls a second; it survives everything."""

import asyncio
import os

from bus_mesh_sdk import Mesh, MeshError

from bus_mesh.demo.shop import NewOrder, Orders

CREATES_EVERY = 5
"""One call in so many creates an order; the others read one."""


class Load:
    def __init__(self, orders: Orders, rate: float) -> None:
        self._orders = orders
        self._pause = 1 / rate
        self._count = 0
        self._going: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Start a call at each tick, whether or not those before it have ended."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self._count += 1
            task = asyncio.create_task(self._one(self._count))
            self._going.add(task)
            task.add_done_callback(self._going.discard)
            due = max(due + self._pause, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _one(self, number: int) -> None:
        try:
            if number % CREATES_EVERY == 0:
                await self._orders.create(NewOrder(sku="tea"))
            else:
                await self._orders.get(str(number % 100))
        except MeshError:
            pass  # Counted by the agent with its code; a failing call is what the demo wants to show, not to stop at.


async def main() -> None:
    async with Mesh.connect(app="web") as mesh, asyncio.TaskGroup() as group:
        load = Load(mesh.client(Orders, timeout=1.0), rate=float(os.environ.get("SHOP_RATE", "20")))
        running = group.create_task(load.run())
        await mesh.wait_closed()
        running.cancel()


if __name__ == "__main__":
    asyncio.run(main())
