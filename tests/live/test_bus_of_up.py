"""The bus of `busmesh up`, and who gets in there: TLS, a user for each agent, and nobody else."""

import os
import random
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from broker_world import attempt
from test_up import BUSMESH, Up, eventually

from bus_mesh.bus.access import Access, trusting
from bus_mesh.bus.contract import BusRejected
from bus_mesh.bus.nats_bus import NatsBus
from bus_mesh.bus_access import access_of
from bus_mesh.config import load_node
from bus_mesh.control.nats_authority import KEYS

pytestmark = pytest.mark.timeout(60)
ORDER = ("orders", "get", '{"id": "1"}')


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("shop") / "home", "--demo", "--load", "0") as up:
        yield up


def server_of(up: Up) -> psutil.Process:
    (server,) = [process for process in up.family() if process.name() == "nats-server"]
    return server


def access(up: Up, node: str) -> Access:
    """The way in of a node's agent, by its own node.yaml."""
    return access_of(load_node(up.home / node / "node.yaml", {}).bus)


def authority(up: Up) -> str:
    return (up.home / "node-a" / "identity" / "ca.pem").read_text()


async def refused(url: str, way: Access) -> None:
    """Fail unless the server itself refuses who comes this way."""
    knocking = NatsBus(url, name="stranger", roll=random.random, access=way)
    await knocking.start()
    with pytest.raises(BusRejected):
        await knocking.ready(5.0)
    await knocking.close()


async def test_who_shows_no_credentials_is_refused(shop: Up) -> None:
    for password in (None, "guess"):
        outsider = Access(tls=trusting(authority(shop)), tls_first=True, user=password, password=password)

        await refused(shop.ready["bus"], outsider)


def test_without_tls_the_server_does_not_say_a_word(shop: Up) -> None:
    port = int(shop.ready["bus"].rpartition(":")[2])

    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"CONNECT {}\r\nPING\r\n")
        assert b"INFO" not in connection.recv(4096)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_its_certificate_holds_for_every_name_of_loopback(shop: Up, host: str) -> None:
    port = int(shop.ready["bus"].rpartition(":")[2])

    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as connection,
        trusting(authority(shop)).wrap_socket(connection, server_hostname=host) as secured,
    ):
        assert secured.recv(4) == b"INFO"


def test_it_listens_on_loopback_and_has_no_port_for_statistics(shop: Up) -> None:
    listening = [one.laddr for one in server_of(shop).net_connections() if one.status == "LISTEN"]

    assert [(f"tls://{host}:{port}", host) for host, port in listening] == [(shop.ready["bus"], "127.0.0.1")]


async def test_a_nodes_credentials_open_what_is_its_own_and_nothing_of_others(shop: Up) -> None:
    own = ["mesh.dev.node.node-a.*", "mesh.dev.ctl.policy"]
    others = [
        "mesh.dev.node.node-b.*",
        "mesh.dev.node.*.*",
        "mesh.dev.rpc.orders.*",
        "mesh.dev.rpc.orders.* stock",
        "mesh.dev.rpc.bank.* bank",
        "mesh.dev.ctl.get.*",
        ">",
    ]

    said, heard = await attempt(
        shop.ready["bus"],
        access(shop, "node-a"),
        publish=["mesh.dev.ctl.policy", "mesh.dev.none.node-b.x", "mesh.dev.find.all.node-b"],
        subscribe=[*own, *others],
    )

    assert said == set()
    assert heard == set(own)


def test_a_node_admitted_by_hand_finds_the_bus_and_joins(shop: Up) -> None:
    assert shop.busmesh("node", "add", "node-c", "--home", str(shop.home)).returncode == 0
    file = shop.home / "node-c" / "node.yaml"
    file.write_text(file.read_text().replace("http: 127.0.0.1:9465", "http: off"))

    with subprocess.Popen([*BUSMESH, "agent", "-c", str(file)], stderr=subprocess.DEVNULL) as agent:
        try:
            assert eventually(lambda: "node-c" in shop.busmesh("get", "nodes").stdout)
        finally:
            agent.terminate()


