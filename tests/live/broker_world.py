"""A real nats-server with users, TLS and permissions, and clients that hear what it refuses.

async with broker(keeper, folder) as bus:
    refused = await attempt(bus.url, bus.access(credentials), publish=[...], subscribe=[...])
"""

import asyncio
import contextlib
import random
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from nats.aio.client import Client

from bus_mesh.bus.access import Access, trusting
from bus_mesh.bus.embedded import find_server
from bus_mesh.bus.nats_bus import NatsBus
from bus_mesh.cli.home import MeshHome
from bus_mesh.cli.nats import config
from bus_mesh.cli.nats_home import NatsHome
from bus_mesh.control.nats_account import push_account
from bus_mesh.control.permissions import Permissions
from bus_mesh.identity.bus_credentials import Credentials
from bus_mesh.process.kept import Child, Keeper

QUICK = {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0, "connect_timeout": 5}
"""Options of clients that give up at once."""


async def until(fact: Callable[[], object], seconds: float = 5.0, every: float = 0.002) -> float:
    """Wait until it holds; return the seconds it took. `every` is for what costs much to look at."""
    now = asyncio.get_running_loop().time
    began = now()
    async with asyncio.timeout(seconds):
        while not fact():
            await asyncio.sleep(every)
    return now() - began


class Broker:
    """A server in operator mode, written by `busmesh nats config`, and the home that its users come from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "server"
        self.home = MeshHome(folder / "home")
        self.home.init("demo")
        config(self.folder, home=self.home.path, listen="127.0.0.1:4222")
        self.side = NatsHome(self.home)
        self.port = -1
        self.child: Child | None = None

    @property
    def url(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    def user(self, allowed: Permissions, life: int = 600) -> Credentials:
        """Return a new user of the mesh's account."""
        now = int(time.time())
        return self.side.authority.signer.user("test", allowed, now=now, life=life, entropy=secrets.token_bytes)

    def pusher(self) -> Credentials:
        """Return a user that may push tokens of accounts."""
        return self.side.authority.signer.pusher(now=int(time.time()), entropy=secrets.token_bytes)

    async def push(self, token: str, by: Credentials | None = None, timeout: float = 5.0) -> float:
        """Push an account's token as the control plane would; return the seconds it took."""
        access = self.access(by or self.pusher())
        bus = NatsBus(self.url, name="pusher", roll=random.random, access=access)
        await bus.start()
        try:
            await bus.ready(5.0)
            began = asyncio.get_running_loop().time()
            await push_account(bus, token, inbox=secrets.token_hex(16), timeout=timeout)
            return asyncio.get_running_loop().time() - began
        finally:
            await bus.close()

    def access(self, credentials: Credentials | None) -> Access:
        """Return the way in for a user, or for somebody without one."""
        read = None if credentials is None else lambda: credentials
        return Access.with_user(read, tls=self.trust(), tls_first=True)

    def trust(self) -> ssl.SSLContext:
        """Return TLS that knows this server."""
        return trusting(self.side.ca.pair.certificate.decode())

    async def start(self, keeper: Keeper) -> None:
        """Return once it listens; after `stop`, on the same port."""
        self.child, self.port = await serve(keeper, self.folder, "nats-server.conf", self.port)

    async def stop(self) -> None:
        assert self.child is not None
        await self.child.stop(5.0)


@contextlib.asynccontextmanager
async def broker(keeper: Keeper, folder: Path) -> AsyncIterator[Broker]:
    """A server for the length of a block."""
    made = Broker(folder)
    await made.start(keeper)
    try:
        yield made
    finally:
        await made.stop()


async def serve(
    keeper: Keeper, folder: Path, file: str, port: int = -1, env: dict[str, str] | None = None
) -> tuple[Child, int]:
    """Run nats-server in a folder; return it and the port it listens on."""
    command = [str(find_server()), "-c", file, "-p", str(port), "--ports_file_dir", str(folder)]
    child = await keeper.spawn(command, env=env, cwd=str(folder), log=folder / "log")
    ports = folder / f"nats-server_{child.pid}.ports"
    await until(lambda: child.returncode is not None or (ports.exists() and "://" in ports.read_text()))
    assert child.returncode is None, (folder / "log").read_text()
    return child, int(ports.read_text().partition('"nats":["')[2].partition('"')[0].rpartition(":")[2])


@contextlib.asynccontextmanager
async def client(url: str, access: Access) -> AsyncIterator[tuple[Client, list[str]]]:
    """A client for the length of a block, and what the server told it of its errors."""
    made, heard = Client(), list[str]()

    async def hear(error: Exception) -> None:
        heard.append(str(error))

    await made.connect(url, error_cb=hear, **QUICK, **access.options())
    try:
        yield made, heard
    finally:
        await made.close()


async def settled(made: Client) -> None:
    """Return once the server has handled all that was sent; one flush is no barrier."""
    await made.flush()
    await made.flush()


async def attempt(
    url: str, access: Access, publish: Iterable[str] = (), subscribe: Iterable[str] = ()
) -> tuple[set[str], set[str]]:
    """Try it all; return what may be published and what may be subscribed to, by the server's own words."""
    publish, subscribe = list(publish), list(subscribe)
    async with client(url, access) as (made, heard):
        for subject in publish:
            await made.publish(subject, b"")
        for pattern in subscribe:
            subject, _, queue = pattern.partition(" ")
            await made.subscribe(subject, queue)
        await settled(made)
        assert made.is_connected
    words = {f'permissions violation for publish to "{subject.lower()}"': subject for subject in publish}
    denied_publish = {words[word] for word in map(_word, heard) if word in words}
    asked = {_subscribing(pattern): pattern for pattern in subscribe}
    denied_subscribe = {asked[word] for word in map(_word, heard) if word in asked}
    assert len(heard) == len(denied_publish) + len(denied_subscribe), heard
    return set(publish) - denied_publish, set(subscribe) - denied_subscribe


def _word(error: str) -> str:
    return error.removeprefix("nats: ").strip("'").lower()


def _subscribing(pattern: str) -> str:
    subject, _, queue = pattern.lower().partition(" ")
    group = f' using queue "{queue}"' if queue else ""
    return f'permissions violation for subscription to "{subject}"{group}'
