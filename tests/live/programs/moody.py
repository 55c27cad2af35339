"""`python moody.py NAME VERSION MOOD`: an instance that does as its mood says, a JSON file read at every call.

{"fail": 0.5, "work": 0.02}: what share of its calls fails as UNAVAILABLE, and the seconds that each one takes.
"""

import asyncio
import json
import random
import sys
from pathlib import Path

from bus_mesh_sdk import Mesh, Ran, Service, Unavailable, rpc


class Moody(Service, name="moody"):
    """Every method does the same; policy tells them apart."""

    @rpc(idempotent=True)
    async def one(self) -> str:
        raise NotImplementedError

    @rpc(idempotent=True)
    async def two(self) -> str:
        raise NotImplementedError


class Instance(Moody):
    def __init__(self, name: str, mood: Path) -> None:
        self._name = name
        self._mood = mood
        self._random = random.Random(name)

    async def _answer(self) -> str:
        mood = json.loads(self._mood.read_text())
        if mood["work"]:
            await asyncio.sleep(mood["work"])
        if self._random.random() < mood["fail"]:
            raise Unavailable("not in the mood", ran=Ran.YES)
        return self._name

    async def one(self) -> str:
        return await self._answer()

    async def two(self) -> str:
        return await self._answer()


async def main(name: str, version: str, mood: str) -> None:
    async with Mesh.connect() as mesh:
        await mesh.serve(Instance(name, Path(mood)), version=version)
        await mesh.wait_closed()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
