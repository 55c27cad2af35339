"""From a token to a node, and out again, with real processes on a broker that admits nobody but the mesh's users."""

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from broker_world import Broker, broker, until
from bus_mesh_sdk import Mesh, MeshError
from mesh_world import BUSMESH, Node, program

from bus_mesh.cli.mesh import add
from bus_mesh.identity.bus_credentials import Credentials
from bus_mesh.identity.certificate import certify_node, verify_chain
from bus_mesh.identity.enrolment import Token
from bus_mesh.identity.keys import NodeKey
from bus_mesh.process.kept import Keeper

pytestmark = pytest.mark.timeout(120)
POLICY = """\
kind: Service
name: ledger
access: {allow: [{from: [tester, clerk], methods: ["*"]}]}
traffic: {balance: round_robin}
"""
PATIENCE = 20.0


class Plane:
    """A broker with users and TLS, a policy agent that holds the issuer's key, and a first node, `node-a`."""

    def __init__(self, bus: Broker, folder: Path) -> None:
        self.bus, self.folder = bus, folder
        self.home = bus.home.path
        self.root = (self.home / "root.pub").read_bytes()
        self.running: list[subprocess.Popen[bytes]] = []
        self.nodes: list[Node] = []

    def start_policy_agent(self) -> None:
        """Admit it as a person would, with the keys that it needs to admit others."""
        self.bus.side.note_address(self.bus.url)  # the port was chosen by the server
        add("control", policy_agent=True, home=self.home)
        folder = self.home / "control"
        for name, source, files in (
            ("signer", self.home, ("policy.key", "policy.delegation")),
            ("issuer", self.home, ("issuer.key", "issuer.delegation")),
            ("users", self.home / "nats", ("account_signing.seed", "account.jwt")),
        ):
            (folder / name).mkdir(mode=0o700)
            for file in files:
                shutil.copy(source / file, folder / name / file)
        (folder / "initial").mkdir()
        (folder / "initial" / "ledger.yaml").write_text(POLICY)
        settings = {
            "mesh": "demo",
            "node": "control",
            "bus": self.way(),
            **{name: name for name in ("signer", "issuer", "users", "initial", "state")},
            "http": "off",
            "log": {"format": "json"},
        }
        (folder / "policy.yaml").write_text(yaml.safe_dump(settings))
        self._run(["policy-agent", "-c", str(folder / "policy.yaml")], folder / "agent.log")

    def way(self) -> dict[str, Any]:
        return {
            "url": self.bus.url,
            "credentials": "identity/bus.creds",
            "tls": {"ca": "identity/ca.pem", "first": True},
        }

    def node(self, name: str, folder: Path, **settings: Any) -> Node:
        """Settings of a node that follows the policy agent, on disk; its agent is not started."""
        folder.mkdir(exist_ok=True)
        written = {
            "mesh": "demo",
            "node": name,
            "bus": self.way(),
            "socket": "agent.sock",
            "http": "127.0.0.1:0",
            "state": "state",
            "log": {"format": "json"},
            **settings,
        }
        made = Node(folder, written)
        (folder / "node.yaml").write_text(yaml.safe_dump(written))
        self.nodes.append(made)
        return made

    def first(self) -> Node:
        add("node-a", serve="ledger", call_as="ledger,tester,cli", home=self.home)
        ledger = {"command": program("ledger.py", self.folder / "a.record")}
        made = self.node("node-a", self.home / "node-a", services={"ledger": ledger})
        made.start()
        return made

    def join(self, node: Node, token: str) -> None:
        """Start an agent with a token."""
        with (node.folder / "agent.log").open("ab") as log:
            command = [*BUSMESH, "agent", "-c", str(node.folder / "node.yaml"), "--join", token]
            node.process = subprocess.Popen(command, stdout=log, stderr=log)

    async def busmesh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "BUSMESH_SOCKET": str(self.home / "node-a" / "agent.sock")}
        command = [*BUSMESH, *arguments]
        return await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60
        )

    async def token(self, node: str, *more: str) -> str:
        """Have a token made, once the policy agent can be reached."""
        end = time.monotonic() + PATIENCE
        while True:
            done = await self.busmesh("token", "create", node, "--home", str(self.home), *more)
            if done.returncode == 0 or time.monotonic() > end:
                assert done.returncode == 0, done.stderr
                return done.stdout.strip()

    def _run(self, arguments: list[str], log: Path) -> None:
        with log.open("ab") as out:
            self.running.append(subprocess.Popen([*BUSMESH, *arguments], stdout=out, stderr=out))

    async def stop(self) -> None:
        started = [*self.running, *(node.process for node in self.nodes if node.process is not None)]
        for process in started:
            process.terminate()
        for process in started:
            try:
                await asyncio.to_thread(process.wait, 20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
async def plane(keeper: Keeper, tmp_path: Path) -> AsyncIterator[Plane]:
    async with broker(keeper, tmp_path) as bus:
        made = Plane(bus, tmp_path)
        try:
            made.start_policy_agent()
            made.first()
            yield made
        finally:
            await made.stop()


async def tolerant(work: Callable[[], Awaitable[Any]]) -> bool:
    """Tell whether a call went well."""
    try:
        await work()
    except MeshError:
        return False
    return True


def records(file: Path, who: str) -> list[float]:
    """When the instance that writes this file ran calls of `who`, on the machine's monotonic clock."""
    if not file.exists():
        return []
    rows = map(json.loads, file.read_text().splitlines())
    return [row["at"] for row in rows if row["id"].startswith(who)]


async def call_on(app: str, socket: Path, stop: asyncio.Event) -> None:
    """Call the ledger all the time, whatever comes of it."""
    async with Mesh.connect(app=app, socket=socket, patience=PATIENCE) as mesh:
        number = 0
        while not stop.is_set():
            number += 1
            said = {"id": f"{app}-{number}", "until": 0.0, "work": 0.0}
            await tolerant(lambda: mesh.call("ledger", "read", said, timeout=1.0))  # noqa: B023 - awaited at once
            await asyncio.sleep(0.01)


async def test_a_node_joins_by_token_serves_and_calls_and_is_out_within_two_seconds(
    plane: Plane, tmp_path: Path
) -> None:
    # It reads policy from files, so it never hears of its own revocation: others must keep it out.
    ledger = {"command": program("ledger.py", tmp_path / "c.record")}
    node = plane.node("node-c", tmp_path / "node-c", services={"ledger": ledger}, policy_dir="policy")
    (node.folder / "policy").mkdir()
    (node.folder / "policy" / "ledger.yaml").write_text(POLICY)
    text = await plane.token("node-c", "--serve", "ledger", "--call-as", "ledger,clerk")
    plane.join(node, text)

    stop = asyncio.Event()
    a_socket = plane.home / "node-a" / "agent.sock"
    calls = [
        asyncio.create_task(call_on(app, socket, stop))
        for app, socket in (("tester", a_socket), ("clerk", node.socket))
    ]
    try:
        await until(
            lambda: records(tmp_path / "a.record", "clerk") and records(tmp_path / "c.record", "tester"), PATIENCE * 2
        )
        assert (node.folder / "identity" / "node.key").stat().st_mode & 0o777 == 0o600

        # By an operator without the keys of the broker: it stays connected, and is kept out by agents alone.
        (tmp_path / "ops").mkdir()
        for file in ("operator.key", "operator.delegation"):
            shutil.copy(plane.home / file, tmp_path / "ops" / file)
        done = await plane.busmesh("node", "revoke", "node-c", "--wait", "--home", str(tmp_path / "ops"))
        revoked = time.monotonic()
        assert "not cut off at the bus" in done.stderr
        assert done.returncode == 0, done.stderr
        await until(lambda: len([at for at in records(tmp_path / "a.record", "tester") if at > revoked + 3]) > 20, 20)
    finally:
        stop.set()
        await asyncio.gather(*calls, return_exceptions=True)

    assert max(records(tmp_path / "a.record", "clerk")) < revoked + 2
    assert max(records(tmp_path / "c.record", "tester")) < revoked + 2
    listed = await plane.busmesh("node", "list", "-o", "json")
    assert {row["node"]: row["state"] for row in map(json.loads, listed.stdout.splitlines())} == {
        "node-a": "up",
        "node-c": "revoked",
    }


async def test_a_revoked_agent_says_so_and_takes_no_connection_also_after_a_restart(
    plane: Plane, tmp_path: Path
) -> None:
    node = plane.node("node-d", tmp_path / "node-d")
    plane.join(node, await plane.token("node-d", "--call-as", "clerk"))
    said = {"id": "clerk-1", "until": 0.0, "work": 0.0}
    async with Mesh.connect(app="clerk", socket=node.socket, patience=PATIENCE) as mesh:
        async with asyncio.timeout(PATIENCE):
            while not await tolerant(lambda: mesh.call("ledger", "read", said, timeout=1.0)):
                await asyncio.sleep(0.05)

    done = await plane.busmesh("node", "revoke", "node-d", "--wait", "--home", str(plane.home))
    assert done.returncode == 0, done.stderr
    assert "cut off at the bus: 1 of its users" in done.stderr
    await until(lambda: "this node is revoked" in node.log and '"state": "rejected"' in node.log, PATIENCE)
    for _ in range(2):
        with pytest.raises(MeshError, match="NODE_REVOKED"):
            async with Mesh.connect(app="clerk", socket=node.socket, patience=PATIENCE) as mesh:
                await mesh.call("ledger", "read", said, timeout=1.0)
        assert await asyncio.to_thread(node.terminate) == 0
        node.start()


async def test_a_token_that_is_used_late_or_anothers_or_cut_is_refused_and_nothing_is_written(
    plane: Plane, tmp_path: Path
) -> None:
    whole = Token.parse(await plane.token("node-c", "--serve", "ledger"))
    short = Token.parse(await plane.token("node-e", "--ttl", "1s"))
    first = plane.node("node-c", tmp_path / "first")
    plane.join(first, whole.text())
    await until(lambda: (first.folder / "identity" / "node.chain").exists(), PATIENCE)

    cases = {
        "TOKEN_SPENT": whole.text(),
        "WRONG_NODE": Token.parse(await plane.token("node-x"))._replace(node="node-y").text(),
        "BAD_REQUEST": Token.parse(await plane.token("node-x"))._replace(secret=bytes(16)).text(),
        "cut or changed": whole.text()[:-9],
        "time is over": short.text(),
    }
    await until(lambda: short.expires_us < time.time() * 1e6, PATIENCE)
    for reason, text in cases.items():
        folder = tmp_path / f"refused-{len(reason)}"
        done = await plane.busmesh("agent", "--join", text, "--state", str(folder))
        assert done.returncode != 0
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
        assert text not in done.stderr
        assert not folder.exists() or list(folder.iterdir()) == []
    assert "ALARM: a token is used a second time" in (plane.home / "control" / "agent.log").read_text()


async def test_an_agent_whose_certificate_is_past_its_half_renews_it_and_its_user_and_goes_on(
    plane: Plane, tmp_path: Path
) -> None:
    add("node-f", call_as="clerk", home=plane.home, out=tmp_path / "node-f")
    node = plane.node("node-f", tmp_path / "node-f")
    identity, day_us = node.folder / "identity", 86_400_000_000
    key, now_us = NodeKey.from_bytes((identity / "node.key").read_bytes()), int(time.time() * 1e6)
    old = certify_node(
        NodeKey.from_bytes((plane.home / "issuer.key").read_bytes()),
        (plane.home / "issuer.delegation").read_bytes(),
        mesh="demo",
        node="node-f",
        key=key.public,
        serve=[],
        call_as=["clerk"],
        not_before_us=now_us - 20 * day_us,
        not_after_us=now_us + 10 * day_us,
        serial="old",
    )
    (identity / "node.chain").write_bytes(old)
    user = Credentials.parse((identity / "bus.creds").read_text())
    node.start()

    await until(lambda: '"certificate renewed"' in node.log, PATIENCE)

    new = verify_chain((identity / "node.chain").read_bytes(), "demo", plane.root, int(time.time() * 1e6))
    renewed = Credentials.parse((identity / "bus.creds").read_text())
    assert (new.node, new.key, new.call_as) == ("node-f", key.public, {"clerk"})
    assert new.serial != "old"
    assert (renewed.key.public, renewed.jwt != user.jwt) == (user.key.public, True)
    assert not (identity / "renewal").exists()
    said = {"id": "clerk-1", "until": 0.0, "work": 0.0}
    for _ in range(2):  # under the new certificate, and after a start with what is on disk
        async with Mesh.connect(app="clerk", socket=node.socket, patience=PATIENCE) as mesh:
            async with asyncio.timeout(PATIENCE):
                while not await tolerant(lambda: mesh.call("ledger", "read", said, timeout=1.0)):
                    await asyncio.sleep(0.05)
        assert await asyncio.to_thread(node.terminate) == 0
        node.start()
