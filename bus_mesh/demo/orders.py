"""`python -m bus_mesh.demo.orders`: orders in memory; each one asks `stock` for its goods."""

import asyncio
from collections import OrderedDict

from bus_mesh_sdk import Mesh, current

from bus_mesh.demo.shop import NewOrder, Order, Orders, Stock

KEPT = 10_000
"""Orders that one instance remembers; the oldest goes first."""


class Ledger(Orders):
    def __init__(self, stock: Stock) -> None:
        self._stock = stock
        self._kept: OrderedDict[str, Order] = OrderedDict()
        self._count = 0

    async def get(self, id: str) -> Order:
        # Each instance keeps its own: for any other number there is an order of tea, so that every call of the demo
        # has an answer whichever instance it reaches.
        return self._kept.get(id) or Order(id=id, sku="tea", qty=1, served_by=current().instance)

    async def create(self, order: NewOrder) -> Order:
        await self._stock.reserve(order.sku, order.qty)
        self._count += 1
        made = Order(id=str(self._count), served_by=current().instance, **order.model_dump())
        self._kept[made.id] = made
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return made


async def main() -> None:
    async with Mesh.connect(app="orders") as mesh:
        await mesh.serve(Ledger(mesh.client(Stock)))
        await mesh.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())
