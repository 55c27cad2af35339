"""The supervisor with a real keeper and real processes: shells that live for milliseconds."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from bus_mesh.agent.presence import descends, parent_of
from bus_mesh.agent.restart import Phase
from bus_mesh.agent.supervise import NOT_STARTED, Place, Standing, Supervisor
from bus_mesh.config import Program
from bus_mesh.process.kept import Keeper
from bus_mesh.protocol.errors import MeshError


class Watched:
    """A supervisor, and every standing that it reported."""

    def __init__(self, keeper: Keeper, folder: Path) -> None:
        self.heard: asyncio.Queue[Standing] = asyncio.Queue()
        self.folder = folder
        place = Place(folder / "agent.sock", "node-a", folder)
        self.supervisor = Supervisor(keeper, place, jitter=lambda: 0.0, changed=self.heard.put_nowait)

    def start(self, script: str, service: str = "orders", **settings: Any) -> None:
        self.supervisor.start({service: Program.model_validate({"command": ["sh", "-c", script], **settings})})

    async def reaches(self, phase: Phase) -> Standing:
        """Return the first standing in that phase that has not been looked at yet."""
        async with asyncio.timeout(10):
            while True:
                standing = await self.heard.get()
                if standing.phase is phase:
                    return standing


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    keeper = await Keeper.start()
    watched = Watched(keeper, tmp_path)
    yield watched
    await watched.supervisor.stop(grace=0.0)
    await keeper.close()


async def written(path: Path) -> str:
    """Return the text of a file once somebody has written a whole line into it."""
    async with asyncio.timeout(10):
        while not path.exists() or not (text := path.read_text()).endswith("\n"):
            await asyncio.sleep(0.005)
    return text


async def test_a_process_finds_its_socket_node_app_and_token_in_its_environment(watched: Watched) -> None:
    file = watched.folder / "seen"
    watched.start(
        'read -r token <&"$BUSMESH_TOKEN_FD"; '
        f'echo "$BUSMESH_SOCKET $BUSMESH_NODE $BUSMESH_APP $MINE $token" > {file}; sleep 60',
        env={"MINE": "x"},
    )

    socket, node, app, mine, token = (await written(file)).split(" ")

    assert (socket, node, app, mine) == (str(watched.folder / "agent.sock"), "node-a", "orders", "x")
    assert watched.supervisor.owner_of(token.strip()) == "orders"


async def test_nothing_of_the_agents_own_mesh_environment_is_inherited(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUSMESH_HOME", "/somewhere")
    file = watched.folder / "seen"
    watched.start(f'echo "[$BUSMESH_HOME]" > {file}; sleep 60')

    assert await written(file) == "[]\n"


async def test_a_token_admits_the_process_and_its_children_and_nobody_else(watched: Watched) -> None:
    file = watched.folder / "seen"
    watched.start(f'sleep 60 & cat <&"$BUSMESH_TOKEN_FD" > {file}; echo " $!" >> {file}; wait')
    running = await watched.reaches(Phase.RUNNING)
    token, child = (await written(file)).split()
    admits = watched.supervisor.admits

    assert admits(token, running.pid) == "orders"
    assert admits(token, int(child)) == "orders"
    assert admits(token, os.getpid()) is None
    assert admits("0" * 32, running.pid) is None


async def test_a_token_dies_with_its_process_and_the_next_one_has_another(watched: Watched) -> None:
    file = watched.folder / "seen"
    watched.start(f'read -r token <&"$BUSMESH_TOKEN_FD"; echo $token > {file}; sleep 60', restart="always")
    first = await watched.reaches(Phase.RUNNING)
    old = (await written(file)).strip()
    file.unlink()
    os.kill(first.pid, signal.SIGKILL)
    await watched.reaches(Phase.PAUSED)
    second = await watched.reaches(Phase.RUNNING)
    new = (await written(file)).strip()

    assert old != new and first.pid != second.pid
    assert watched.supervisor.owner_of(old) is None
    assert watched.supervisor.admits(new, second.pid) == "orders"


async def test_a_process_speaks_as_the_app_that_its_entry_names(watched: Watched) -> None:
    watched.start("sleep 60", service="orders-eu", app="orders")
    running = await watched.reaches(Phase.RUNNING)

    assert watched.supervisor.pids == {running.pid: "orders"}


async def test_each_replica_is_a_process_with_a_log_of_its_own(watched: Watched) -> None:
    watched.start('echo "out $0"; echo err >&2; sleep 60', replicas=2)

    logs = [await written(watched.folder / f"orders.{replica}.log") for replica in range(2)]

    assert all("out sh" in log for log in logs)
    async with asyncio.timeout(10):
        while len(watched.supervisor.pids) < 2:  # a child may write before the keeper's word of its start is read
            await asyncio.sleep(0.01)


async def test_a_failure_is_started_again_and_a_success_is_not_unless_told_so(watched: Watched) -> None:
    watched.start("exit 3", service="failing", restart="on-failure")
    assert (await watched.reaches(Phase.PAUSED)).status == 3
    watched.start("exit 0", service="done", restart="on-failure")
    ended = await watched.reaches(Phase.ENDED)

    assert (ended.service, ended.status, ended.starts) == ("done", 0, 1)


async def test_five_early_exits_are_a_crash_loop(watched: Watched) -> None:
    watched.start("exit 1", restart="always")
    standing = await watched.reaches(Phase.CRASH_LOOP)

    assert (standing.starts, standing.status) == (5, 1)


async def test_a_command_that_is_not_there_says_so_and_is_tried_again(watched: Watched) -> None:
    watched.supervisor.start({"orders": Program.model_validate({"command": "no-such-command-here"})})
    standing = await watched.reaches(Phase.PAUSED)

    assert (standing.status, standing.starts) == (NOT_STARTED, 0)
    assert "no-such-command-here" in standing.message


async def test_stop_sends_the_stop_signal_and_waits_for_the_end(watched: Watched) -> None:
    file = watched.folder / "seen"
    watched.start(
        f'trap "echo bye > {file}.bye; exit 0" INT; echo up > {file}; while :; do sleep 0.01; done',
        stop_signal="SIGINT",
    )
    await written(file)

    await watched.supervisor.stop()

    assert (watched.folder / "seen.bye").read_text() == "bye\n"
    assert watched.supervisor.pids == {}


async def test_stop_kills_what_ignores_its_signal(watched: Watched) -> None:
    file = watched.folder / "seen"
    watched.start(f'trap "" TERM; echo up > {file}; while :; do sleep 0.01; done')
    running = await watched.reaches(Phase.RUNNING)
    await written(file)

    await watched.supervisor.stop(grace=0.1)

    assert not Path(f"/proc/{running.pid}").exists()


async def test_stop_during_a_pause_starts_nothing_more(watched: Watched) -> None:
    watched.start("exit 1", restart="always")
    await watched.reaches(Phase.PAUSED)

    await watched.supervisor.stop()

    assert watched.supervisor.pids == {} and watched.supervisor.standings == []


async def test_stop_right_after_start_leaves_nothing_running(watched: Watched) -> None:
    watched.start("sleep 60")

    async with asyncio.timeout(5):
        await watched.supervisor.stop(grace=1.0)

    assert watched.supervisor.pids == {}


async def test_repr_shows_each_process_and_its_phase(watched: Watched) -> None:
    watched.start("sleep 60")
    await watched.reaches(Phase.RUNNING)

    assert repr(watched.supervisor) == "Supervisor(orders: running)"


class Answers:
    """Says of every process that it serves, unless told otherwise; notes who was seen off."""

    def __init__(self) -> None:
        self.serving = True
        self.seen_off: list[int] = []

    def serves(self, pid: int) -> bool:
        return self.serving

    async def retire(self, pid: int, patience: float) -> int:
        self.seen_off.append(pid)
        return 0


async def test_a_successor_is_ready_before_what_it_replaces_is_seen_off(watched: Watched) -> None:
    watched.supervisor.presence = presence = Answers()
    watched.start("sleep 60", replicas=2)
    service, told = watched.supervisor.service("orders"), list[str]()
    await asyncio.gather(*(seat.verdict for seat in service.seats.values()))
    old = [seat.standing().pid for seat in service.seats.values()]
    done = await watched.supervisor.restart(service, None, told.append)
    new = [seat.standing().pid for seat in service.seats.values()]

    assert done == "2 of orders restarted" and presence.seen_off == old
    assert told[:3] == [
        "orders[0]: starting its successor",
        f"orders[0]: process {new[0]} is ready, {old[0]} leaves",
        "orders[0]: stopped",
    ]
    assert not any(Path(f"/proc/{pid}").exists() for pid in old) and service.others == set()
    assert [seat.standing().starts for seat in service.seats.values()] == [2, 2]


async def test_a_successor_that_is_not_ready_goes_and_the_old_one_stays(watched: Watched) -> None:
    watched.supervisor.presence = presence = Answers()
    watched.start("sleep 60", ready_timeout="200ms")
    service = watched.supervisor.service("orders")
    await service.seats[0].verdict
    old = service.seats[0].standing().pid
    presence.serving = False
    with pytest.raises(MeshError, match=r"the successor of orders\[0\] not ready after 0.2 s: it serves nothing"):
        await watched.supervisor.restart(service, None, print)

    assert watched.supervisor.pids == {old: "orders"} and presence.seen_off == [] and service.others == set()


async def test_scaling_starts_what_lacks_and_sees_off_what_is_too_much(watched: Watched) -> None:
    watched.start("sleep 60")
    supervisor, service = watched.supervisor, watched.supervisor.service("orders")
    more = await supervisor.scale(service, 3, print)
    again = await supervisor.scale(service, 3, print)
    none = await supervisor.scale(service, 0, print)
    assert (more, again, none) == (
        "orders has 3 replicas, before 1",
        "3 run already",
        "orders has 0 replicas, before 3",
    )
    assert supervisor.pids == {} and service.seats == {}
    assert await supervisor.start_service(service, print) == "1 of orders started"


async def test_what_was_stopped_starts_again_only_when_it_is_told_to(watched: Watched) -> None:
    watched.start("sleep 60", restart="always")
    supervisor, service = watched.supervisor, watched.supervisor.service("orders")
    await service.seats[0].verdict
    assert await supervisor.stop_service(service, print) == "1 of orders stopped"
    assert await supervisor.stop_service(service, print) == "orders is stopped already"
    assert supervisor.pids == {} and service.seats[0].standing().phase is Phase.STOPPED
    assert await supervisor.start_service(service, print) == "1 of orders started"
    assert await supervisor.start_service(service, print) == "orders runs already"

    assert len(supervisor.pids) == 1


async def test_an_unknown_service_is_met_with_a_suggestion(watched: Watched) -> None:
    watched.start("sleep 60")

    with pytest.raises(MeshError, match="'ordres' is not run by the agent of node-a: did you mean orders"):
        watched.supervisor.service("ordres")


async def test_what_differs_in_node_yaml_is_taken_up_where_that_is_cheap(watched: Watched) -> None:
    def made(**settings: Any) -> Program:
        return Program.model_validate({"command": ["sleep", "60"], **settings})

    old = {"gone": made(), "more": made(), "other": made(), "same": made()}
    new = {"more": made(replicas=2), "other": made(env={"A": "1"}), "same": made(), "fresh": made()}
    supervisor, told = watched.supervisor, list[str]()
    supervisor.start(old)
    await asyncio.gather(*(seat.verdict for one in supervisor.services.values() for seat in one.seats.values()))
    await supervisor.take_up(old, new, told.append)
    await supervisor.services["fresh"].seats[0].verdict

    assert sorted(supervisor.pids.values()) == ["fresh", "more", "more", "other", "same"]
    assert told == [
        "gone: stopped, node.yaml has it no more",
        "fresh: started, it is new in node.yaml",
        "more: 2 replicas, as node.yaml has it",
        "other: changed in node.yaml, which its next start takes up: busmesh service restart other --node node-a",
    ]
    assert supervisor.services["other"].spec.env == {"A": "1"}


def parents(**links: int) -> Callable[[int], int]:
    return lambda pid: links.get(f"p{pid}", 0)


def test_a_grandchild_descends_and_a_stranger_does_not() -> None:
    parent = parents(p30=20, p20=10, p10=1, p40=1)

    assert [descends(pid, 10, parent) for pid in (10, 20, 30, 40, 50)] == [True, True, True, False, False]


def test_the_walk_up_ends_even_where_parents_run_in_a_circle() -> None:
    assert not descends(7, 10, parents(p7=8, p8=7))


def test_the_parent_of_this_process_is_read_from_proc() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        assert parent_of(child.pid) == os.getpid()
        child.kill()


def test_a_process_that_is_not_there_has_no_parent() -> None:
    assert parent_of(2**22 + 1) == 0
