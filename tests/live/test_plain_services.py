"""Apps call a plain service of NATS: nats-py's own, with a user of the bus and no key of the mesh."""

import asyncio
import base64
import json
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from broker_world import attempt
from nats import micro
from nats.micro.request import Request, ServiceError
from test_up import BUSMESH, Up, eventually

from bus_mesh.bus_access import access_of, user_ends_us
from bus_mesh.config import load_node
from bus_mesh.identity.bus_credentials import Credentials

pytestmark = pytest.mark.timeout(60)
SERVICE = "micro:MinMax"
DOCUMENT = f"""\
kind: Service
name: {SERVICE}
access: {{allow: [{{from: [cli], methods: [min, fail, slow]}}]}}
methods: {{slow: {{timeout: 300ms}}}}
"""


class Shop(Up):
    """The shop, and a node from which apps reach plain services: `node-c`, whose agent is started beside it."""

    @property
    def outer(self) -> Path:
        return self.home / "node-c"

    def ask(self, method: str, params: str = "{}", service: str = SERVICE) -> subprocess.CompletedProcess[str]:
        return self.busmesh("call", service, method, params, "-o", "json", "--socket", str(self.outer / "agent.sock"))

    def apply(self, text: str) -> None:
        file = self.home / "minmax.yaml"
        file.write_text(text)
        applied = self.busmesh("policy", "apply", "-f", str(file), "--wait")
        assert applied.returncode == 0, applied.stderr


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with Shop(tmp_path_factory.mktemp("shop") / "home", "--demo", "--load", "0") as up:
        home = str(up.home)
        for command in (
            ("node", "add", "node-c", "--call-as", "cli", "--home", home),
            ("nats", "client", "node-c", "--ask", "minmax.*", "--out", f"{up.outer}/outside.creds", "--home", home),
            ("nats", "client", "minmax", "--answer", "minmax.*", "--out", f"{home}/minmax.creds", "--home", home),
        ):
            done = up.busmesh(*command)
            assert done.returncode == 0, done.stderr
        file = up.outer / "node.yaml"
        text = file.read_text().replace("http: 127.0.0.1:9465", "http: 127.0.0.1:0").replace("policy_dir: policy\n", "")
        file.write_text(f"{text}\nmicro: {{credentials: outside.creds}}\n")
        with subprocess.Popen([*BUSMESH, "agent", "-c", str(file)], stderr=subprocess.DEVNULL) as agent:
            try:
                assert eventually(lambda: "node-c" in up.busmesh("get", "nodes").stdout)
                yield up
            finally:
                agent.terminate()


async def least(request: Request) -> None:
    values = json.loads(request.data)["of"]
    await request.respond(json.dumps({"least": min(values)}).encode())


async def fail(request: Request) -> None:
    raise ServiceError("404", "no such thing")


async def slow(request: Request) -> None:
    await asyncio.sleep(2.0)
    await request.respond(b"1")


@asynccontextmanager
async def minmax(up: Up) -> AsyncIterator[Any]:
    """A plain service, as nats-py's users write one."""
    user = Credentials.parse((up.home / "minmax.creds").read_text())
    connection = await nats.connect(
        up.ready["bus"],
        user_jwt_cb=lambda: user.jwt.encode(),
        signature_cb=lambda nonce: base64.b64encode(user.sign(nonce.encode())),
        tls=ssl.create_default_context(cafile=str(up.home / "nats" / "ca.pem")),
        tls_handshake_first=True,
    )
    try:
        service = await micro.add_service(connection, name="MinMax", version="1.0.0")
        for name, handler in (("min", least), ("fail", fail), ("slow", slow)):
            await service.add_endpoint(name=name, subject=f"minmax.{name}", handler=handler)
        await connection.flush()
        yield service
    finally:
        await connection.close()


