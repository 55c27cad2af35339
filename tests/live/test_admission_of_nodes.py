"""From a token to a node, and out again, with real processes on a broker that admits nobody but the mesh's users."""

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
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
LOOK = 0.05
"""Seconds between two looks at files that grow: reading them takes the processor from those who are waited for."""


class Plane:
    """A broker with users and TLS, a policy agent that holds the issuer's key, and a first node, `node-a`."""

    def __init__(self, bus: Broker, folder: Path) -> None:
        self.bus, self.folder = bus, folder
        self.home = bus.home.path
        self.root = (self.home / "root.pub").read_bytes()
        self.running: list[subprocess.Popen[bytes] | None] = []
        """The policy agent and the first node."""
        self.nodes: list[Node] = []
        """Those that a test adds."""

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
        with (folder / "agent.log").open("ab") as log:
            command = [*BUSMESH, "policy-agent", "-c", str(folder / "policy.yaml")]
            self.running.append(subprocess.Popen(command, stdout=log, stderr=log))

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

    def start_first(self) -> None:
        add("node-a", serve="ledger", call_as="ledger,tester,cli", home=self.home)
        ledger = {"command": program("ledger.py", self.folder / "a.record")}
        made = self.node("node-a", self.home / "node-a", services={"ledger": ledger})
        made.start()
        self.nodes.remove(made)
        self.running.append(made.process)

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


def stop(processes: Iterable[subprocess.Popen[bytes] | None]) -> None:
    """Have processes end, all at once."""
    started = [process for process in processes if process is not None]
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@asynccontextmanager
async def kept_broker(folder: Path) -> AsyncIterator[Broker]:
    """A broker with a keeper of its own."""
    keeper = await Keeper.start()
    try:
        async with broker(keeper, folder) as bus:
            yield bus
    finally:
        await keeper.close()


@pytest.fixture(scope="module")
def admitting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """What admits nodes, for all tests here: each has nodes, and ids of calls, that no other one has."""
    folder = tmp_path_factory.mktemp("admission")
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        serving = kept_broker(folder)
        plane = Plane(runner.run(serving.__aenter__()), folder)
        try:
            plane.start_policy_agent()
            plane.start_first()
            yield plane
        finally:
            stop(plane.running)
            runner.run(serving.__aexit__(None, None, None))


@pytest.fixture
def plane(admitting: Plane) -> Iterator[Plane]:
    """The same for one test, whose nodes end with it."""
    yield admitting
    stop(node.process for node in admitting.nodes)
    admitting.nodes.clear()


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


@pytest.mark.alone
async def test_a_node_joins_by_token_serves_and_calls_and_is_out_within_two_seconds(
    plane: Plane, tmp_path: Path
) -> None:
    # It reads policy from files, so it never hears of its own revocation: others must keep it out.
    a_record, c_record = plane.folder / "a.record", tmp_path / "c.record"
    ledger = {"command": program("ledger.py", c_record)}
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
        await until(lambda: records(a_record, "clerk") and records(c_record, "tester"), PATIENCE * 2, LOOK)
        assert (node.folder / "identity" / "node.key").stat().st_mode & 0o777 == 0o600

        # By an operator without the keys of the broker: it stays connected, and is kept out by agents alone.
        (tmp_path / "ops").mkdir()
        for file in ("operator.key", "operator.delegation"):
            shutil.copy(plane.home / file, tmp_path / "ops" / file)
        done = await plane.busmesh("node", "revoke", "node-c", "--wait", "--home", str(tmp_path / "ops"))
        revoked = time.monotonic()
        assert "not cut off at the bus" in done.stderr
        assert done.returncode == 0, done.stderr
        await until(lambda: len([at for at in records(a_record, "tester") if at > revoked + 3]) > 20, 20, LOOK)
    finally:
        stop.set()
        await asyncio.gather(*calls, return_exceptions=True)

    assert max(records(a_record, "clerk")) < revoked + 2
    assert max(records(c_record, "tester")) < revoked + 2
    listed = await plane.busmesh("node", "list", "-o", "json")
    states = {row["node"]: row["state"] for row in map(json.loads, listed.stdout.splitlines())}
    assert (states["node-a"], states["node-c"]) == ("up", "revoked")


