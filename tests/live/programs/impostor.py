"""`python impostor.py SOCKET APP [--user ID] [--serve] [--token TOKEN]`: say HELLO as an app, print how that ended."""

import argparse
import asyncio
import os

from bus_mesh_sdk import Mesh, MeshError, Service, current, rpc


class Ledger(Service, name="ledger"):
    @rpc
    async def who(self) -> str:
        raise NotImplementedError


class Stolen(Ledger):
    async def who(self) -> str:
        return f"stolen from {current().caller}"


async def main(asked: argparse.Namespace) -> None:
    try:
        async with Mesh.connect(app=asked.app, socket=asked.socket, token=asked.token, patience=2.0) as mesh:
            if asked.serve:
                await mesh.serve(Stolen())
            print(f"welcome as {mesh.app}")
    except MeshError as error:
        print(f"{error.code.name}/{error.wire_reason or error.reason}: {error.message}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("app")
    parser.add_argument("--user", type=int)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--token")
    chosen = parser.parse_args()
    if chosen.user is not None:  # here, not before: another user may not be able to read this interpreter's files
        os.setgroups([])
        os.setgid(chosen.user)
        os.setuid(chosen.user)
    asyncio.run(main(chosen))
