"""The nats-server of our own, and the configurations in `nats/`, on the real binary."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bus_mesh.bus.embedded import CONFIGURATION, EmbeddedServer, ServerFailed, ServerState, find_server
from bus_mesh.process.kept import Keeper

ROOT = Path(__file__).parents[2]
OWNER = """
import asyncio, sys
from pathlib import Path
from bus_mesh.bus.embedded import EmbeddedServer
async def main():
    async with EmbeddedServer(Path(sys.argv[1])) as server:
        print(server.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


def greets(port: int) -> bool:
    """Whether a NATS server answers there."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        return connection.recv(4) == b"INFO"


async def restarted(server: EmbeddedServer, old: int) -> None:
    async with asyncio.timeout(5):
        while server.pid == old or server.state is not ServerState.RUNNING:
            await asyncio.sleep(0.005)


async def test_it_listens_on_loopback_alone_once_it_has_started(server: EmbeddedServer) -> None:
    listening = [one.laddr for one in psutil.Process(server.pid).net_connections() if one.status == "LISTEN"]

    assert greets(server.port)
    assert listening == [("127.0.0.1", server.port)]
    assert repr(server) == f"EmbeddedServer(nats://127.0.0.1:{server.port}, running, version={server.version})"


async def test_a_killed_server_comes_back_on_its_port(server: EmbeddedServer) -> None:
    port, pid = server.port, server.pid

    os.kill(pid, signal.SIGKILL)
    await restarted(server, pid)

    assert server.port == port
    assert greets(port)


async def test_a_configuration_that_is_given_stays_as_it_is_and_its_folder_is_where_paths_start(tmp_path: Path) -> None:
    given = tmp_path / "given" / "own.conf"
    given.parent.mkdir()
    (given.parent / "more.conf").write_text("server_name: mine\n")
    given.write_text('host: 127.0.0.1\nport: 1\ninclude "more.conf"\n')
    text = given.read_text()

    async with EmbeddedServer(tmp_path / "nats", configuration=given) as server:
        port, pid = server.port, server.pid
        os.kill(pid, signal.SIGKILL)
        await restarted(server, pid)

        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            assert b'"server_name":"mine"' in connection.recv(4096)
        assert (server.port, server.url) == (port, f"nats://127.0.0.1:{port}")
    assert given.read_text() == text
    assert not (tmp_path / "nats" / "nats-server.conf").exists()


async def test_without_restart_it_stays_down_until_started_again(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path, restart=False) as server:
        port, pid = server.port, server.pid
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            while server.state is ServerState.RUNNING:
                await asyncio.sleep(0.005)

        await server.start()

        assert server.port == port
        assert server.pid != pid


async def test_it_can_be_stopped_and_started_again_on_its_port(server: EmbeddedServer) -> None:
    port = server.port

    await server.stop()
    with pytest.raises(ConnectionRefusedError):
        greets(port)
    await server.start()

    assert server.port == port
    assert greets(port)


async def test_a_port_that_is_taken_is_said(server: EmbeddedServer, tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=f"port {server.port} is taken by another program"):
        await EmbeddedServer(tmp_path / "second", port=server.port).start()


async def test_two_servers_can_share_a_keeper(keeper: Keeper, tmp_path: Path) -> None:
    async with (
        EmbeddedServer(tmp_path / "one", keeper=keeper) as one,
        EmbeddedServer(tmp_path / "two", keeper=keeper) as two,
    ):
        assert one.port != two.port


async def test_a_server_named_wrongly_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUSMESH_NATS_SERVER", "/no/such/server")

    with pytest.raises(ServerFailed, match="BUSMESH_NATS_SERVER is /no/such/server"):
        await EmbeddedServer(tmp_path).start()


async def test_an_old_server_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho nats-server: v2.9.10\n")
    old.chmod(0o755)
    monkeypatch.setenv("BUSMESH_NATS_SERVER", str(old))

    with pytest.raises(ServerFailed, match=r"2\.9\.10 .*2\.14\.0"):
        await EmbeddedServer(tmp_path / "nats").start()


def test_it_dies_with_an_owner_killed_with_9(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        server = psutil.Process(int(owner.stdout.readline()))

        owner.kill()

        assert psutil.wait_procs([server], timeout=5)[1] == []


def test_dev_conf_is_what_the_embedded_server_runs() -> None:
    lines = [line for line in (ROOT / "nats" / "dev.conf").read_text().splitlines() if line and line[0] != "#"]

    assert [line for line in lines if line != "port: 4222"] == CONFIGURATION.splitlines()


async def test_dev_conf_starts(keeper: Keeper, tmp_path: Path) -> None:
    # Its port may be in use on this machine: the flag wins over the file.
    command = [str(find_server()), "-c", str(ROOT / "nats" / "dev.conf"), "-p", "-1"]
    child = await keeper.spawn([*command, "--ports_file_dir", str(tmp_path)], log=tmp_path / "log")
    ports = tmp_path / f"nats-server_{child.pid}.ports"

    async with asyncio.timeout(5):
        while not (ports.exists() and "nats://" in ports.read_text()):
            await asyncio.sleep(0.005)

    port = re.search(r"nats://127\.0\.0\.1:(\d+)", ports.read_text())
    assert port is not None
    assert greets(int(port[1]))


def test_no_python_file_ever_stands_beside_the_configurations() -> None:
    assert list((ROOT / "nats").rglob("*.py")) == []
    assert {file.name for file in (ROOT / "nats").iterdir()} >= {"README.md", "dev.conf", "single.conf"}
