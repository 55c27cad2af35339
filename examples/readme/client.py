import asyncio

from bus_mesh_sdk import Mesh
from contract import Prices, UnknownSku


async def main() -> None:
    async with Mesh.connect(app="till") as mesh:
        prices = mesh.client(Prices, timeout=1.0)  # to a type checker, and to you, a Prices
        quote = await prices.quote("tea", qty=2)
        print(f"{quote.sku} costs {quote.cents}")
        try:
            await prices.quote("coffee")
        except UnknownSku as error:
            print(error)


asyncio.run(main())
