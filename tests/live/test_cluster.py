"""Three real servers from `nats/cluster.conf`: mutual TLS between them, and the users of `nats/permissions.conf`."""

import asyncio
import contextlib
import datetime
import os
import re
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from broker_world import client, serve, settled, until
from nats.aio.client import Client
from nats.aio.msg import Msg
from permission_table import NAMED, NODE, ROLES, hold_to_the_table

from bus_mesh.bus.access import Access, trusting
from bus_mesh.control.nats_tls import Ca
from bus_mesh.process.kept import Child, Keeper

NATS = Path(__file__).parents[2] / "nats"
PASSWORDS = {name: f"p-{name}" for name in NAMED.values()}
ENV = {f"BUSMESH_{name.upper().replace('-', '_')}_PASSWORD": word for name, word in PASSWORDS.items()}


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago: servers must know each other's before they start."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def furnish(folder: Path, ca: Ca) -> None:
    """Write what a server reads, with a certificate of its own."""
    (folder / "tls").mkdir(parents=True)
    pair = ca.server(["localhost", "127.0.0.1"], datetime.datetime.now(datetime.UTC))
    (folder / "tls" / "server.crt").write_bytes(pair.certificate)
    (folder / "tls" / "server.key").write_bytes(pair.key)
    (folder / "tls" / "ca.pem").write_bytes(ca.pair.certificate)
    for name in ("cluster.conf", "permissions.conf"):
        shutil.copy(NATS / name, folder)


class Cluster:
    """Servers that run, and how to get in."""

    def __init__(self, keeper: Keeper, folder: Path) -> None:
        self.ca = Ca.generate("demo", datetime.datetime.now(datetime.UTC))
        self.folder = folder
        self.routes = free_ports(3)
        self.servers: list[tuple[Child, int]] = []
        self._keeper = keeper

    async def start(self, number: int, ca: Ca) -> tuple[Child, int]:
        """Start one of the three, under an authority."""
        folder = self.folder / f"bus-{number}"
        furnish(folder, ca)
        others = [port for port in self.routes if port != self.routes[number]]
        env = {
            **ENV,
            "BUSMESH_SERVER_NAME": f"bus-{number}",
            "BUSMESH_LISTEN": "127.0.0.1:4222",
            "BUSMESH_ROUTE_LISTEN": f"127.0.0.1:{self.routes[number]}",
            "BUSMESH_ROUTE_1": f"nats-route://127.0.0.1:{others[0]}",
            "BUSMESH_ROUTE_2": f"nats-route://127.0.0.1:{others[1]}",
        }
        self.servers.append(await serve(self._keeper, folder, "cluster.conf", env=env))
        return self.servers[-1]

    def log(self, number: int) -> str:
        return (self.folder / f"bus-{number}" / "log").read_text()

    def access(self, role: str, ca: Ca | None = None) -> Access:
        trust = trusting((ca or self.ca).pair.certificate.decode())
        return Access(tls=trust, tls_first=True, user=NAMED[role], password=PASSWORDS[NAMED[role]])

    async def stop(self) -> None:
        for child, _ in self.servers:
            await child.stop(5.0)


@pytest.fixture
async def cluster(keeper: Keeper, tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(keeper, tmp_path)
    yield made
    await made.stop()


async def test_a_message_crosses_from_each_server_to_each_other(cluster: Cluster) -> None:
    ports = [(await cluster.start(number, cluster.ca))[1] for number in range(3)]
    heard: set[tuple[int, bytes]] = set()
    async with contextlib.AsyncExitStack() as stack:
        made: list[Client] = []
        for number, port in enumerate(ports):
            one, _ = await stack.enter_async_context(client(f"tls://127.0.0.1:{port}", cluster.access(NODE)))
            await one.subscribe("mesh.demo.node.node-a.b1", cb=noting(heard, number))
            made.append(one)

        # Servers find each other, and tell each other who listens, while we ask.
        async with asyncio.timeout(20):
            while len(heard) < 9:
                for number, one in enumerate(made):
                    await one.publish("mesh.demo.node.node-a.b1", b"%d" % number)
                    await settled(one)
                await asyncio.sleep(0.02)
        assert heard == {(to, b"%d" % sender) for to in range(3) for sender in range(3)}

        # The other two go on without one of them.
        os.kill(cluster.servers[0][0].pid, signal.SIGKILL)
        await until(lambda: made[0].is_closed)
        await made[1].publish("mesh.demo.node.node-a.b1", b"still")
        await until(lambda: (2, b"still") in heard)


async def test_a_server_of_another_authority_does_not_join(cluster: Cluster) -> None:
    other = Ca.generate("demo", datetime.datetime.now(datetime.UTC))
    (_, port), (_, strange) = await cluster.start(0, cluster.ca), await cluster.start(1, other)
    here, there = cluster.access(NODE), cluster.access(NODE, other)
    answers: list[str] = []

    async def hear(message: Msg) -> None:
        answers.append((message.headers or {}).get("Status", ""))

    async with (
        client(f"tls://127.0.0.1:{strange}", there) as (far, _),
        client(f"tls://127.0.0.1:{port}", here) as (near, __),
    ):
        await far.subscribe("mesh.demo.node.node-a.b1")
        await settled(far)
        await until(lambda: "tls route handshake error" in cluster.log(0).lower(), 10.0)

        await near.subscribe("mesh.demo.none.node-a.b1.*", cb=hear)
        await settled(near)
        await near.publish("mesh.demo.node.node-a.b1", b"", reply="mesh.demo.none.node-a.b1.1")

        await until(lambda: bool(answers))
    assert answers == ["503"], "the server here knows of nobody over there"


@pytest.mark.parametrize("role", ROLES)
async def test_permissions_conf_keeps_each_role_to_its_rows_of_the_table(cluster: Cluster, role: str) -> None:
    _, port = await cluster.start(0, cluster.ca)

    await hold_to_the_table(role, f"tls://127.0.0.1:{port}", cluster.access(role))


@pytest.mark.parametrize("role", ROLES)
def test_permissions_conf_says_what_is_computed_from_the_table(role: str) -> None:
    text = (NATS / "permissions.conf").read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.strip().startswith("#"))
    user = lines.partition(f"user: {NAMED[role]}\n")[2].partition("user:")[0]
    lists = [tuple(re.findall(r'"([^"]+)"', one)) for one in re.findall(r"(?:allow|deny): \[([^\]]*)\]", user)]

    assert lists == [ROLES[role].publish, ROLES[role].never_publish, ROLES[role].subscribe]


def noting(heard: set[tuple[int, bytes]], number: int) -> Callable[[Msg], Awaitable[None]]:
    """Return a handler that notes who heard what."""

    async def hear(message: Msg) -> None:
        heard.add((number, message.data))

    return hear
