"""The services that an agent runs itself: started, watched, started again, stopped.

Each process is a child of the keeper, so none outlives the agent. Each gets a token of its own by an inherited
descriptor: it proves at HELLO that the session belongs to the process that was started, for as long as that lives.
"""

import asyncio
import os
import secrets
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from bus_mesh.agent.restart import Lives, Phase
from bus_mesh.config import Program
from bus_mesh.process.kept import Child, Keeper, SpawnFailed

NOT_STARTED: Final = 127
"""The exit status of a command that could not be started, as a shell would say it."""
_ANCESTORS_AT_MOST: Final = 64


class Standing(NamedTuple):
    """How one process is doing. `pid` 0 and `status` None: there is none; `message` says why it did not start."""

    service: str
    replica: int
    phase: Phase
    pid: int
    starts: int
    status: int | None
    message: str


class Place(NamedTuple):
    """Where the processes find their agent, and where what they print goes (None: the agent's stderr)."""

    socket: Path
    node: str
    logs: Path | None = None


class Supervisor:
    """All processes that an agent runs."""

    def __init__(
        self,
        keeper: Keeper,
        place: Place,
        *,
        jitter: Callable[[], float],
        changed: Callable[[Standing], None] = lambda standing: None,
    ) -> None:
        self._keeper, self._place, self._jitter, self._changed = keeper, place, jitter, changed
        self._seats: list[_Seat] = []
        self._tokens: dict[str, _Seat] = {}

    def __repr__(self) -> str:
        return f"Supervisor({', '.join(f'{seat.name}: {seat.lives.phase}' for seat in self._seats)})"

    def start(self, services: Mapping[str, Program]) -> None:
        """Start every replica of every service; returns at once."""
        if self._place.logs is not None:
            self._place.logs.mkdir(parents=True, exist_ok=True)
        for service, spec in services.items():
            for replica in range(spec.replicas):
                seat = _Seat(self, service, replica, spec)
                self._seats.append(seat)
                seat.task = asyncio.create_task(seat.run(), name=f"supervise {seat.name}")

    async def stop(self, grace: float | None = None) -> None:
        """Stop all: each its stop signal, then KILL after `grace` seconds (None: what its service says)."""
        seats, self._seats = self._seats, []
        await asyncio.gather(*(seat.stop(grace) for seat in reversed(seats)))

    @property
    def standings(self) -> list[Standing]:
        """How each process is doing."""
        return [seat.standing() for seat in self._seats]

    @property
    def pids(self) -> dict[int, str]:
        """The app of each process that runs now, by process id."""
        return {seat.child.pid: seat.app for seat in self._seats if seat.child is not None}

    def owner_of(self, token: str) -> str | None:
        """Return the app whose living process was given `token`, or None."""
        seat = self._tokens.get(token)
        return seat.app if seat else None

    def admits(self, token: str, pid: int) -> str | None:
        """Return the app that process `pid` may speak as with `token`, or None.

        It must be the process that was started with it, or descend from that: a token copied elsewhere opens nothing.
        """
        seat = self._tokens.get(token)
        if seat is None:
            return None
        # A quick process may say HELLO before the keeper's word of its start is read here; then it is one of the
        # keeper's children, and only the process that was handed the token knows it.
        started = seat.child.pid if seat.child else self._keeper.pid
        return seat.app if descends(pid, started, parent_of) else None

    async def spawn(self, seat: "_Seat") -> Child:
        """Start the process of a seat, with a fresh token that is good until `forget`."""
        spec, place = seat.spec, self._place
        seat.token = secrets.token_hex(16)
        self._tokens[seat.token] = seat
        log = place.logs / f"{seat.name}.log" if place.logs else None
        env = {**_inherited(), **spec.env, **_own(place, seat.app)}
        cwd = str(spec.cwd) if spec.cwd else None
        return await self._keeper.spawn(spec.command, env=env, cwd=cwd, user=spec.user, log=log, token=seat.token)

    def forget(self, seat: "_Seat") -> None:
        """End the token of a seat whose process is gone."""
        self._tokens.pop(seat.token, None)
        seat.child = None

    def tell(self, seat: "_Seat") -> None:
        """Report a change of a seat."""
        self._changed(seat.standing())

    def pause(self, seat: "_Seat", status: int, ran: float) -> float | None:
        """Return the seconds until the next start of a seat, or None for never."""
        return seat.lives.exited(status, ran, self._jitter())


class _Seat:
    """One replica: at most one process at a time."""

    def __init__(self, supervisor: Supervisor, service: str, replica: int, spec: Program) -> None:
        self.service, self.replica, self.spec = service, replica, spec
        self.name = f"{service}-{replica}" if spec.replicas > 1 else service
        self.app = spec.app or service
        self.lives = Lives(spec.restart)
        self.token = ""
        self.child: Child | None = None
        self.task: asyncio.Task[None] | None = None
        self._status: int | None = None
        self._message = ""
        self._supervisor = supervisor
        self._stopping = asyncio.Event()

    def standing(self) -> Standing:
        pid = self.child.pid if self.child else 0
        return Standing(
            self.service, self.replica, self.lives.phase, pid, self.lives.starts, self._status, self._message
        )

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            began = loop.time()
            self._status = await self._live()
            if self._stopping.is_set():
                return
            pause = self._supervisor.pause(self, self._status, loop.time() - began)
            self._supervisor.tell(self)
            if pause is None or await self._stopped_within(pause):
                return
            self.lives.phase = Phase.STARTING

    async def _live(self) -> int:
        try:
            self.child = await self._supervisor.spawn(self)
        except SpawnFailed as error:
            self._supervisor.forget(self)
            self._message = str(error)
            return NOT_STARTED
        self.lives.started()
        self._message = ""
        self._supervisor.tell(self)
        try:
            if self._stopping.is_set():
                await self._stop_child(None)
            return await self.child.wait()
        finally:
            self._supervisor.forget(self)

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def stop(self, grace: float | None) -> None:
        self._stopping.set()
        await self._stop_child(grace)
        if self.task is not None:
            await self.task

    async def _stop_child(self, grace: float | None) -> None:
        if self.child is not None:
            first = signal.Signals[self.spec.stop_signal]
            await self.child.stop(self.spec.grace if grace is None else grace, first)


def descends(pid: int, ancestor: int, parent: Callable[[int], int]) -> bool:
    """Tell whether `pid` is `ancestor` or a child of a child of it, where `parent` gives a parent's id (0: none)."""
    for _ in range(_ANCESTORS_AT_MOST):
        if pid == ancestor:
            return True
        if pid <= 1:
            return False
        pid = parent(pid)
    return False


def parent_of(pid: int) -> int:
    """Return the parent of a process of this machine, or 0 when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    # The command name stands in brackets and may hold any byte, brackets too: what counts starts after the last one.
    return int(stat[stat.rindex(b")") + 2 :].split()[1])


def _inherited() -> dict[str, str]:
    """Return this process's environment without what speaks of its own agent."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BUSMESH_")}


def _own(place: Place, app: str) -> dict[str, str]:
    return {"BUSMESH_SOCKET": str(place.socket), "BUSMESH_NODE": place.node, "BUSMESH_APP": app}
