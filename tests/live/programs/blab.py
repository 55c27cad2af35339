"""`python blab.py FILE`: a service that gives its token away: it writes it to a file, and says HELLO with it."""

import asyncio
import os
import sys
from pathlib import Path

from bus_mesh_sdk import Mesh


async def main() -> None:
    with os.fdopen(int(os.environ.pop("BUSMESH_TOKEN_FD"))) as handed:
        token = handed.read()
    async with Mesh.connect(token=token) as mesh:
        fresh = Path(f"{sys.argv[1]}.new")
        fresh.write_text(token)
        fresh.replace(sys.argv[1])
        await mesh.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())