async def test_a_revoked_agent_says_so_and_takes_no_connection_also_after_a_restart(
    plane: Plane, tmp_path: Path
) -> None:
    node = plane.node("node-d", tmp_path / "node-d")
    plane.join(node, await plane.token("node-d", "--call-as", "clerk"))
    said = {"id": "d-1", "until": 0.0, "work": 0.0}
    async with Mesh.connect(app="clerk", socket=node.socket, patience=PATIENCE) as mesh:
        async with asyncio.timeout(PATIENCE):
            while not await tolerant(lambda: mesh.call("ledger", "read", said, timeout=1.0)):
                await asyncio.sleep(0.05)

    done = await plane.busmesh("node", "revoke", "node-d", "--wait", "--home", str(plane.home))
    assert done.returncode == 0, done.stderr
    assert "cut off at the bus: 1 of its users" in done.stderr
    await until(lambda: "this node is revoked" in node.log and '"state": "rejected"' in node.log, PATIENCE, LOOK)
    for _ in range(2):
        with pytest.raises(MeshError, match="NODE_REVOKED"):
            async with Mesh.connect(app="clerk", socket=node.socket, patience=PATIENCE) as mesh:
                await mesh.call("ledger", "read", said, timeout=1.0)
        assert await asyncio.to_thread(node.terminate) == 0
        node.start()


async def test_a_token_that_is_used_late_or_anothers_or_cut_is_refused_and_nothing_is_written(
    plane: Plane, tmp_path: Path
) -> None:
    wanted = ("node-g", "--serve", "ledger"), ("node-e", "--ttl", "1s"), ("node-x",), ("node-x",)
    made = [Token.parse(text) for text in await asyncio.gather(*(plane.token(*one) for one in wanted))]
    whole, short, anothers, changed = made
    first = plane.node("node-g", tmp_path / "first")
    plane.join(first, whole.text())
    await until(lambda: (first.folder / "identity" / "node.chain").exists(), PATIENCE)

    cases = {
        "TOKEN_SPENT": whole.text(),
        "WRONG_NODE": anothers._replace(node="node-y").text(),
        "BAD_REQUEST": changed._replace(secret=bytes(16)).text(),
        "cut or changed": whole.text()[:-9],
        "time is over": short.text(),
    }
    await until(lambda: short.expires_us < time.time() * 1e6, PATIENCE)
    folders = [tmp_path / f"refused-{number}" for number in range(len(cases))]
    joining = [("agent", "--join", text, "--state", str(at)) for text, at in zip(cases.values(), folders, strict=True)]
    ended = await asyncio.gather(*(plane.busmesh(*words) for words in joining))
    for (reason, text), folder, done in zip(cases.items(), folders, ended, strict=True):
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

    await until(lambda: '"certificate renewed"' in node.log, PATIENCE, LOOK)

    new = verify_chain((identity / "node.chain").read_bytes(), "demo", plane.root, int(time.time() * 1e6))
    renewed = Credentials.parse((identity / "bus.creds").read_text())
    assert (new.node, new.key, new.call_as) == ("node-f", key.public, {"clerk"})
    assert new.serial != "old"
    assert (renewed.key.public, renewed.jwt != user.jwt) == (user.key.public, True)
    assert not (identity / "renewal").exists()
    said = {"id": "f-1", "until": 0.0, "work": 0.0}
    for _ in range(2):  # under the new certificate, and after a start with what is on disk
        async with Mesh.connect(app="clerk", socket=node.socket, patience=PATIENCE) as mesh:
            async with asyncio.timeout(PATIENCE):
                while not await tolerant(lambda: mesh.call("ledger", "read", said, timeout=1.0)):
                    await asyncio.sleep(0.05)
        assert await asyncio.to_thread(node.terminate) == 0
        node.start()
