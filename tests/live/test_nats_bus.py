"""What only a real nats-server can show of the bus: outages, credentials, TLS and hostile bytes."""

import asyncio
import datetime
import os
import random
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bus_mesh.bus.access import Access
from bus_mesh.bus.contract import BusRejected, BusState, BusUnreachable
from bus_mesh.bus.embedded import EmbeddedServer, find_server
from bus_mesh.bus.nats_bus import NatsBus
from bus_mesh.process.kept import Child, Keeper

NATS = Path(__file__).parents[2] / "nats"
Maker = Callable[..., NatsBus]


@pytest.fixture
async def make() -> AsyncIterator[Maker]:
    """Makes buses, and closes them at the end."""
    made: list[NatsBus] = []

    def one(url: str, **options: object) -> NatsBus:
        made.append(NatsBus(url, name="test", roll=random.Random(7).random, **options))  # type: ignore[arg-type]
        return made[-1]

    yield one
    for bus in made:
        await bus.close()


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> float:
    """Wait until it holds; return the seconds it took."""
    now = asyncio.get_running_loop().time
    started = now()
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)
    return now() - started


async def connected(make: Maker, url: str, **options: object) -> NatsBus:
    bus = make(url, **options)
    await bus.start()
    await bus.ready(5.0)
    return bus


