"""`python -m bus_mesh.demo.stock`: the shelf, refilled whenever it is empty so that the demo never runs dry."""

import asyncio

from bus_mesh_sdk import Mesh

from bus_mesh.demo.shop import OutOfStock, Receipt, Stock

SHELF = 1000
MOST_AT_ONCE = 100


class Shelf(Stock):
    def __init__(self) -> None:
        self._left: dict[str, int] = {}

    async def reserve(self, sku: str, qty: int = 1) -> Receipt:
        if not 0 < qty <= MOST_AT_ONCE:
            raise OutOfStock(f"{qty} of {sku} were asked for; between 1 and {MOST_AT_ONCE} can be had at once")
        left = self._left.get(sku, 0)
        self._left[sku] = (left if left >= qty else SHELF) - qty
        return Receipt(sku=sku, qty=qty, left=self._left[sku])


async def main() -> None:
    async with Mesh.connect(app="stock") as mesh:
        await mesh.serve(Shelf())
        await mesh.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())
