"""Serves `hello` until Ctrl-C or SIGTERM; start as many of these as you like."""

import asyncio

from bus_mesh_sdk import Mesh, current
from contract import Hello


class HelloImpl(Hello):
    async def greet(self, name: str) -> str:
        return f"Hello, {name}! ({current().caller} asked for it)"


async def main() -> None:
    async with Mesh.connect(app="hello") as mesh:
        serving = await mesh.serve(HelloImpl())
        print(f"serving hello as {serving.instance}", flush=True)
        await mesh.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())
