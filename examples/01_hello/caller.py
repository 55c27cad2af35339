"""Calls `hello` once and prints what it says."""

import asyncio
import sys

from bus_mesh_sdk import Mesh
from contract import Hello


async def main(name: str) -> None:
    async with Mesh.connect(app="greeter") as mesh:
        hello = mesh.client(Hello, timeout=2.0)
        print(await hello.greet(name))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "world"))
