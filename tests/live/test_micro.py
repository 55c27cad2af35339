"""Services of a mesh as plain clients of NATS see them: nats-py, a user of its own, and no key of the mesh."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.errors import TimeoutError as NoAnswer
from test_up import Up, eventually

from bus_mesh.identity.bus_credentials import Credentials

pytestmark = pytest.mark.timeout(60)
EXPOSED = "kind: Service\nname: orders\naccess:\n  allow:\n    - {from: [web, cli], methods: ['*']}\n"
PLAIN = f"{EXPOSED}    - {{from: [anonymous], methods: [get]}}\nexpose: micro\n"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    home = tmp_path_factory.mktemp("shop") / "home"
    with Up(home, "--demo", "--load", "0") as up:
        made = up.busmesh(
            *("nats", "client", "reports", "--call", "orders", "--call", "stock"),
            *("--out", str(home / "reports.creds"), "--home", str(home)),
        )
        assert made.returncode == 0, made.stderr
        yield up


def expose(up: Up, text: str) -> None:
    file = up.home / "orders.yaml"
    file.write_text(text)
    applied = up.busmesh("policy", "apply", "-f", str(file), "--wait")
    assert applied.returncode == 0, applied.stderr


@asynccontextmanager
async def client(up: Up) -> AsyncIterator[Client]:
    user = Credentials.parse((up.home / "reports.creds").read_text())
    context = ssl.create_default_context(cafile=str(up.home / "nats" / "ca.pem"))
    connection = await nats.connect(
        up.ready["bus"],
        user_jwt_cb=lambda: user.jwt.encode(),
        signature_cb=lambda nonce: base64.b64encode(user.sign(nonce.encode())),
        tls=context,
        tls_handshake_first=True,
        inbox_prefix=b"_INBOX.reports",
    )
    try:
        yield connection
    finally:
        await connection.close()


async def everyone(connection: Client, subject: str) -> list[dict[str, Any]]:
    """Return all answers to a question, until nobody has answered for a while."""
    inbox = connection.new_inbox()
    answers = await connection.subscribe(inbox)
    await connection.publish(subject, b"", reply=inbox)
    found = []
    while True:
        try:
            found.append(json.loads((await answers.next_msg(timeout=0.5)).data))
        except NoAnswer:
            return found


async def ask(connection: Client, subject: str, data: bytes) -> tuple[str, Any]:
    """Return the code of an error, or "", and what was answered."""
    answer = await connection.request(subject, data, timeout=5.0)
    code = (answer.headers or {}).get("Nats-Service-Error-Code", "")
    return code, json.loads(answer.data) if answer.data else None


async def test_a_plain_client_lists_inspects_and_reads_the_statistics_of_services(shop: Up) -> None:
    before = 5
    for _ in range(before):
        assert shop.call("orders", "get", '{"id": "1"}')["id"] == "1"
    async with client(shop) as connection:
        pinged = await everyone(connection, "$SRV.PING")
        infos = await everyone(connection, "$SRV.INFO.orders")
        stats = await everyone(connection, "$SRV.STATS.orders")
        one = await everyone(connection, f"$SRV.PING.orders.{infos[0]['id']}")

    served = [row["instance"] for row in json.loads(shop.busmesh("get", "instances", "-o", "json").stdout)]
    assert sorted(found["id"] for found in pinged) == sorted(served)
    assert {found["name"] for found in infos} == {"orders"}
    assert {end["name"] for end in infos[0]["endpoints"]} == {"get", "create"}
    assert [found["id"] for found in one] == [infos[0]["id"]]
    gets = [end for found in stats for end in found["endpoints"] if end["name"] == "get"]
    assert sum(end["num_requests"] for end in gets) == before
    assert all(end["average_processing_time"] > 0 for end in gets if end["num_requests"])
    assert sum(end["num_errors"] for end in gets) == 0


async def test_what_is_not_exposed_is_refused_with_401_and_what_is_answers_in_json(shop: Up) -> None:
    expose(shop, EXPOSED)
    async with client(shop) as connection:
        assert await ask(connection, "mesh.dev.rpc.orders.get", b'{"id": "1"}') == ("401", None)
        expose(shop, f"{EXPOSED}expose: micro\n")
        code, why = await ask(connection, "mesh.dev.rpc.orders.get", b'{"id": "1"}')
        assert (code, why["reason"]) == ("403", "PERMISSION_DENIED"), "exposed, and nobody is allowed to be anonymous"
        expose(shop, PLAIN)
        assert (await ask(connection, "mesh.dev.rpc.orders.get", b'{"id": "1"}'))[1]["id"] == "1"
        assert (await ask(connection, "mesh.dev.rpc.orders.create", b"{}"))[0] == "403"
        assert (await ask(connection, "mesh.dev.rpc.orders.get", b"[1]"))[0] == "400"
        assert (await ask(connection, "mesh.dev.rpc.orders.get", b'{"id": 7}'))[0] == "400"
        assert (await ask(connection, "mesh.dev.rpc.orders.got", b"{}"))[0] in ("403", "501")


async def test_refusals_are_few_however_often_somebody_knocks(shop: Up) -> None:
    async with client(shop) as connection:
        inbox = connection.new_inbox()
        answers = await connection.subscribe(inbox)
        for _ in range(500):
            await connection.publish("mesh.dev.rpc.stock.reserve", b"{}", reply=inbox)
        await connection.flush()
        heard = 0
        try:
            while True:
                await answers.next_msg(timeout=1.0)
                heard += 1
        except NoAnswer:
            pass

    assert 1 <= heard <= 2 * 2 * 10, "ten a second of each of two agents"
    assert eventually(lambda: shop.call("orders", "get", '{"id": "1"}')["id"] == "1")


async def test_a_plain_client_reaches_nothing_else(shop: Up) -> None:
    async with client(shop) as connection:
        refused: list[str] = []

        async def note(error: Exception) -> None:
            refused.append(str(error).lower())

        connection._error_cb = note
        await connection.publish("mesh.dev.rpc.web.index", b"{}")
        await connection.subscribe("mesh.dev.>")
        await connection.flush()
        for _ in range(50):
            if len(refused) == 2:
                break
            await asyncio.sleep(0.02)

    assert len([text for text in refused if "permissions violation" in text]) == 2


def test_credentials_are_never_overwritten(shop: Up, tmp_path: Path) -> None:
    taken, home = str(shop.home / "reports.creds"), str(shop.home)
    again = shop.busmesh("nats", "client", "reports", "--out", taken, "--home", home)
    wrong = shop.busmesh("nats", "client", "a.b", "--out", str(tmp_path / "x"), "--home", home)

    assert (again.returncode, wrong.returncode) == (1, 2)
    assert "is there already" in again.stderr
