"""The processes of the benchmark: `python -m benchmarks.roles ROLE ARGS`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

import nats
import uvloop
from bus_mesh_sdk import Mesh, Service, rpc
from nats.aio.msg import Msg

PAYLOAD = b"x" * 128


class Echo(Service, name="echo", version="1.0.0"):
    @rpc(idempotent=True)
    async def say(self, data: bytes) -> bytes:
        raise NotImplementedError


class EchoDirect(Service, name="echo-direct", version="1.0.0"):
    @rpc(idempotent=True)
    async def say(self, data: bytes) -> bytes:
        raise NotImplementedError


class EchoSigned(Service, name="echo-signed", version="1.0.0"):
    @rpc(idempotent=True)
    async def say(self, data: bytes) -> bytes:
        raise NotImplementedError


class EchoBare(Service, name="echo-bare", version="1.0.0"):
    @rpc(idempotent=True)
    async def say(self, data: bytes) -> bytes:
        raise NotImplementedError


class EchoImpl(Echo):
    async def say(self, data: bytes) -> bytes:
        return data


class EchoDirectImpl(EchoDirect):
    async def say(self, data: bytes) -> bytes:
        return data


class EchoBareImpl(EchoBare):
    async def say(self, data: bytes) -> bytes:
        return data


class EchoSignedImpl(EchoSigned):
    async def say(self, data: bytes) -> bytes:
        return data


CONTRACTS = {"echo": Echo, "echo-direct": EchoDirect, "echo-bare": EchoBare, "echo-signed": EchoSigned}


async def serve(socket: str) -> None:
    async with Mesh.connect(app="echo", socket=socket) as mesh:
        await mesh.serve(EchoImpl(), concurrency=1024)
        await mesh.serve(EchoDirectImpl(), concurrency=1024)
        await mesh.serve(EchoBareImpl(), concurrency=1024)
        await mesh.serve(EchoSignedImpl(), concurrency=1024)
        print("ready", flush=True)
        await mesh.wait_closed()


async def plain_serve(url: str) -> None:
    bus = await nats.connect(url)

    async def echo(message: Msg) -> None:
        await message.respond(message.data)

    await bus.subscribe("echo", queue="echo", cb=echo)
    await bus.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def load(call: Callable[[], Awaitable[object]], at_once: int, seconds: float) -> None:
    for _ in range(100):
        await call()
    took: list[float] = []
    used = time.process_time()
    start = time.perf_counter()
    end = start + seconds

    async def worker() -> None:
        while (begun := time.perf_counter()) < end:
            await call()
            took.append(time.perf_counter() - begun)

    await asyncio.gather(*(worker() for _ in range(at_once)))
    elapsed = time.perf_counter() - start
    used = time.process_time() - used
    took.sort()
    at = lambda share: took[min(len(took) - 1, int(len(took) * share))] * 1000  # noqa: E731
    row = {"calls": len(took), "rate": len(took) / elapsed, "p50": at(0.5), "p99": at(0.99)}
    print(json.dumps({**row, "cpu_us": used / len(took) * 1e6}))


async def call(socket: str, service: str, at_once: str, seconds: str) -> None:
    async with Mesh.connect(app="bench", socket=socket) as mesh:
        say = mesh.client(CONTRACTS[service], timeout=30.0).say
        await load(lambda: say(PAYLOAD), int(at_once), float(seconds))


async def plain_call(url: str, at_once: str, seconds: str) -> None:
    bus = await nats.connect(url)
    await load(lambda: bus.request("echo", PAYLOAD, timeout=30), int(at_once), float(seconds))
    await bus.close()


ROLES = {"serve": serve, "plain_serve": plain_serve, "call": call, "plain_call": plain_call}

if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ROLES[sys.argv[1]](*sys.argv[2:]))
