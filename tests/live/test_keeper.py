"""What the keeper promises: what it starts has what it was given, and none of it outlives the owner."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import uvloop

from bus_mesh.process.kept import Child, Keeper, SpawnFailed

SLEEP = ["sleep", "300"]
WHO = "import os, json; print(json.dumps([os.getsid(0) == os.getpid(), os.getcwd(), os.environ.get('A'), os.getuid()]))"
# A grandchild that leaves session, group and parent behind, as daemons do, and says its pid.
DAEMON = """
import os, sys, time
told, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        os.write(tell, b".")
        time.sleep(300)
    os._exit(0)
os.read(told, 1)  # it has said who it is: whatever is left behind is killed from here on
time.sleep(300 if sys.argv[1] == "stay" else 0)
"""
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(300)"
)
OWNER = """
import asyncio, sys
from pathlib import Path
from bus_mesh.process.kept import Keeper
async def main():
    keeper = await Keeper.start()
    await keeper.spawn([sys.executable, "-c", sys.argv[1], "stay"], log=Path(sys.argv[2]))
    child = await keeper.spawn(["sleep", "300"])
    print(keeper.pid, child.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def gone(*pids: int) -> None:
    """Wait until none of these processes is alive (a zombie is not)."""
    async with asyncio.timeout(10):
        while any(map(alive, pids)):
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # also between one look and the next
        return False


async def line(log: Path) -> str:
    """Wait for the first whole line of a log."""
    async with asyncio.timeout(10):
        while not (log.exists() and "\n" in log.read_text()):
            await asyncio.sleep(0.01)
    return log.read_text().splitlines()[0]


async def test_a_child_has_its_own_session_and_what_it_was_given(keeper: Keeper, tmp_path: Path) -> None:
    env = {"A": "one", "PATH": os.environ["PATH"]}

    child = await keeper.spawn([sys.executable, "-c", WHO], env=env, cwd=str(tmp_path), log=tmp_path / "log")

    assert await child.wait() == 0
    assert json.loads((tmp_path / "log").read_text()) == [True, str(tmp_path), "one", os.getuid()]


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
async def test_a_child_runs_as_the_user_it_was_given_and_still_dies_with_the_keeper(tmp_path: Path) -> None:
    keeper = await Keeper.start()
    asker = await keeper.spawn(["id", "-un"], user="nobody", log=tmp_path / "log")
    child = await keeper.spawn(SLEEP, user="nobody")
    await asker.wait()
    os.kill(keeper.pid, signal.SIGKILL)

    assert (tmp_path / "log").read_text() == "nobody\n"
    assert await child.wait() == -signal.SIGKILL
    await gone(child.pid)
    await keeper.close()


async def test_a_token_comes_by_descriptor_and_not_by_environment(keeper: Keeper, tmp_path: Path) -> None:
    read = "import os; print(open(int(os.environ['BUSMESH_TOKEN_FD'])).read(), 's3cret' in str(dict(os.environ)))"

    child = await keeper.spawn([sys.executable, "-c", read], token="s3cret", log=tmp_path / "log")

    assert await child.wait() == 0
    assert (tmp_path / "log").read_text() == "s3cret False\n"


async def test_a_child_holds_no_descriptor_but_its_own(keeper: Keeper, tmp_path: Path) -> None:
    count = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd'))[:-1])"

    child = await keeper.spawn([sys.executable, "-c", count], log=tmp_path / "log")

    await child.wait()
    assert (tmp_path / "log").read_text() == "[0, 1, 2]\n"


async def test_a_signal_that_the_keeper_ignores_works_on_its_children(keeper: Keeper) -> None:
    child = await keeper.spawn(SLEEP)
    os.kill(keeper.pid, signal.SIGINT)
    os.kill(keeper.pid, signal.SIGTERM)

    child.signal(signal.SIGINT)

    assert await child.wait() == -signal.SIGINT


@pytest.mark.parametrize(
    ("order", "why"),
    [
        ({"argv": ["no-such-command"]}, "no-such-command: .*No such file"),
        ({"argv": ["/etc"]}, "Permission denied"),
        ({"argv": SLEEP, "cwd": "/no/such/place"}, "/no/such/place"),
        ({"argv": SLEEP, "user": "nobody-at-all"}, "no user nobody-at-all"),
        ({"argv": SLEEP, "log": Path("/no/such/log")}, "/no/such/log"),
        ({"argv": []}, "no command"),
    ],
)
async def test_what_cannot_be_started_says_why(keeper: Keeper, order: dict[str, object], why: str) -> None:
    with pytest.raises(SpawnFailed, match=why):
        await keeper.spawn(**order)  # type: ignore[arg-type]


async def test_stop_asks_first_and_kills_after_the_grace(keeper: Keeper, tmp_path: Path) -> None:
    polite = await keeper.spawn(SLEEP)
    stubborn = await keeper.spawn([sys.executable, "-c", STUBBORN], log=tmp_path / "log")
    await line(tmp_path / "log")

    assert await polite.stop(grace=5.0) == -signal.SIGTERM
    assert await stubborn.stop(grace=0.05) == -signal.SIGKILL
    assert await stubborn.stop(grace=0.0) == -signal.SIGKILL


async def test_the_end_of_a_child_takes_the_rest_of_its_session_along(keeper: Keeper, tmp_path: Path) -> None:
    child = await keeper.spawn(["sh", "-c", "sleep 300 & echo $!; exit 3"], log=tmp_path / "log")

    assert await child.wait() == 3
    await gone(int(await line(tmp_path / "log")))


async def test_close_kills_daemons_too(tmp_path: Path) -> None:
    keeper = await Keeper.start()
    await keeper.spawn([sys.executable, "-c", DAEMON, "leave"], log=tmp_path / "log")
    daemon = int(await line(tmp_path / "log"))
    child = await keeper.spawn(SLEEP)

    await keeper.close()

    assert not psutil.pid_exists(daemon)
    assert not psutil.pid_exists(child.pid)
    assert child.returncode == -signal.SIGKILL


async def test_nothing_outlives_an_owner_killed_with_9(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, DAEMON, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        keeper, child = map(int, owner.stdout.readline().split())
        daemon = int(await line(tmp_path / "log"))

        owner.kill()

        await gone(keeper, child, daemon)


async def test_children_die_with_a_keeper_killed_with_9_and_the_owner_learns_of_it() -> None:
    keeper = await Keeper.start()
    child = await keeper.spawn(SLEEP)

    os.kill(keeper.pid, signal.SIGKILL)

    assert await child.wait() == -signal.SIGKILL
    await gone(child.pid)
    with pytest.raises(SpawnFailed, match="the keeper is gone"):
        await keeper.spawn(SLEEP)
    await keeper.close()


async def test_a_child_whose_spawn_was_cancelled_is_killed(keeper: Keeper) -> None:
    spawning = asyncio.ensure_future(keeper.spawn(SLEEP))
    await asyncio.sleep(0)
    spawning.cancel()
    other = await keeper.spawn(SLEEP)  # orders are obeyed in turn: the first has been started by now
    own = psutil.Process(keeper.pid)

    async with asyncio.timeout(5):
        while [child.pid for child in own.children()] != [other.pid]:
            await asyncio.sleep(0.01)


async def test_a_hundred_children_start_and_end(keeper: Keeper) -> None:
    children = await asyncio.gather(*(keeper.spawn(["true"]) for _ in range(100)))

    assert [await child.wait() for child in children] == [0] * 100
    assert repr(keeper) == f"Keeper(pid={keeper.pid}, holding, children=0)"


def test_the_keeper_serves_uvloop_as_well() -> None:
    async def story() -> Child:
        keeper = await Keeper.start()
        child = await keeper.spawn(SLEEP)
        await child.stop(grace=5.0)
        await keeper.close()
        return child

    assert uvloop.run(story()).returncode == -signal.SIGTERM
