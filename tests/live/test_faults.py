"""What callers are told when processes die, hang and leave, held against what services wrote down."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from bus_mesh_sdk import Mesh
from caller_at_work import Caller, Verdict, judge
from mesh_world import NOISE, World, program, until

from bus_mesh.clock import sleep as stand_still

pytestmark = [pytest.mark.timeout(90), pytest.mark.alone]
POLICY = """\
kind: Service
name: ledger
access: {allow: [{from: [tester], methods: ["*"]}]}
"""
INSTANCES = {"ledger": 6}
TIME_OUT = "DEADLINE_EXCEEDED/DEADLINE_EXCEEDED"
FIRST_WAY = 0.1
"""Seconds that the first envelope of a new agent may take, on a machine that is starting processes: see `judge`."""
LEFT = ("node-a", "node-b")
"""Where callers are; node-c only serves."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("faults")
    with World(folder, POLICY) as world:
        for name in (*LEFT, "node-c"):
            service = {"command": program("ledger.py", folder / f"{name}.record"), "replicas": 2}
            world.node(name, serve=["ledger"], call_as=["tester"], services={"ledger": service})
        yield world


@pytest.fixture(autouse=True)
def stopped_processes() -> None:
    """Processes are killed and started again here, in a mesh that outlives each test; the world sees to its end."""


@pytest.fixture
def calm(world: World) -> World:
    """The mesh with everything up, as every test here finds it."""
    for name in world.nodes:
        world.until_up(name, INSTANCES)
    return world


class Load:
    """Two callers at two nodes, and the file for what services do meanwhile."""

    def __init__(self, world: World, callers: list[Caller]) -> None:
        self.world = world
        self.callers = callers

    async def enough(self, count: int = 60) -> None:
        """Return once each caller has had so many further successes."""
        await asyncio.gather(*(caller.enough(count) for caller in self.callers))

    def judge(self, first_way: float = 0.0) -> Verdict:
        return judge([call for caller in self.callers for call in caller.calls], self.world.folder, first_way)

    def seconds_to_flow(self, at: float) -> float:
        """Return after how many seconds from `at` the first call that began later had succeeded at every caller."""
        return max(caller.first_after(at).ended for caller in self.callers) - at


@asynccontextmanager
async def load(world: World, more: float = 0.0) -> AsyncIterator[Load]:
    """Call for the length of a block, some 200 times a second in all, with 1 to 2 s and `more` of time each."""
    for file in world.folder.glob("*.record"):
        os.truncate(file, 0)
    first, second = (Mesh.connect(app="tester", socket=world.nodes[name].socket) for name in LEFT)
    async with first, second:
        callers = [Caller(mesh, name, more=more) for name, mesh in (("a", first), ("b", second))]
        async with asyncio.TaskGroup() as group:
            for caller in callers:
                group.create_task(caller.run())
            running = Load(world, callers)
            await running.enough()
            yield running
            await running.enough()
            for caller in callers:
                caller.stop()


def kept(verdict: Verdict) -> None:
    """Assert what holds whatever happens."""
    print(verdict)
    assert verdict.broken == {}


async def soon(fact: Callable[[], object], what: str, seconds: float = 20.0) -> float:
    return await asyncio.to_thread(until, fact, what, seconds)


async def test_a_killed_agent_takes_its_services_with_it_and_no_promise_is_broken(calm: World) -> None:
    node = calm.nodes["node-c"]
    async with load(calm) as running:
        family = await asyncio.to_thread(node.kill)
        killed = time.monotonic()
        await soon(lambda: not any(alive(one) for one in family), "the services of a killed agent are gone", 5.0)
        gone = time.monotonic() - killed
        await running.enough()
        node.start()
        await asyncio.to_thread(calm.until_up, "node-a", INSTANCES)
        await running.enough()

    verdict = running.judge()
    kept(verdict)
    flow = running.seconds_to_flow(killed)
    print(f"its {len(family)} processes were gone after {gone * 1000:.0f} ms, calls flowed after {flow * 1000:.0f} ms")
    assert gone < 1.0 + NOISE
    lost = sum(verdict.errors.values())
    assert lost <= verdict.calls * 0.1, "only calls that were on their way to it may fail"


async def test_calls_through_a_killed_agent_are_answered_and_go_on_when_it_is_back(calm: World) -> None:
    node = calm.nodes["node-b"]
    async with load(calm) as running:
        await asyncio.to_thread(node.kill)
        killed = time.monotonic()
        node.start()
        await asyncio.to_thread(calm.until_up, "node-a", INSTANCES)
        await running.enough()

    verdict = running.judge(FIRST_WAY)
    kept(verdict)
    print(f"calls through it flowed after {running.seconds_to_flow(killed):.2f} s, the start of its agent included")
    assert set(verdict.errors) <= {"UNAVAILABLE/OUTCOME_UNKNOWN", "UNAVAILABLE/AGENT_AWAY", TIME_OUT}


