"""`python unwell.py FILE`: a service that is well while FILE is empty; it answers with its instance's id."""

import asyncio
import sys
from pathlib import Path

from bus_mesh_sdk import Mesh, Service, Unavailable, current, health, rpc


class Moody(Service, name="moody"):
    @rpc(idempotent=True)
    async def who(self) -> str:
        raise NotImplementedError


class Mood(Moody):
    def __init__(self, file: Path) -> None:
        self._file = file

    async def who(self) -> str:
        return current().instance

    @health
    async def well(self) -> None:
        said = self._file.read_text()
        if said:
            raise Unavailable(said)


async def main() -> None:
    async with Mesh.connect() as mesh:
        await mesh.serve(Mood(Path(sys.argv[1])))
        await mesh.wait_closed()


asyncio.run(main())
