"""Calls orders/get so many times a second as an app, until its input ends; then says how that went."""

import asyncio
import json
import sys

from bus_mesh_sdk import Mesh, MeshError


async def main(app: str, rate: float) -> None:
    calls, failed = 0, list[str]()
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    async with Mesh.connect(app=app) as mesh, asyncio.TaskGroup() as group:

        async def one() -> None:
            try:
                await mesh.call("orders", "get", {"id": "1"}, timeout=2.0)
            except MeshError as error:
                failed.append(str(error))

        print("calling", flush=True)
        while not ended.done():
            group.create_task(one())
            calls += 1
            await asyncio.sleep(1 / rate)
    print(json.dumps({"calls": calls, "failed": len(failed), "first": failed[:1]}))


asyncio.run(main(sys.argv[1], float(sys.argv[2])))
