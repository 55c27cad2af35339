"""Start children that cannot outlive this process: the asyncio side of the keeper.

child    RUNNING ──exit, a signal, or the keeper's end──▶ ENDED (`returncode` is set)

keeper = await Keeper.start()
child = await keeper.spawn(["python", "-m", "shop"], log=Path("shop.log"))
await child.stop(grace=10.0)
await keeper.close()
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any, Final, Self

from bus_mesh.process.mark import MARK

__all__ = ["Child", "Keeper", "SpawnFailed"]

_SCRIPT: Final = Path(__file__).with_name("keeper.py")
_UNLIMITED: Final[Mapping[str, int]] = {}


class SpawnFailed(Exception):
    """A child could not be started; the message says which command and why."""


class _Lifeline(asyncio.Protocol):
    """This end of the socket: lines of the keeper go to `owner`, and so does its end."""

    def __init__(self, owner: "Keeper") -> None:
        self._owner = owner
        self._held = b""

    def data_received(self, data: bytes) -> None:
        """Hand over each whole line."""
        *lines, self._held = (self._held + data).split(b"\n")
        for line in lines:
            self._owner._heard(json.loads(line))

    def connection_lost(self, _: Exception | None) -> None:
        """Say that the keeper is gone."""
        self._owner._lost()


class Child:
    """A process that the keeper started, and that ends at the latest when this process does."""

    def __init__(self, keeper: "Keeper", number: int, pid: int, name: str) -> None:
        self.pid = pid
        self.name = name
        self.returncode: int | None = None
        self._keeper = keeper
        self._number = number
        self._over = asyncio.Event()

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"ended {self.returncode}"
        return f"Child({self.name}, pid={self.pid}, {state})"

    async def wait(self) -> int:
        """Return the exit status once it has ended; minus the signal's number when a signal ended it."""
        await self._over.wait()
        assert self.returncode is not None
        return self.returncode

    def signal(self, number: int) -> None:
        """Send a signal; one that has ended hears nothing."""
        if self.returncode is None:
            self._keeper._send({"do": "signal", "id": self._number, "signal": int(number)})

    async def stop(self, grace: float, first: int = SIGTERM) -> int:
        """Ask it to end with the signal `first`, kill it after `grace` seconds, and return its exit status."""
        self.signal(first)
        try:
            return await asyncio.wait_for(self.wait(), grace)
        except TimeoutError:
            self.signal(SIGKILL)
            return await self.wait()

    def _end(self, status: int) -> None:
        self.returncode = status
        self._over.set()


class Keeper:
    """The process that holds our children; make it with `await Keeper.start()`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process
        self._count = 0
        self._children: dict[int, Child] = {}
        self._starting: dict[int, tuple[str, asyncio.Future[Child]]] = {}
        self._transport: asyncio.WriteTransport
        self._ready = asyncio.Event()
        self._gone = asyncio.Event()

    def __repr__(self) -> str:
        state = "gone" if self._gone.is_set() else "holding"
        return f"Keeper(pid={self.pid}, {state}, children={len(self._children)})"

    @classmethod
    async def start(cls) -> Self:
        """Start a keeper and wait until it can take children (about 30 ms); raise SpawnFailed when it cannot."""
        ours, theirs = socket.socketpair()
        with theirs:
            # -I and -S: nothing in the environment or the user's directories runs in it, and it starts sooner.
            command = [sys.executable, "-I", "-S", "-B", str(_SCRIPT), str(theirs.fileno())]
            process = subprocess.Popen(  # noqa: ASYNC220 - the loops' own need a child watcher, and this takes 1 ms
                command,
                env={name: value for name, value in os.environ.items() if name != MARK},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        keeper = cls(process)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_unix_connection(lambda: _Lifeline(keeper), sock=ours)
        keeper._transport = transport
        try:
            await keeper._ready.wait()
        except asyncio.CancelledError:
            await keeper.close()
            raise
        if keeper._gone.is_set():
            await keeper.close()
            raise SpawnFailed(f"the keeper ended at once ({process.returncode}); its reason is on standard error")
        return keeper

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        log: Path | None = None,
        stamp: bool = False,
        token: str | None = None,
        limits: Mapping[str, int] = _UNLIMITED,
    ) -> Child:
        """Start a command in its own session and return it running; raise SpawnFailed when it cannot be started.

        `env` None is this keeper's own environment. Output goes to the end of the file `log`, where files of 10 MiB
        take turns and with `stamp` each line gets its time, else to our standard error. `token` is read by the child,
        to the end, from the descriptor numbered in its BUSMESH_TOKEN_FD. `limits`: bytes of `memory`, `open_files`.
        """
        name = argv[0] if argv else ""
        if not name or self._gone.is_set():
            raise SpawnFailed("there is no command to start" if not name else f"{name}: the keeper is gone")
        self._count += 1
        started: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        self._starting[self._count] = name, started
        order = {"do": "start", "id": self._count, "argv": list(argv), "env": None if env is None else dict(env)}
        order |= {"cwd": cwd, "user": user, "token": token, "limits": dict(limits)}
        self._send(order | {"log": None if log is None else str(log), "stamp": stamp})
        return await started

    async def close(self) -> None:
        """Kill every child and everything they started, and return once all of it, and the keeper, is gone."""
        if not self._gone.is_set():
            self._transport.write_eof()
            await self._gone.wait()
        await asyncio.to_thread(self._process.wait)

    def _send(self, order: dict[str, Any]) -> None:
        if not self._gone.is_set() and not self._transport.is_closing():
            self._transport.write(json.dumps(order).encode() + b"\n")

    def _heard(self, report: dict[str, Any]) -> None:
        if "exited" in report:
            self._children.pop(report["exited"])._end(report["status"])
        elif "started" in report:
            self._started(report["started"], report["pid"])
        elif "failed" in report:
            name, waiting = self._starting.pop(report["failed"])
            if not waiting.done():
                waiting.set_exception(SpawnFailed(f"{name}: {report['error']}"))
        else:
            self._ready.set()

    def _started(self, number: int, pid: int) -> None:
        name, waiting = self._starting.pop(number)
        child = self._children[number] = Child(self, number, pid, name)
        if waiting.cancelled():  # nobody will ever hold it
            child.signal(SIGKILL)
        else:
            waiting.set_result(child)

    def _lost(self) -> None:
        """The keeper has ended, and with it every child: the kernel kills them (PR_SET_PDEATHSIG)."""
        self._gone.set()
        self._ready.set()
        for child in self._children.values():
            child._end(-SIGKILL)
        self._children.clear()
        for name, waiting in self._starting.values():
            if not waiting.done():
                waiting.set_exception(SpawnFailed(f"{name}: the keeper is gone"))
        self._starting.clear()
