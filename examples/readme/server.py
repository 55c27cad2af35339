import asyncio

from bus_mesh_sdk import Mesh
from contract import Prices, Quote, UnknownSku


class PricesImpl(Prices):
    def __init__(self, cents: dict[str, int]) -> None:
        self._cents = cents

    async def quote(self, sku: str, qty: int = 1) -> Quote:
        if sku not in self._cents:
            raise UnknownSku(f"nobody sells {sku} here")
        return Quote(sku=sku, cents=qty * self._cents[sku])


async def main() -> None:
    async with Mesh.connect(app="prices") as mesh:
        await mesh.serve(PricesImpl({"tea": 450, "cup": 1200}))
        print("serving prices", flush=True)
        await mesh.wait_closed()


asyncio.run(main())
