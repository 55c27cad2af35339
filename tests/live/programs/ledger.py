"""`python ledger.py FILE`: a service that writes down every execution before it does anything else."""

import asyncio
import json
import os
import sys
import time

from bus_mesh_sdk import Code, Mesh, MeshError, Service, current, rpc


class OutOfLuck(MeshError, code=Code.FAILED_PRECONDITION, reason="OUT_OF_LUCK"):
    """What `fail` raises."""


class Ledger(Service, name="ledger", version="1.0.0"):
    """`id` names the call, `until` is its deadline on the machine's monotonic clock, `work` is in seconds."""

    @rpc(idempotent=True)
    async def read(self, id: str, until: float, work: float) -> str:
        raise NotImplementedError

    @rpc
    async def write(self, id: str, until: float, work: float) -> str:
        raise NotImplementedError

    @rpc(idempotent=True)
    async def echo(self, data: bytes) -> bytes:
        raise NotImplementedError

    @rpc
    async def fail(self, text: str) -> str:
        raise NotImplementedError

    @rpc(idempotent=True)
    async def who(self) -> str:
        raise NotImplementedError


class Book(Ledger):
    def __init__(self, file: int) -> None:
        self._file = file

    async def _run(self, id: str, until: float, work: float) -> str:
        entry = {"id": id, "at": time.monotonic(), "until": until, "pid": os.getpid()}
        os.write(self._file, json.dumps(entry).encode() + b"\n")
        if work:
            await asyncio.sleep(work)
        return current().instance

    async def read(self, id: str, until: float, work: float) -> str:
        return await self._run(id, until, work)

    async def write(self, id: str, until: float, work: float) -> str:
        return await self._run(id, until, work)

    async def echo(self, data: bytes) -> bytes:
        return data

    async def fail(self, text: str) -> str:
        raise OutOfLuck(text, metadata={"said": text})

    async def who(self) -> str:
        return current().caller


async def main() -> None:
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    async with Mesh.connect() as mesh:
        await mesh.serve(Book(file))
        await mesh.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())
