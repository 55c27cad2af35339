"""Services started, stopped, scaled and replaced by operators, and what becomes of those that do not behave."""

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
from bus_mesh_sdk import Mesh, MeshError
from mesh_world import NOISE, World, program, until
from test_keeper import DAEMON
from test_up import Up

from bus_mesh.cli.operator import Operator
from bus_mesh.cli.order import Orderer
from bus_mesh.cli.problem import Problem
from bus_mesh.identity import document
from bus_mesh.identity.keys import NodeKey
from bus_mesh.process.rotated import KEPT_FILES, MOST_BYTES

pytestmark = pytest.mark.timeout(60)
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(300)"
)
POLICY = "kind: Mesh\naccess: {default: deny}\n"


# A mesh as `busmesh up --demo` has it.


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("shop") / "home", "--demo", "--load", "0") as up:
        yield up


class Load:
    """Orders asked for, one after the other from each of some callers, and who answered."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.failed: list[str] = []
        self.answered: list[tuple[float, str]] = []

    async def call(self) -> None:
        while True:
            try:
                found = await self.mesh.call("orders", "get", {"id": "1"}, timeout=5.0)
                self.answered.append((time.monotonic(), found["served_by"]))
            except MeshError as error:
                self.failed.append(str(error))
            await asyncio.sleep(0.01)

    def since(self, began: float) -> Counter[str]:
        return Counter(who for at, who in self.answered if at >= began)


@asynccontextmanager
async def load(up: Up, callers: int = 4) -> AsyncIterator[Load]:
    async with Mesh.connect(app="cli", socket=up.ready["nodes"]["node-a"]["socket"]) as mesh:
        made = Load(mesh)
        tasks = [asyncio.create_task(made.call()) for _ in range(callers)]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def rows(up: Up, *arguments: str) -> list[dict[str, Any]]:
    done = up.busmesh("service", "list", *arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


async def busmesh(up: Up, *arguments: str) -> str:
    done = await asyncio.to_thread(up.busmesh, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.alone
async def test_a_restart_of_all_under_load_fails_no_call(shop: Up) -> None:
    before = {row["pid"] for row in rows(shop, "orders")}
    async with load(shop) as calls:
        said = await busmesh(shop, "service", "restart", "orders", "--all")
        ended = time.monotonic()
        await asyncio.sleep(0.3)

    after = rows(shop, "orders")
    print(f"{len(calls.answered)} calls; {said.splitlines()[-1]}")
    assert calls.failed == [] and len(calls.since(ended)) == 4 and len(calls.answered) > 50
    assert len(after) == 4 and before.isdisjoint(row["pid"] for row in after)
    assert all((row["phase"], row["ready"], row["starts"]) == ("running", True, 2) for row in after)
    assert not any(psutil.pid_exists(pid) for pid in before)
    told = [line.partition("  ")[2] for line in said.splitlines() if line.startswith("node-b")]
    assert told[0] == "orders[0]: starting its successor"
    assert "is ready" in told[1] and told[2] == "orders[0]: stopped" and told[-1] == "2 of orders restarted"


@pytest.mark.alone
async def test_a_scale_up_spreads_the_load_within_two_seconds(shop: Up) -> None:
    async with load(shop) as calls:
        await busmesh(shop, "service", "scale", "orders", "4", "--node", "node-a")
        began = time.monotonic()
        async with asyncio.timeout(10):
            while len(calls.since(began)) < 6:
                await asyncio.sleep(0.01)
        took = time.monotonic() - began
        await busmesh(shop, "service", "scale", "orders", "2", "--node", "node-a")

    print(f"six instances answered after {took:.2f} s: {calls.since(began)}")
    assert took < 2.0 + NOISE
    assert calls.failed == []
    assert len(rows(shop, "orders", "--node", "node-a")) == 2


async def test_stop_leaves_no_process_and_the_other_node_answers(shop: Up) -> None:
    async with load(shop) as calls:
        said = await busmesh(shop, "service", "stop", "orders", "--node", "node-b", "-o", "json")
        (stopped,) = {row["phase"] for row in rows(shop, "orders", "--node", "node-b")}
        agent = psutil.Process(shop.ready["nodes"]["node-b"]["pid"])
        left = [one.cmdline() for one in agent.children(recursive=True) if "bus_mesh.demo.orders" in one.cmdline()]
        again = await busmesh(shop, "service", "stop", "orders", "--node", "node-b")
        await busmesh(shop, "service", "start", "orders", "--node", "node-b")

    assert json.loads(said.splitlines()[-1])["done"] == {"node-b": "2 of orders stopped"}
    assert (stopped, left, calls.failed) == ("stopped", [], [])
    assert again == "node-b  orders is stopped already\n"
    assert all(row["ready"] for row in rows(shop, "orders", "--node", "node-b"))


async def test_a_drained_node_takes_no_calls_until_it_is_undrained(shop: Up) -> None:
    async with load(shop) as calls:
        await busmesh(shop, "drain", "node-b")
        began = time.monotonic()
        instances = json.loads(await busmesh(shop, "get", "instances", "-o", "json"))
        await asyncio.sleep(0.2)
        there = calls.since(began)
        await busmesh(shop, "undrain", "node-b")
        async with asyncio.timeout(10):
            while not any(who.startswith("node-b") for who in calls.since(time.monotonic() - 0.2)):
                await asyncio.sleep(0.01)

    assert {one["state"] for one in instances if one["node"] == "node-b"} == {"drained"} and calls.failed == []
    assert there and all(who.startswith("node-a") for who in there)


def test_a_request_that_is_repeated_is_not_done_again(shop: Up) -> None:
    again = ("service", "restart", "stock", "--node", "node-b", "--replica", "0", "--request", "once")
    first = shop.busmesh(*again)
    pid = [row["pid"] for row in rows(shop, "stock", "--node", "node-b")]
    second = shop.busmesh(*again)

    assert first.returncode == second.returncode == 0 and first.stdout == second.stdout
    assert [row["pid"] for row in rows(shop, "stock", "--node", "node-b")] == pid


def test_what_cannot_be_done_says_why_and_what_to_do(shop: Up) -> None:
    unknown, nowhere, other, replica, many = shop.busmesh_each(
        ("service", "restart", "order", "--all"),
        ("service", "restart", "orders"),
        ("service", "stop", "web", "--node", "node-b"),
        ("service", "restart", "orders", "--node", "node-a", "--replica", "7"),
        ("service", "scale", "orders", "65", "--node", "node-a"),
    )

    assert unknown.returncode == 1 and "did you mean orders?" in unknown.stderr
    assert nowhere.returncode == 2 and "--node NODE, or --all" in nowhere.stderr
    assert other.returncode == 1 and "'web' is not run by the agent of node-b" in other.stderr
    assert "no such replica here; there is 0, 1" in replica.stderr and "busmesh service list" in replica.stderr
    assert "65 replicas are not within 0 and 64" in many.stderr


# What does not behave, on one node.


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    python, rest = sys.executable, {"ready": "started", "restart": "never"}
    services = {
        "mute": {"command": ["sleep", "300"], "ready_timeout": "300ms"},
        "quitter": {"command": ["sh", "-c", "echo dying; exit 3"], **rest},
        "deaf": {"command": [python, "-c", STUBBORN], "grace": "300ms", **rest},
        "loud": {"command": program("loud.py", 100), "replicas": 0, **rest},
        "forker": {"command": [python, "-c", DAEMON, "stay"], **rest},
        "small": {
            "command": [python, "-c", "import resource as r; print(r.getrlimit(r.RLIMIT_NOFILE)); bytearray(1 << 30)"],
            "limits": {"memory": "256MiB", "open_files": 64},
            **rest,
        },
        "asked": {"command": ["sh", "-c", "sleep 0.1; touch $F; sleep 300"], "replicas": 0, "ready_timeout": "5s"},
    }
    folder = tmp_path_factory.mktemp("world")
    services["asked"] |= {"ready": {"command": ["sh", "-c", "test -e $F"]}, "env": {"F": str(folder / "ready")}}
    with World(folder, POLICY) as world:
        world.node("node-a", call_as=["tester"], services=services)
        world.node("node-b", call_as=["tester"])
        for node in ("node-a", "node-b"):
            world.until_up(node)
        yield world


@asynccontextmanager
async def operator(world: World, signer: Operator | None = None) -> AsyncIterator[Orderer]:
    signer = signer or Operator.read(world.home.path)
    async with Mesh.connect(app="tester", socket=world.nodes["node-b"].socket) as mesh:
        yield await Orderer.open(mesh, signer)


async def row(orderer: Orderer, service: str) -> dict[str, Any]:
    (found,) = (await orderer.ask("node-a", "services", {"service": service}))["services"]
    replica: dict[str, Any] = found["replicas"][0]
    return replica


async def until_row(orderer: Orderer, service: str, fact: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while not fact(found := await row(orderer, service)):
            await asyncio.sleep(0.02)
    return found


async def over(orderer: Orderer, verb: str, **arguments: Any) -> dict[str, Any]:
    """Have a job done, and return what is known of it at its end."""
    job = (await orderer.ask("node-a", verb, arguments))["job"]
    async with asyncio.timeout(30):
        while not (seen := await orderer.ask("node-a", "job", {"job": job, "cursor": 0}))["over"]:
            await asyncio.sleep(0.02)
    found: dict[str, Any] = seen
    return found


async def lines(orderer: Orderer, service: str, **more: Any) -> list[str]:
    said = await orderer.ask("node-a", "logs", {"service": service, **more})
    return [text for _, text in said["lines"]]


async def test_what_never_gets_ready_is_named_and_its_successor_does_not_take_its_place(world: World) -> None:
    async with operator(world) as orderer:
        before = await until_row(orderer, "mute", lambda found: "not ready" in found["message"])
        seen = await over(orderer, "restart", service="mute")
        after = await row(orderer, "mute")

    assert "serves nothing" in before["message"] and not before["ready"]
    assert "the successor of mute[0] not ready after 0.3 s" in seen["error"]
    assert after["pid"] == before["pid"] and psutil.pid_exists(after["pid"])


async def test_what_exits_at_once_is_said_with_its_status_and_its_last_words(world: World) -> None:
    async with operator(world) as orderer:
        found = await until_row(orderer, "quitter", lambda found: found["phase"] == "ended")
        seen = await over(orderer, "start", service="quitter")
        said = await lines(orderer, "quitter")

    assert found["status"] == 3
    assert "quitter[0] ended with status 3" in seen["error"]
    assert [line[25:] for line in said] == ["dying", "dying"] and said[0][23:25] == "Z "


async def test_what_ignores_its_stop_signal_is_killed_after_its_grace(world: World) -> None:
    async with operator(world) as orderer:
        found = await until_row(orderer, "deaf", lambda found: found["pid"] > 0)
        until(lambda: "deaf" in (world.nodes["node-a"].folder / "state/log/deaf.log").read_text(), "it is deaf")
        seen = await over(orderer, "stop", service="deaf")

    assert seen["done"] == "1 of deaf stopped" and not psutil.pid_exists(found["pid"])


async def test_100_mb_of_log_fill_three_files_and_their_end_is_readable(world: World) -> None:
    async with operator(world) as orderer:
        await over(orderer, "scale", service="loud", replicas=1)
        async with asyncio.timeout(40):
            while not (last := await lines(orderer, "loud", lines=1)) or not last[0].endswith(" done"):
                await asyncio.sleep(0.1)
        tail = await lines(orderer, "loud", lines=3)
        files = sorted((world.nodes["node-a"].folder / "state" / "log").glob("loud.log*"))

    assert len(files) == KEPT_FILES and all(file.stat().st_size <= MOST_BYTES * 1.1 for file in files)
    assert [line[25:33] for line in tail[:2]] == ["00999998", "00999999"]


async def test_a_daemon_goes_with_the_service_that_forked_it(world: World) -> None:
    async with operator(world) as orderer:
        found = await until_row(orderer, "forker", lambda found: found["pid"] > 0)
        async with asyncio.timeout(10):
            while not (said := await lines(orderer, "forker")):
                await asyncio.sleep(0.02)
        daemon = int(said[0][25:])
        assert psutil.pid_exists(daemon)
        await over(orderer, "stop", service="forker")

    until(lambda: not psutil.pid_exists(daemon), "the daemon is gone")
    assert not psutil.pid_exists(found["pid"])


async def test_limits_are_the_kernels(world: World) -> None:
    async with operator(world) as orderer:
        found = await until_row(orderer, "small", lambda found: found["phase"] == "ended")
        said = await lines(orderer, "small")

    # Which of the two streams comes first is Python's affair.
    assert any(line.endswith("(64, 64)") for line in said)
    assert any(line.endswith("MemoryError") for line in said)
    assert found["status"] == 1


async def test_a_command_may_say_when_a_service_is_ready(world: World) -> None:
    async with operator(world) as orderer:
        seen = await over(orderer, "scale", service="asked", replicas=1)
        stopped = await over(orderer, "scale", service="asked", replicas=0)

    assert seen["done"] == "asked has 1 replicas, before 0"
    assert stopped["done"] == "asked has 0 replicas, before 1"


async def test_commands_of_others_are_refused_and_a_silent_node_is_named(world: World) -> None:
    stranger = Operator(
        NodeKey(b"s" * 32), document.pack_row(((world.home.path / "operator.delegation").read_bytes(),))
    )
    async with operator(world, stranger) as orderer:
        with pytest.raises(MeshError, match="is not signed by"):
            await orderer.ask("node-a", "stop", {"service": "mute"})
    agent = world.nodes["node-a"].pid
    async with operator(world) as orderer:
        os.kill(agent, signal.SIGSTOP)
        try:
            with pytest.raises(Problem, match=r"no answer from node-a for 0\.5 s"):
                await orderer.ask("node-a", "services", {}, timeout=0.5)
        finally:
            os.kill(agent, signal.SIGCONT)
        with pytest.raises(Problem, match="there is no node 'node-z'"):
            await orderer.ask("node-z", "services", {})


async def test_a_recorded_command_does_nothing_twice_and_nothing_elsewhere(world: World) -> None:
    signer = Operator.read(world.home.path)
    async with Mesh.connect(app="tester", socket=world.nodes["node-b"].socket) as mesh:
        keys = {row["node"]: bytes.fromhex(row["key"]) for row in await mesh.call("busmesh", "nodes", {}, timeout=5.0)}
        signed = signer.sign("test", "scale", {"service": "asked", "replicas": 0}, "recorded", keys["node-a"])

        async def ask(node: str, payload: bytes) -> Any:
            asked = {"node": node, "verb": "scale", "payload": payload}
            return await mesh.call("busmesh", "order", asked, timeout=5.0)

        assert await ask("node-a", signed) == await ask("node-a", signed)
        with pytest.raises(MeshError, match="for another process, or for an earlier start of this one"):
            await ask("node-b", signed)
        with pytest.raises(MeshError, match="NOT_AN_OPERATOR"):
            await ask("node-a", signed[:-1] + bytes([signed[-1] ^ 1]))
        with pytest.raises(MeshError, match="NOT_AN_OPERATOR"):
            await ask("node-a", b"unsigned")


def test_kill_9_of_the_agent_leaves_no_process(world: World) -> None:
    family = world.nodes["node-a"].kill()

    assert len(family) > 3
    _, left = psutil.wait_procs(family, timeout=5)
    assert left == []