async def test_a_killed_service_is_known_at_once_and_no_promise_is_broken(calm: World) -> None:
    victim = await asyncio.to_thread(calm.nodes["node-c"].services)
    async with load(calm) as running:
        victim[0].kill()
        killed = time.monotonic()
        await running.enough()
        await asyncio.to_thread(calm.until_up, "node-a", INSTANCES)

    verdict = running.judge()
    kept(verdict)
    took = max((c.ended - killed for caller in running.callers for c in caller.calls if c.error), default=0.0)
    print(f"the last failure came {took * 1000:.0f} ms after the kill")
    assert set(verdict.errors) <= {"UNAVAILABLE/OUTCOME_UNKNOWN"}, "its agent knows, so nothing waits for its deadline"


async def test_calls_flow_half_a_second_after_a_killed_broker_is_back(calm: World) -> None:
    async with load(calm) as running:
        await asyncio.to_thread(calm.kill_broker)
        await asyncio.sleep(2.0)  # how long it is away is what is tested
        await asyncio.to_thread(calm.start_broker)
        back = time.monotonic()
        await running.enough()

    kept(running.judge())
    flow = running.seconds_to_flow(back)
    print(f"calls flowed {flow * 1000:.0f} ms after the broker's return")
    assert flow < 0.5 + NOISE


async def test_calls_that_a_hanging_broker_held_back_are_late_and_not_run(calm: World) -> None:
    broker = calm.server.pid
    async with load(calm) as running:
        os.kill(broker, signal.SIGSTOP)
        await asyncio.sleep(2.0)  # how long it hangs is what is tested
        os.kill(broker, signal.SIGCONT)
        back = time.monotonic()
        await running.enough()

    verdict = running.judge()
    kept(verdict)
    flow = running.seconds_to_flow(back)
    print(f"calls flowed {flow * 1000:.0f} ms after the broker went on")
    assert verdict.errors, "calls of 1 to 2 s cannot all have survived 2 s"
    assert flow < 0.5 + NOISE


async def test_an_agent_that_is_told_to_leave_loses_no_call(calm: World) -> None:
    node = calm.nodes["node-c"]
    async with load(calm) as running:
        code = await asyncio.to_thread(node.terminate)
        await running.enough()
        node.start()
        await asyncio.to_thread(calm.until_up, "node-a", INSTANCES)

    verdict = running.judge()
    kept(verdict)
    assert (code, dict(verdict.errors)) == (0, {})


async def test_a_service_that_is_told_to_leave_loses_no_call(calm: World) -> None:
    victim = (await asyncio.to_thread(calm.nodes["node-c"].services))[0]
    async with load(calm) as running:
        victim.terminate()
        await soon(lambda: not alive(victim), "the service has left")
        await running.enough()

    verdict = running.judge()
    kept(verdict)
    assert dict(verdict.errors) == {}


async def test_callers_of_an_agent_that_restarts_wait_for_the_next_one_and_lose_no_call(calm: World) -> None:
    node = calm.nodes["node-b"]
    async with load(calm, more=10.0) as running:
        code = await asyncio.to_thread(node.terminate)
        node.start()
        await asyncio.to_thread(calm.until_up, "node-a", INSTANCES)
        await running.enough()

    verdict = running.judge(FIRST_WAY)
    kept(verdict)
    assert (code, dict(verdict.errors)) == (0, {})


async def test_calls_of_an_app_that_stands_still_while_its_agent_leaves_go_by_the_next_one(calm: World) -> None:
    node = calm.nodes["node-b"]
    async with Mesh.connect(app="tester", socket=node.socket) as mesh:
        params = [{"id": f"still-{number}", "until": time.monotonic() + 30.0, "work": 0.0} for number in range(50)]
        calls = [asyncio.create_task(mesh.call("ledger", "write", said, timeout=30.0)) for said in params]
        assert node.process is not None
        node.process.terminate()
        stand_still(1.5)  # the loop makes these calls before it can read that the agent leaves
        code = await asyncio.to_thread(node.process.wait, 20.0)
        node.start()

        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert ([answer for answer in answers if not isinstance(answer, str)], code) == ([], 0)


async def test_a_rolling_restart_of_every_instance_and_every_agent_loses_no_call(calm: World) -> None:
    async with load(calm, more=20.0) as running:
        for node in calm.nodes.values():
            for instance in await asyncio.to_thread(node.services):
                instance.terminate()
                await soon(lambda instance=instance: not alive(instance), "an instance has left")  # type: ignore[misc]
                await asyncio.to_thread(calm.until_up, "node-a", INSTANCES)
        for node in calm.nodes.values():
            assert await asyncio.to_thread(node.terminate) == 0
            node.start()
            await asyncio.to_thread(calm.until_up, node.name, INSTANCES)
        await running.enough()

    verdict = running.judge(FIRST_WAY)
    kept(verdict)
    assert dict(verdict.errors) == {}


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_records_are_where_the_judge_looks(calm: World) -> None:
    names = sorted(file.name for file in Path(calm.folder).glob("*.record"))

    assert names == ["node-a.record", "node-b.record", "node-c.record"]
