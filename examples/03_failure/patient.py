"""Thirty-two callers who come back when they are told to: each asks twice, and waits as long as a refusal says."""

import asyncio

from bus_mesh_sdk import Mesh, ResourceExhausted
from contract import Weather


async def ask(weather: Weather, times: int, told: list[float]) -> None:
    """Get so many answers, noting the delay of each refusal."""
    while times:
        try:
            await weather.today("Bremen")
            times -= 1
        except ResourceExhausted as error:
            delay = error.retry_after or 0.1
            told.append(delay)
            if len(told) == 1:
                print(f"the first one is told to come back in {delay:.1f} s", flush=True)
            await asyncio.sleep(delay)


async def main() -> None:
    told: list[float] = []
    async with Mesh.connect(app="cli") as mesh:
        weather = mesh.client(Weather)
        await asyncio.gather(*(ask(weather, 2, told) for _ in range(32)))
    print(f"64 calls answered, after {len(told)} refusals")


asyncio.run(main())
