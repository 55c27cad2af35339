"""The rows of docs/security's table of threats that need real processes, a real broker and a real socket."""

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from bus_mesh_sdk import Mesh, MeshError, NoInstances, PermissionDenied, Ran
from mesh_world import PROGRAMS, World, program, stranger, until
from mesh_world import Node as LiveNode
from nats.aio.client import Client
from nats.aio.msg import Msg
from raw_door import BAD, Door
from rogue_agent import Placed, Stolen, rogue

from bus_mesh.protocol.bunches import LENGTH
from bus_mesh.protocol.frames import Call, Fail, Kind

pytestmark = pytest.mark.timeout(60)
NOBODY = 65534
POLICY = """\
kind: Service
name: ledger
access: {allow: [{from: [tester, guest], methods: ["*"]}]}
---
kind: Service
name: placed
access: {allow: [{from: [tester], methods: ["*"]}]}
traffic: {balance: round_robin}
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming a second user takes root")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("threats")
    with World(folder, POLICY) as world:
        ledger = {"command": program("ledger.py", folder / "threats.record"), "replicas": 2}
        blab = {"command": program("blab.py", folder / "token")}
        apps = {"ledger": {"token": True}, "vault": {"token": True}, "guest": {"user": NOBODY}}
        world.node("node-a", call_as=["tester"])
        world.node(
            "node-b",
            serve=["ledger", "vault"],
            call_as=["guest", "tester"],
            apps=apps,
            services={"ledger": ledger, "vault": blab},
        )
        world.until_up("node-a", {"ledger": 2})
        yield world


@pytest.fixture
async def mesh(world: World) -> AsyncIterator[Mesh]:
    async with Mesh.connect(app="tester", socket=world.nodes["node-a"].socket) as mesh:
        await mesh.call("ledger", "who")
        yield mesh


def impostor(where: Path | str, app: str, *options: object) -> str:
    command = [sys.executable, str(PROGRAMS / "impostor.py"), str(where), app, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()


def test_a_process_that_the_agent_did_not_start_cannot_speak_as_a_service_with_a_token(world: World) -> None:
    where = world.nodes["node-b"].socket

    for said in (impostor(where, "ledger"), impostor(where, "ledger", "--token", "0" * 32)):
        assert said.startswith("UNAUTHENTICATED/APP_NOT_YOURS") and "token" in said
    said = impostor(where, "tester", "--serve")
    assert said.startswith("UNAUTHENTICATED/APP_NOT_YOURS"), "nor serve it from a session that speaks as another"


def test_a_token_that_its_process_gave_away_opens_nothing_for_another(world: World) -> None:
    given = world.folder / "token"
    until(given.exists, "the service has written its token")

    said = impostor(world.nodes["node-b"].socket, "vault", "--token", given.read_text())

    assert said.startswith("UNAUTHENTICATED/APP_NOT_YOURS")


def test_an_app_that_the_certificate_does_not_name_is_refused(world: World) -> None:
    said = impostor(world.nodes["node-a"].socket, "admin")

    assert said.startswith("UNAUTHENTICATED/APP_NOT_YOURS") and "--call-as admin" in said


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, so that nothing but an agent's own modes is in the way."""
    with tempfile.TemporaryDirectory(prefix="busmesh-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def node_at(world: World, name: str, path: Path, **settings: Any) -> LiveNode:
    """Start a node whose socket is at `path`."""
    node = world.node(name, call_as=["guest", "tester"], socket=str(path), **settings)
    node.socket = path
    world.until_up(name)
    return node


@needs_root
def test_another_user_of_the_host_cannot_connect_to_the_socket(world: World, open_folder: Path) -> None:
    node = node_at(world, "node-s", open_folder / "run" / "agent.sock")
    modes = [oct(path.stat().st_mode & 0o777) for path in (node.socket.parent, node.socket)]

    said = impostor(node.socket, "tester", "--user", NOBODY)
    node.terminate()

    assert modes == ["0o750", "0o660"]
    assert said.startswith("PERMISSION_DENIED") and "may not connect" in said


@needs_root
def test_a_rule_by_user_admits_that_user_alone_and_to_that_app_alone(world: World, open_folder: Path) -> None:
    node = node_at(world, "node-u", open_folder / "agent.sock", apps={"guest": {"user": NOBODY}})
    node.socket.chmod(0o666)

    said = [impostor(node.socket, app, *user) for app in ("guest", "tester") for user in (("--user", NOBODY), ())]
    node.terminate()

    refused = "UNAUTHENTICATED/APP_NOT_YOURS"
    assert [word.partition(":")[0] for word in said] == ["welcome as guest", refused, refused, "welcome as tester"]


def test_what_an_app_writes_as_the_caller_is_not_read(world: World) -> None:
    with closing(Door(world.nodes["node-a"].socket)) as door:
        door.hello("tester")
        door.say(Call(int(Kind.CALL), 1, "ledger", "who", 2000, "admin", None, b"\x80"))

        assert door.hear()[3] == b"\xa6tester"


@pytest.mark.parametrize("said", BAD.values(), ids=BAD.keys())
def test_a_bad_frame_ends_the_connection_with_a_reason(world: World, said: bytes) -> None:
    with closing(Door(world.nodes["node-a"].socket)) as door:
        door.send(said)

        answer = door.hear()
        assert isinstance(answer, Fail) and answer.id == 0 and answer.message
        assert door.ended()


def test_a_connection_that_never_says_hello_is_closed_after_five_seconds(world: World) -> None:
    with closing(Door(world.nodes["node-a"].socket)) as door:
        began = time.monotonic()
        door.send(b"\x00\x00")

        assert door.ended()
        assert 4.5 < time.monotonic() - began < 7.0


@asynccontextmanager
async def beside(work: Callable[[Callable[[], bool]], None]) -> AsyncIterator[None]:
    """Run `work(going)` on a thread for the length of a block."""
    over = threading.Event()
    doing = asyncio.get_running_loop().run_in_executor(None, work, lambda: not over.is_set())
    try:
        yield
    finally:
        over.set()
        await doing


async def p99_of(mesh: Mesh, calls: int) -> float:
    """Return the 99th percentile, in seconds, of calls one after the other, 2 ms apart."""
    took = []
    for _ in range(calls):
        began = time.perf_counter()
        await mesh.call("ledger", "echo", {"data": b"x" * 64})
        took.append(time.perf_counter() - began)
        await asyncio.sleep(0.002)
    return sorted(took)[int(calls * 0.99)]


@pytest.mark.alone
async def test_a_flood_of_bad_frames_leaves_memory_flat_and_other_callers_alone(world: World, mesh: Mesh) -> None:
    path, agent = world.nodes["node-a"].socket, psutil.Process(world.nodes["node-a"].pid)
    bad = itertools.cycle([*BAD.values(), LENGTH.pack(8 << 20) + b"\x96" * 65536])
    count = 0

    def flood(going: Callable[[], bool]) -> None:
        nonlocal count
        halves = [Door(path) for _ in range(64)]
        for half in halves:
            half.send(LENGTH.pack(8 << 20) + bytes(65536))
        while going():
            # It may close before it has read all: as it should be.
            with closing(Door(path)) as door, contextlib.suppress(ConnectionError):
                door.send(next(bad))
            count += 1
            time.sleep(0.001)
        for half in halves:
            half.close()

    await p99_of(mesh, 300)
    calm = await p99_of(mesh, 500)
    before = agent.memory_info().rss
    async with beside(flood):
        until(lambda: count > 50, "the flood runs")
        stormy = await p99_of(mesh, 500)
    grown = (agent.memory_info().rss - before) / 2**20

    print(f"{count} bad connections: p99 {calm * 1000:.2f} → {stormy * 1000:.2f} ms, memory {grown:+.1f} MiB")
    assert stormy <= 2 * calm + 0.005
    assert grown < 24.0, "64 half-sent frames of 64 KiB, and what the allocator keeps"


def test_half_sent_frames_of_one_user_are_bounded_together(world: World) -> None:
    agent = psutil.Process(world.nodes["node-a"].pid)
    before = agent.memory_info().rss
    doors = [Door(world.nodes["node-a"].socket) for _ in range(20)]
    try:
        refused = 0
        for door in doors:
            try:
                door.send(LENGTH.pack(8 << 20) + bytes(7 << 20))
            except ConnectionError:
                refused += 1
        grown = (agent.memory_info().rss - before) / 2**20
    finally:
        for door in doors:
            door.close()

    print(f"20 × 7 MiB half-sent: {refused} were cut off, memory {grown:+.1f} MiB")
    assert refused >= 10
    assert grown < 64 + 32


HOSTILE = [
    "ledger.*",
    "*",
    ">",
    "a.b",
    "a b",
    "a\r\nPUB mesh.test.rpc.ledger.who 0",
    "ledgér",
    "",
    "A",
    "a" * 64,
    "\x00",
    "_",
]


async def test_names_that_are_none_never_reach_the_bus(world: World) -> None:
    seen: list[str] = []

    async def note(message: Msg) -> None:
        seen.append(message.subject)

    async with stranger(world) as listener:
        await listener.subscribe(">", cb=note)
        await listener.flush()
        with closing(Door(world.nodes["node-a"].socket)) as door:
            door.hello("tester")
            for number, name in enumerate(HOSTILE, 1):
                for place, (service, method) in enumerate([(name, "who"), ("ledger", name)]):
                    door.say(Call(int(Kind.CALL), 2 * number + place, service, method, 500, "", None, b"\x80"))
                    answer = door.hear()
                    assert isinstance(answer, Fail) and answer.reason == "INVALID_NAME", answer
        await listener.flush()

    print(f"{2 * len(HOSTILE)} calls with hostile names; on the bus meanwhile: {sorted(set(seen))}")
    assert not [subject for subject in seen if ".rpc." in subject or ".find." in subject]


async def test_a_flood_of_garbage_on_every_subject_is_counted_and_calls_go_on(world: World, mesh: Mesh) -> None:
    caught: list[tuple[str, bytes]] = []
    answered: list[str] = []

    async def keep(message: Msg) -> None:
        if len(caught) < 200 and message.data:
            caught.append((message.subject, message.data))

    async def heard(message: Msg) -> None:
        answered.append(message.subject)

    async def flood(client: Client, subjects: list[str]) -> int:
        sent = 0
        for subject, data in itertools.islice(itertools.cycle(caught), 1000):
            cut = data[: len(data) // 2]
            flipped = data[:-1] + bytes([data[-1] ^ 1])
            for junk in (os.urandom(100), data, cut, flipped, b"BM" + os.urandom(60)):
                await client.publish(subject, junk, reply="evil.reply")
                sent += 1
            await client.publish(subjects[sent % len(subjects)], os.urandom(300), reply="evil.reply")
            if not sent % 100:
                await asyncio.sleep(0)
        await client.flush()
        return sent + 1000

    async with stranger(world) as client:
        tap = await client.subscribe("mesh.test.>", cb=keep)
        await client.subscribe("evil.>", cb=heard)
        await client.flush()
        agents = [world.nodes[name] for name in ("node-a", "node-b")]
        before = [agent.metric("busmesh_envelope_failures_total") for agent in agents]
        await asyncio.gather(*(mesh.call("ledger", "echo", {"data": b"x"}) for _ in range(100)))
        await tap.unsubscribe()
        subjects = [
            *{subject for subject, _ in caught},
            "mesh.test.found.ledger.node-b",
            "mesh.test.find.ledger.node-z",
        ]

        flooding = asyncio.create_task(flood(client, subjects))
        done = [await mesh.call("ledger", "echo", {"data": bytes([n % 256])}) for n in range(300)]
        sent = await flooding
        await mesh.call("ledger", "who")
        await client.flush()

    assert done == [bytes([n % 256]) for n in range(300)]
    now = [agent.metric("busmesh_envelope_failures_total") for agent in agents]
    page = agents[1].page("/metrics").splitlines()
    reasons = [line.partition("{")[2] for line in page if "envelope_failures_total{" in line]
    print(f"{sent} messages of garbage, {before} counted before, {now} after; at node-b: {', '.join(reasons)}")
    for reason in ("REPLAYED", "FORMAT", "FORGED", "NOT_AN_ENVELOPE"):
        assert agents[1].metric("busmesh_envelope_failures_total", reason=reason) > 0, reason
    assert answered == [], "a reply field of NATS is never used"


async def test_forged_503s_make_nothing_run_twice(world: World, mesh: Mesh) -> None:
    replies: list[str] = []

    async def forge(client: Client, message: Msg) -> None:
        if message.reply.startswith("mesh.test.none.node-a."):
            replies.append(message.reply)
            head = b"NATS/1.0 503\r\n\r\n"
            line = f"HPUB {message.reply} {len(head)} {len(head)}\r\n".encode()
            await client._send_command(line + head + b"\r\n")  # the client's own publish cannot write this
            await client._flush_pending()

    async with stranger(world) as client:
        await client.subscribe("mesh.test.rpc.>", cb=partial(forge, client))
        await client.flush()
        record = world.folder / "threats.record"
        ids = [f"forged-{number}" for number in range(50)]
        ended = []
        for id in ids:
            params = {"id": id, "until": time.monotonic() + 2.0, "work": 0.02}
            try:
                ended.append(await mesh.call("ledger", "write", params, timeout=2.0))
            except MeshError as error:
                ended.append(error)
        async with asyncio.timeout(5):
            while len(replies) < len(ids):  # the last answer may be here before the forger has heard of its call
                await asyncio.sleep(0.01)
    lines = record.read_text().splitlines()
    runs = {id: sum(f'"{id}"' in line for line in lines) for id in ids}

    lies = [
        id for id, end in zip(ids, ended, strict=True) if isinstance(end, MeshError) and end.ran is Ran.NO and runs[id]
    ]
    print(f"{len(replies)} forged 503s: {sum(isinstance(end, MeshError) for end in ended)} of 50 calls failed by them")
    assert max(runs.values()) <= 1
    assert not lies


async def test_a_node_that_may_not_speak_for_an_app_is_refused_by_the_receiver(world: World, tmp_path: Path) -> None:
    async with rogue(world, tmp_path) as way, Mesh.connect(app="tester", socket=way) as mesh:
        with pytest.raises(PermissionDenied, match="node rogue may not speak for 'tester'") as caught:
            await mesh.call("ledger", "who")

    assert caught.value.ran is Ran.NO


async def test_a_node_that_may_not_serve_is_neither_asked_nor_believed(
    world: World, tmp_path: Path, mesh: Mesh
) -> None:

    async with rogue(world, tmp_path) as way, Mesh.connect(app="ledger", socket=way) as thief:
        await thief.serve(Stolen())
        async with Mesh.connect(app="placed", socket=way) as other:
            await other.serve(Placed())
            with pytest.raises(NoInstances):
                await mesh.call("placed", "who", timeout=3.0)
        calls = []
        for _ in range(60):  # each in an envelope of its own: the broker hands a third of them to the rogue
            calls.append(asyncio.ensure_future(mesh.call("ledger", "who", timeout=1.0, idempotent=True)))
            await asyncio.sleep(0.005)
        ends = await asyncio.gather(*calls, return_exceptions=True)

    failed = [end for end in ends if isinstance(end, BaseException)]
    print(f"beside a rogue member of the group {60 - len(failed)} of 60 calls got through, the others ended in time")
    assert {end for end in ends if isinstance(end, str)} == {"tester"}
    assert all(isinstance(end, MeshError) for end in failed)
