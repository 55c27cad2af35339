"""`python chain.py NAME [NEXT]`: a service whose `go` calls the next one's; the last one fails at its first call."""

import asyncio
import sys

from bus_mesh_sdk import Mesh, Ran, Service, Unavailable, current, rpc


async def main(name: str, following: str) -> None:
    failed = False

    class Link(Service, name=name, version="1.0.0"):
        @rpc(idempotent=True)
        async def go(self) -> list[str]:
            raise NotImplementedError

    class Mine(Link):
        async def go(self) -> list[str]:
            nonlocal failed
            here = current().traceparent
            if following:
                return [here, *await mesh.call(following, "go", {}, timeout=5.0)]
            if not failed:
                failed = True
                raise Unavailable("not the first time", ran=Ran.YES)
            return [here]

    async with Mesh.connect() as mesh:
        await mesh.serve(Mine())
        await mesh.wait_closed()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))
