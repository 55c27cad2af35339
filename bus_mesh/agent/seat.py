"""One replica of a service: at most one process at a time, from its start until it is told to go.

Whether it is ready is found out anew for each process, and told once: `verdict` is what came of the first.
"""

import asyncio
import signal
from typing import Final, NamedTuple, Protocol

from bus_mesh import clock
from bus_mesh.agent.presence import Presence
from bus_mesh.agent.restart import Lives, Phase
from bus_mesh.config import Program
from bus_mesh.process.kept import Child, SpawnFailed

__all__ = ["NOT_STARTED", "House", "Seat", "Standing", "ended"]

NOT_STARTED: Final = 127
"""The exit status of a command that could not be started, as a shell would say it."""
STEADY: Final = 1.0
"""Seconds after which what need not serve counts as ready."""
LOOK: Final = 0.05
ASK_AGAIN: Final = 0.5
"""Seconds between two runs of a command that says whether a process is ready."""


class Standing(NamedTuple):
    """How one process is doing. `pid` 0 and `status` None: there is none; `message` says what is wrong with it.

    `since` is when it came into its phase, in seconds since 1970.
    """

    service: str
    replica: int
    phase: Phase
    pid: int
    starts: int
    status: int | None
    message: str
    ready: bool = False
    since: float = 0.0


class House(Protocol):
    """What a seat needs of its supervisor."""

    presence: Presence

    async def spawn(self, seat: "Seat") -> Child:
        """Start the process of a seat, with a fresh token that is good until `forget`."""

    async def probe(self, seat: "Seat") -> Child:
        """Start the command that says whether a seat is ready."""

    def forget(self, seat: "Seat") -> None:
        """End the token of a seat whose process is gone."""

    def tell(self, seat: "Seat") -> None:
        """Report a change of a seat."""

    def pause(self, seat: "Seat", status: int, ran: float) -> float | None:
        """Return the seconds until the next start of a seat, or None for never."""


class Seat:
    """One replica: at most one process at a time."""

    def __init__(self, house: House, service: str, replica: int, name: str, spec: Program, starts: int = 0) -> None:
        self.service, self.replica, self.name, self.spec = service, replica, name, spec
        self.app = spec.app or service
        self.lives = Lives(spec.restart)
        self.lives.starts = starts
        self.token = ""
        self.child: Child | None = None
        self.ready = False
        self.verdict: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Once known, why its first process did not become ready; empty when it did."""
        self._task: asyncio.Task[None] | None = None
        self._status: int | None = None
        self._message = ""
        self._since = clock.wall()
        self._house = house
        self._stopping = asyncio.Event()

    def __repr__(self) -> str:
        return f"Seat({self.name}, {self.lives.phase}, {'ready' if self.ready else 'not ready'})"

    @property
    def label(self) -> str:
        """Its service and replica, for people."""
        return f"{self.service}[{self.replica}]"

    @property
    def at_rest(self) -> bool:
        """Whether it has no process and will have none by itself."""
        return self.lives.phase in (Phase.ENDED, Phase.STOPPED)

    @property
    def live(self) -> bool:
        """Whether it has a process, or is about to."""
        return self.lives.phase in (Phase.STARTING, Phase.RUNNING)

    def standing(self) -> Standing:
        """Return how it is doing."""
        lives, pid = self.lives, self.child.pid if self.child else 0
        told = lives.phase, pid, lives.starts, self._status, self._message, self.ready, self._since
        return Standing(self.service, self.replica, *told)

    def begin(self) -> None:
        """Start its process, and again when it ends, until `retire` or `stop`."""
        self._task = asyncio.create_task(self._run(), name=f"supervise {self.name}")

    async def retire(self) -> int:
        """Have nothing new come to it, let calls end, stop it; return how many calls were lost."""
        self._stopping.set()
        left = 0
        if self.child is not None:
            self._turn(Phase.LEAVING)
            left = await self._house.presence.retire(self.child.pid, self.spec.grace)
        await self.stop(None)
        return left

    async def stop(self, grace: float | None) -> None:
        """Stop it: its stop signal, then KILL after `grace` seconds (None: what its service says)."""
        self._stopping.set()
        self._settle("was stopped")
        await self._stop_child(grace)
        if self._task is not None:
            await self._task
        self.lives.phase = Phase.STOPPED

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            began = loop.time()
            self._status = await self._live()
            self.ready = False
            if self._stopping.is_set():
                return
            pause = self._house.pause(self, self._status, loop.time() - began)
            self._settle(self._message or f"ended with {ended(self._status)}")
            self._turn(self.lives.phase)
            if pause is None or await self._stopped_within(pause):
                return
            self._turn(Phase.STARTING, quiet=True)

    async def _live(self) -> int:
        try:
            self.child = await self._house.spawn(self)
        except SpawnFailed as error:
            self._house.forget(self)
            self._message = str(error)
            return NOT_STARTED
        self.lives.started()
        self._message = ""
        self._turn(Phase.RUNNING)
        looking = asyncio.create_task(self._become_ready(self.child), name=f"ready? {self.name}")
        try:
            if self._stopping.is_set():
                await self._stop_child(None)
            return await self.child.wait()
        finally:
            looking.cancel()
            await asyncio.wait([looking])
            self._house.forget(self)

    # Whether it is ready.

    async def _become_ready(self, child: Child) -> None:
        try:
            async with asyncio.timeout(self.spec.ready_timeout):
                await self._until_ready(child)
        except TimeoutError:
            self._message = f"not ready after {self.spec.ready_timeout:g} s: {_lacking(self.spec)}"
            self._settle(self._message)
            self._house.tell(self)
            await self._until_ready(child)  # it may be late
        self.ready, self._message = True, ""
        self._settle("")
        self._house.tell(self)

    async def _until_ready(self, child: Child) -> None:
        if self.spec.ready.command is not None:
            while await self._asked() != 0:  # noqa: ASYNC110 - only the command knows
                await asyncio.sleep(ASK_AGAIN)
        elif self.spec.ready.when == "started":
            await asyncio.sleep(STEADY)
        else:
            while not self._house.presence.serves(child.pid):  # noqa: ASYNC110 - it is looked at only while it starts
                await asyncio.sleep(LOOK)

    async def _asked(self) -> int:
        try:
            asking = await self._house.probe(self)
        except SpawnFailed:
            return NOT_STARTED
        try:
            return await asking.wait()
        finally:
            asking.signal(signal.SIGKILL)

    def _settle(self, why: str) -> None:
        if not self.verdict.done():
            self.verdict.set_result(why)

    # Phases and ends.

    def _turn(self, phase: Phase, quiet: bool = False) -> None:
        self.lives.phase, self._since = phase, clock.wall()
        if not quiet:
            self._house.tell(self)

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _stop_child(self, grace: float | None) -> None:
        if self.child is not None:
            first = signal.Signals[self.spec.stop_signal]
            await self.child.stop(self.spec.grace if grace is None else grace, first)


def ended(status: int) -> str:
    """Return how a process ended, in words."""
    return f"signal {-status}" if status < 0 else f"status {status}"


def _lacking(spec: Program) -> str:
    if spec.ready.command is not None:
        return f"{' '.join(spec.ready.command)[:120]} does not exit with 0"
    return "it serves nothing; for what only calls others, write ready: started"