async def test_an_app_calls_a_plain_service_where_policy_allows(shop: Shop) -> None:
    async with minmax(shop) as service:
        assert await asyncio.to_thread(eventually, lambda: "NO_POLICY" not in shop.ask("min").stderr)
        denied = await asyncio.to_thread(shop.ask, "min", '{"of": [3, 1, 2]}')
        assert denied.returncode == 64 + 7
        assert "PERMISSION_DENIED" in denied.stderr

        await asyncio.to_thread(shop.apply, DOCUMENT)
        answered = await asyncio.to_thread(shop.ask, "min", '{"of": [3, 1, 2]}')
        assert (answered.returncode, answered.stderr) == (0, "")
        assert json.loads(answered.stdout) == {"least": 1}
        failed, late, other = await asyncio.gather(
            *(asyncio.to_thread(shop.ask, method) for method in ("fail", "slow", "max"))
        )
        assert failed.returncode == 64 + 5
        assert "no such thing" in failed.stderr
        assert late.returncode == 64 + 4
        assert other.returncode == 64 + 7
        counted = {endpoint.name: endpoint.num_requests for endpoint in service.stats().endpoints}
        assert counted["min"] == 1, "the service's own count"

    gone = await asyncio.to_thread(shop.ask, "min", '{"of": [1]}')
    assert gone.returncode == 64 + 14
    assert "NO_INSTANCES" in gone.stderr
    assert "there is no service" not in gone.stderr


async def test_edges_shows_that_such_calls_are_not_sealed(shop: Shop) -> None:
    shop.apply(DOCUMENT)

    async with minmax(shop):
        looking = asyncio.create_task(asyncio.to_thread(shop.busmesh, "edges", "-o", "json", "--home", str(shop.home)))
        while not looking.done():
            await asyncio.to_thread(shop.ask, "min", '{"of": [1]}')
        done = looking.result()

    assert done.returncode == 0, done.stderr
    edges = [json.loads(line) for line in done.stdout.splitlines()]
    rows = [edge for one in edges for edge in (one if isinstance(one, list) else [one])]
    assert [edge["secured"] for edge in rows if edge["to"] == SERVICE] == [False]


async def test_neither_way_reaches_what_the_other_may(shop: Shop) -> None:
    settings = load_node(shop.outer / "node.yaml", {})
    assert settings.micro is not None
    outside, inside = access_of(settings.micro.bus(settings.bus)), access_of(settings.bus)
    plain, mesh = ["minmax.min", "$SRV.INFO.MinMax"], ["mesh.dev.rpc.orders.get", "mesh.dev.node.node-a.b"]

    said, heard = await attempt(shop.ready["bus"], outside, publish=[*plain, *mesh], subscribe=["minmax.*", "mesh.>"])
    assert (said, heard) == (set(plain), set())
    said, heard = await attempt(shop.ready["bus"], inside, publish=[*plain, *mesh], subscribe=["_INBOX.node-c.*"])
    assert (said, heard) == (set(mesh), set())


def test_a_way_out_says_when_its_user_ends(shop: Shop) -> None:
    settings = load_node(shop.outer / "node.yaml", {})
    assert settings.micro is not None
    ends_us = user_ends_us(settings.micro.bus(settings.bus))
    done = shop.busmesh("check", "-o", "json")

    assert 29 < (ends_us / 1e6 - time.time()) / 86_400 < 30
    marks = {one["what"]: one["mark"] for one in json.loads(done.stdout)}
    assert marks["their users last for another week"] == "good"


def test_a_pattern_that_reaches_into_the_mesh_is_never_granted(shop: Shop, tmp_path: Path) -> None:
    for option, pattern in (("--ask", "mesh.>"), ("--answer", ">"), ("--ask", "_INBOX.>"), ("--answer", "$SRV.>")):
        file = tmp_path / "x.creds"
        done = shop.busmesh("nats", "client", "x", option, pattern, "--out", str(file), "--home", str(shop.home))

        assert done.returncode == 2
        assert pattern in done.stderr
        assert not file.exists()


def test_commands_know_plain_services_by_their_names(shop: Shop) -> None:
    shop.apply(DOCUMENT)

    described, allowed, denied, wrong = shop.busmesh_each(
        ("describe", "service", SERVICE),
        ("access", "check", "cli", f"{SERVICE}/min"),
        ("access", "check", "web", f"{SERVICE}/min"),
        ("describe", "service", "micro:a.b"),
    )
    assert described.returncode == 0, described.stderr
    assert "retry" in described.stdout
    assert "breaker" not in described.stdout
    assert described.stdout.endswith("nobody seals what is said\n")
    assert (allowed.returncode, denied.returncode, wrong.returncode) == (0, 1, 2)