def raw(port: int, data: bytes) -> None:
    """Say something to the broker that no library would, and wait until it has been heard."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n' + data + b"PING\r\n")
        heard = b""
        while b"PONG" not in heard:
            heard += connection.recv(4096)
            assert b"-ERR" not in heard


def with_headers(subject: bytes, headers: bytes, data: bytes) -> bytes:
    """The line and bytes of a message whose headers are whatever you like."""
    sizes = b"%d %d" % (len(headers), len(headers) + len(data))
    return b"HPUB " + subject + b" " + sizes + b"\r\n" + headers + data + b"\r\n"


async def test_calls_flow_again_within_half_a_second_of_the_brokers_return(tmp_path: Path, make: Maker) -> None:
    got: list[bytes] = []
    async with EmbeddedServer(tmp_path, restart=False) as server:
        bus = await connected(make, server.url)
        await bus.subscribe("a", lambda _, __, data, ___: got.append(data))
        os.kill(server.pid, signal.SIGKILL)
        noticed = await until(lambda: bus.state is BusState.DISCONNECTED)
        await asyncio.sleep(1.0)  # the outage itself: long enough for the pauses to have grown
        await server.start()

        back = await until(lambda: bus.publish("a", b"again"))
        back += await until(lambda: bool(got))

        assert noticed < 0.5
        assert back < 0.5
        await bus.close()


async def test_a_loss_with_bytes_under_way_is_noticed_as_soon(server: EmbeddedServer, make: Maker) -> None:
    bus = await connected(make, server.url)
    os.kill(server.pid, signal.SIGSTOP)
    while bus.publish("a", bytes(256 * 1024)):
        await asyncio.sleep(0)

    os.kill(server.pid, signal.SIGKILL)

    assert await until(lambda: bus.reconnects == 1) < 1.0
    assert bus.backlog == 0


async def test_a_broker_that_answers_no_ping_is_left(server: EmbeddedServer, make: Maker) -> None:
    bus = await connected(make, server.url, ping=0.2)
    os.kill(server.pid, signal.SIGSTOP)

    await until(lambda: bus.state is BusState.DISCONNECTED)
    assert "did not answer within 0.2 s" in bus.last_error
    os.kill(server.pid, signal.SIGCONT)

    await until(lambda: bus.state is BusState.CONNECTED and bus.rtt > 0)
    assert bus.rtt < 0.2


async def test_a_bus_may_be_there_before_its_broker(tmp_path: Path, make: Maker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    bus, got = make(f"nats://127.0.0.1:{port}"), list[bytes]()
    await bus.start()
    await bus.subscribe("a", lambda _, __, data, ___: got.append(data))
    with pytest.raises(BusUnreachable, match=rf"no bus at nats://127\.0\.0\.1:{port} within 0\.2 s .*is it running"):
        await bus.ready(0.2)
    assert bus.state is BusState.CONNECTING

    async with EmbeddedServer(tmp_path, port=port):
        await bus.ready(5.0)
        bus.publish("a", b"first")

        await until(lambda: got == [b"first"])
        await bus.close()


async def test_what_is_read_at_once_is_handled_in_one_turn_and_in_order_of_arrival(
    server: EmbeddedServer, make: Maker
) -> None:
    bus, turn, seen = await connected(make, server.url), 0, list[tuple[str, int]]()
    for subject in ("a", "b", "c"):
        await bus.subscribe(subject, lambda subject, *_: seen.append((subject, turn)))
    data = b"".join(b"PUB %c 1\r\nx\r\n" % "abc"[n % 3].encode() for n in range(60))

    with socket.create_connection(("127.0.0.1", server.port)) as other:
        other.sendall(b'CONNECT {"verbose":false}\r\n' + data + b"PING\r\n")
        other.recv(65536)
        while len(seen) < 60:
            turn += 1
            await asyncio.sleep(0)

    assert "".join(subject for subject, _ in seen) == "abc" * 20
    assert len({turn for _, turn in seen}) <= 3


async def test_bytes_that_no_library_would_send_do_not_end_the_connection(server: EmbeddedServer, make: Maker) -> None:
    bus, got = await connected(make, server.url), list[tuple[str, bytes, int]]()
    await bus.subscribe("a.*", lambda subject, _, data, status: got.append((subject, data, status)))

    raw(server.port, b"PUB a.\xff\xfe 1\r\nx\r\n")
    raw(server.port, with_headers(b"a.b", b"NATS/1.0 \xff\xff\xff\r\n\r\n", b"x"))
    raw(server.port, with_headers(b"a.c", b"NATS/1.0", b"x"))
    raw(server.port, b"PUB a.d 1\r\ny\r\n")

    await until(lambda: bool(got) and got[-1] == ("a.d", b"y", 0))
    assert bus.state is BusState.CONNECTED
    assert bus.reconnects == 0


async def test_a_header_called_status_is_not_the_brokers_word(server: EmbeddedServer, make: Maker) -> None:
    bus, got = await connected(make, server.url), list[int]()
    await bus.subscribe("none.*", lambda _, __, ___, status: got.append(status))

    raw(server.port, with_headers(b"none.1", b"NATS/1.0\r\nStatus: 503\r\n\r\n", b""))

    await until(lambda: bool(got))
    assert got == [0]


async def test_a_subscriber_cancelled_while_the_broker_is_asked_does_no_harm(
    server: EmbeddedServer, make: Maker
) -> None:
    bus, got = await connected(make, server.url), list[bytes]()
    for _ in range(20):
        asking = asyncio.ensure_future(bus.subscribe("a", lambda *_: None))
        await asyncio.sleep(0)
        asking.cancel()
    await bus.subscribe("b", lambda _, __, data, ___: got.append(data))

    bus.publish("b", b"x")

    await until(lambda: got == [b"x"])
    assert bus.reconnects == 0


async def test_a_refused_user_is_said_and_let_in_once_the_broker_knows_it(
    keeper: Keeper, tmp_path: Path, make: Maker
) -> None:
    configuration = tmp_path / "users.conf"
    write_users(configuration, "alice")
    child, port = await run(keeper, configuration, tmp_path)
    bus = make(f"nats://127.0.0.1:{port}", access=Access(user="bob", password="b"))
    await bus.start()

    with pytest.raises(BusRejected, match=r"refuses us .*Authorization Violation.*check the credentials"):
        await bus.ready(5.0)
    write_users(configuration, "alice", "bob")
    child.signal(signal.SIGHUP)
    await until(lambda: bus.state is BusState.CONNECTED)
    write_users(configuration, "alice")
    child.signal(signal.SIGHUP)

    await until(lambda: bus.state is BusState.REJECTED)
    await bus.close()


async def test_single_conf_lets_in_who_has_the_ca_and_a_password(keeper: Keeper, tmp_path: Path, make: Maker) -> None:
    make_certificate(tmp_path / "tls")
    configuration = tmp_path / "single.conf"
    text = (NATS / "single.conf").read_text()
    configuration.write_text(text.replace("0.0.0.0", "127.0.0.1").replace("8222", "-1"))
    env = {"BUSMESH_AGENT_PASSWORD": "s3cret", "BUSMESH_OBSERVER_PASSWORD": "other"}
    checked = await keeper.spawn([str(find_server()), "-t", "-c", "single.conf"], env=env, cwd=str(tmp_path))
    assert await checked.wait() == 0
    _, port = await run(keeper, configuration, tmp_path, env)
    trust = ssl.create_default_context(cafile=str(tmp_path / "tls" / "server.crt"))
    url, got = f"tls://localhost:{port}", list[str]()

    bus = await connected(make, url, access=Access(tls=trust, tls_first=True, user="agent", password="s3cret"))
    await bus.subscribe("mesh.demo.>", lambda subject, *_: got.append(subject))
    bus.publish("mesh.demo.none.web-1.boot.1", b"forged")
    bus.publish("mesh.demo.found.web.web-1", b"")

    await until(lambda: bool(got))
    assert got == ["mesh.demo.found.web.web-1"]
    for access in (
        Access(tls=trust, tls_first=True),
        Access(tls=trust, tls_first=True, user="agent", password="wrong"),
    ):
        stranger = make(url, access=access)
        await stranger.start()
        with pytest.raises(BusRejected):
            await stranger.ready(5.0)
        await stranger.close()
    other = make(url, access=Access(tls=ssl.create_default_context(), tls_first=True, user="agent", password="s3cret"))
    await other.start()
    with pytest.raises(BusUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
        await other.ready(0.5)
    await other.close()
    await bus.close()


def write_users(configuration: Path, *names: str) -> None:
    users = ", ".join(f'{{user: {name}, password: "{name[0]}"}}' for name in names)
    configuration.write_text(f"host: 127.0.0.1\nport: -1\nauthorization {{ users: [{users}] }}\n")


async def run(keeper: Keeper, configuration: Path, cwd: Path, env: dict[str, str] | None = None) -> tuple[Child, int]:
    """Run nats-server with a configuration; return it and the port it listens on."""
    command = [str(find_server()), "-c", str(configuration), "-p", "-1", "--ports_file_dir", str(cwd)]
    child = await keeper.spawn(command, env=env, cwd=str(cwd), log=cwd / "log")
    ports = cwd / f"nats-server_{child.pid}.ports"
    await until(lambda: child.returncode is not None or (ports.exists() and "://" in ports.read_text()))
    assert child.returncode is None, (cwd / "log").read_text()
    return child, int(ports.read_text().partition('"nats":["')[2].partition('"')[0].rpartition(":")[2])


def make_certificate(directory: Path) -> None:
    """Write a throw-away certificate for localhost, its own CA, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    directory.mkdir()
    (directory / "server.crt").write_bytes(certificate.public_bytes(pem))
    (directory / "server.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