def test_a_node_joins_by_token_and_is_put_out_again(shop: Up) -> None:
    token = shop.busmesh("token", "create", "node-d", "--serve", "prices", "--call-as", "cli")
    assert token.returncode == 0, token.stderr
    file = shop.home / "node-d" / "node.yaml"
    file.parent.mkdir()
    way = f"{{url: {shop.ready['bus']}, credentials: identity/bus.creds, tls: {{ca: identity/ca.pem}}}}"
    file.write_text(f"mesh: dev\nnode: node-d\nbus: {way}\nhttp: off\nsocket: agent.sock\nstate: state\n")

    command = [*BUSMESH, "agent", "-c", str(file), "--join", token.stdout.strip()]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as agent:
        try:
            assert eventually(lambda: "node-d" in shop.busmesh("get", "nodes").stdout)
            assert shop.busmesh("node", "revoke", "node-d", "--wait").returncode == 0
            assert eventually(lambda: "node-d" not in shop.busmesh("get", "nodes").stdout)
            assert "revoked" in shop.busmesh("node", "list").stdout
        finally:
            agent.terminate()


def test_a_server_killed_with_9_comes_back_on_its_port_and_calls_go_on(shop: Up) -> None:
    server, port = server_of(shop), ports(shop)
    log = shop.home / "bus" / "nats-server.log"
    said_before = log.stat().st_size
    os.kill(server.pid, signal.SIGKILL)

    assert eventually(lambda: not server.is_running())
    assert eventually(lambda: [process.name() for process in shop.family()].count("nats-server") == 1)
    assert eventually(lambda: shop.busmesh("call", *ORDER).returncode == 0, seconds=20)
    back = eventually(lambda: shop.busmesh("policy", "history").returncode == 0, seconds=20)
    assert back, page(shop.ready["policy"]["http"] + "/readyz")
    assert ports(shop) == port != set()
    assert b"iolation" not in log.read_bytes()[said_before:]


def page(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def ports(up: Up) -> set[int]:
    return {one.laddr.port for one in server_of(up).net_connections() if one.status == "LISTEN"}


async def test_a_second_start_keeps_keys_and_takes_a_new_user_where_more_is_granted(tmp_path: Path) -> None:
    home = tmp_path / "home"
    kept = [*(home / "nats" / f"{name}.seed" for name in KEYS), home / "nats" / "ca.key", home / "nats" / "ca.pem"]
    with Up(home, "--demo", "--load", "0") as up:
        keys = [file.read_bytes() for file in kept]
        former = (home / "node-a" / "identity" / "bus.creds").read_bytes()
        _, before = await attempt(up.ready["bus"], access(up, "node-a"), subscribe=["mesh.dev.rpc.bank.* bank"])

    with Up(home, "--demo", "--load", "0", "--serve", "bank") as again:
        _, after = await attempt(again.ready["bus"], access(again, "node-a"), subscribe=["mesh.dev.rpc.bank.* bank"])

        assert (len(before), len(after)) == (0, 1)
        assert [file.read_bytes() for file in kept] == keys
        assert again.call(*ORDER)["id"] == "1"
        (home / "node-a" / "identity" / "bus.creds").write_bytes(former)
        await refused(again.ready["bus"], access(again, "node-a"))


def test_a_home_without_keys_of_the_bus_gets_them_and_goes_on(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Up(home, "--demo", "--load", "0") as up:
        assert up.call(*ORDER)["id"] == "1"

    for lost in (["nats"], ["nats", "bus"]):
        for folder in lost:
            shutil.rmtree(home / folder)
        with Up(home, "--demo", "--load", "0") as again:
            assert again.call(*ORDER)["id"] == "1", lost
            assert (home / "nats" / "account.jwt").exists()
            assert "iolation" not in (home / "bus" / "nats-server.log").read_text()
