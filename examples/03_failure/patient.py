"""Sixteen callers who come back when they are told to: each asks four times, and waits as long as a refusal says."""

import asyncio

from bus_mesh_sdk import Mesh, ResourceExhausted
from contract import Weather


async def ask(weather: Weather, times: int) -> int:
    """Get so many answers; return how often there was no room."""
    refused = 0
    while times:
        try:
            await weather.today("Bremen")
            times -= 1
        except ResourceExhausted as error:
            refused += 1
            await asyncio.sleep(error.retry_after or 0.1)
    return refused


async def main() -> None:
    async with Mesh.connect(app="cli") as mesh:
        weather = mesh.client(Weather)
        refused = await asyncio.gather(*(ask(weather, 4) for _ in range(16)))
        print(f"64 calls answered, after {sum(refused)} refusals")


asyncio.run(main())
