"""The services that an agent runs itself: started, watched, started again, replaced, stopped.

Each process is a child of the keeper, so none outlives the agent. Each gets a token of its own by an inherited
descriptor: it proves at HELLO that the session belongs to the process that was started, for as long as that lives.
What operators change here lasts until the agent ends: node.yaml is what it starts with.
"""

import asyncio
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final, NamedTuple

from bus_mesh.agent.presence import ALONE, Presence, descends, parent_of
from bus_mesh.agent.seat import NOT_STARTED, Seat, Standing
from bus_mesh.config import Program
from bus_mesh.process.kept import Child, Keeper
from bus_mesh.protocol.errors import FailedPrecondition, MeshError, NotFound, Ran

__all__ = ["MOST_REPLICAS", "NOT_STARTED", "Place", "Service", "Standing", "Supervisor", "Tell"]

MOST_REPLICAS: Final = 64

Tell = Callable[[str], None]
"""Takes a line of progress."""


class Place(NamedTuple):
    """Where the processes find their agent, and where what they print goes (None: the agent's stderr).

    With `stamp` lines get their time.
    """

    socket: Path
    node: str
    logs: Path | None = None
    stamp: bool = False


class Service:
    """One entry of `services:`. `others` are seats that are coming, or going; `busy` says what is done to it."""

    def __init__(self, name: str, spec: Program) -> None:
        self.name, self.spec = name, spec
        self.seats: dict[int, Seat] = {}
        self.others: set[Seat] = set()
        self.busy = ""
        self.lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"Service({self.name}, {list(self.seats.values())})"

    @property
    def all(self) -> list[Seat]:
        """Every seat that may have a process."""
        return [*self.seats.values(), *self.others]


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
        self.presence: Presence = ALONE
        self.services: dict[str, Service] = {}
        self.place = place
        self._keeper, self._jitter, self._changed = keeper, jitter, changed
        self._tokens: dict[str, Seat] = {}
        self._over = False

    def __repr__(self) -> str:
        return f"Supervisor({', '.join(f'{seat.name}: {seat.lives.phase}' for seat in self._seats)})"

    @property
    def _seats(self) -> list[Seat]:
        return [seat for service in self.services.values() for seat in service.all]

    # Of the agent: all of them.

    def start(self, services: Mapping[str, Program]) -> None:
        """Start every replica of every service; returns at once."""
        if self._over:
            return
        if self.place.logs is not None:
            self.place.logs.mkdir(parents=True, exist_ok=True)
        for name, spec in services.items():
            service = self.services[name] = Service(name, spec)
            for replica in range(spec.replicas):
                self._begin(service, replica)

    async def stop(self, grace: float | None = None) -> None:
        """Stop all: each its stop signal, then KILL after `grace` seconds (None: what its service says)."""
        self._over = True
        seats, self.services = self._seats, {}
        await asyncio.gather(*(seat.stop(grace) for seat in reversed(seats)))

    async def take_up(self, old: Mapping[str, Program], new: Mapping[str, Program], tell: Tell) -> None:
        """Take up what differs in node.yaml: services that came, went, or have other replicas; say what is left."""
        for name in sorted(old.keys() - new.keys() & self.services.keys()):
            service = self.services[name]
            async with service.lock:
                await self._retire(service, list(service.seats), lambda line: None)
                self.services.pop(name, None)
            tell(f"{name}: stopped, node.yaml has it no more")
        for name in sorted(new.keys() - old.keys()):
            self.start({name: new[name]})
            tell(f"{name}: started, it is new in node.yaml")
        for name in sorted(old.keys() & new.keys() & self.services.keys()):
            if old[name] != new[name]:
                try:
                    await self._take_up_one(self.services[name], old[name], new[name], tell)
                except MeshError as error:
                    tell(error.message)

    async def _take_up_one(self, service: Service, old: Program, new: Program, tell: Tell) -> None:
        async with service.lock:
            service.spec = new
            if old.replicas != new.replicas:
                await self._scale(service, new.replicas, lambda line: None)
                tell(f"{service.name}: {new.replicas} replicas, as node.yaml has it")
        if old.model_copy(update={"replicas": new.replicas}) != new:
            again = f"busmesh service restart {service.name} --node {self.place.node}"
            tell(f"{service.name}: changed in node.yaml, which its next start takes up: {again}")

    @property
    def standings(self) -> list[Standing]:
        """How each process is doing."""
        return [seat.standing() for seat in self._seats]

    @property
    def pids(self) -> dict[int, str]:
        """The app of each process that runs now, by process id."""
        return {seat.child.pid: seat.app for seat in self._seats if seat.child is not None}

    # Of operators: one of them.

    def service(self, name: str) -> Service:
        """Return a service; raise NotFound, asking whether another was meant."""
        found = self.services.get(name)
        if found is None:
            near = get_close_matches(name, self.services, n=1, cutoff=0.5)
            known = ", ".join(sorted(self.services)[:12]) or "none"
            hint = f"did you mean {near[0]}?" if near else f"node.yaml of {self.place.node} has {known}"
            raise NotFound(f"{name[:80]!r} is not run by the agent of {self.place.node}: {hint}", ran=Ran.NO)
        return found

    async def start_service(self, service: Service, tell: Tell) -> str:
        """Start the replicas that have no process; all that node.yaml names where there are none at all."""
        wanted = sorted(service.seats) or list(range(max(1, service.spec.replicas)))
        async with service.lock:
            return await self._fill(service, wanted, tell) or f"{service.name} runs already"

    async def stop_service(self, service: Service, tell: Tell) -> str:
        """Drain and stop every replica, until somebody starts it or the agent starts anew."""
        async with service.lock:
            running = [number for number, seat in service.seats.items() if not seat.at_rest]
            await self._retire(service, running, tell)
            return f"{len(running)} of {service.name} stopped" if running else f"{service.name} is stopped already"

    async def scale(self, service: Service, replicas: int, tell: Tell) -> str:
        """Have so many replicas run, 0 to MOST_REPLICAS, until the agent starts anew."""
        async with service.lock:
            return await self._scale(service, replicas, tell)

    async def restart(self, service: Service, replica: int | None, tell: Tell) -> str:
        """Replace one replica or all, one after the other: each successor is ready before what it replaces leaves."""
        async with service.lock:
            numbers = sorted(service.seats) if replica is None else [replica]
            if not numbers:
                raise FailedPrecondition(f"{service.name} has no replica to restart: scale it first", ran=Ran.NO)
            for number in numbers:
                await self._replace(service, number, tell)
            return f"{len(numbers)} of {service.name} restarted"

    async def _scale(self, service: Service, replicas: int, tell: Tell) -> str:
        before = len(service.seats)
        more = await self._fill(service, range(replicas), tell)
        going = [number for number in service.seats if number >= replicas]
        await self._retire(service, going, tell)
        for number in going:
            del service.seats[number]
        changed = more or going
        return f"{service.name} has {replicas} replicas, before {before}" if changed else f"{replicas} run already"

    async def _fill(self, service: Service, wanted: Iterable[int], tell: Tell) -> str:
        """Start those of `wanted` that do not run, together; return what was done, raise when one is not ready."""
        seats = []
        for number in wanted:
            old = service.seats.get(number)
            if old is None or not old.live:
                if old is not None:
                    await old.stop(None)
                seats.append(self._begin(service, number, old.lives.starts if old else 0))
                tell(f"{seats[-1].label}: starting")
        for seat in seats:
            if why := await seat.verdict:
                raise FailedPrecondition(f"{seat.label} {why}: see `busmesh service logs {service.name}`", ran=Ran.YES)
            tell(f"{seat.label}: ready, process {seat.standing().pid}")
        return f"{len(seats)} of {service.name} started" if seats else ""

    async def _replace(self, service: Service, number: int, tell: Tell) -> None:
        old = service.seats[number]
        new = self._make(service, number, old.lives.starts)
        service.others.add(new)
        new.begin()
        tell(f"{new.label}: starting its successor")
        try:
            if why := await new.verdict:
                text = f"the successor of {new.label} {why}; what ran before is left as it was"
                raise FailedPrecondition(f"{text}: see `busmesh service logs {service.name}`", ran=Ran.NO)
        except BaseException:
            await new.stop(None)
            service.others.discard(new)
            raise
        service.seats[number] = new
        service.others.discard(new)
        service.others.add(old)
        tell(f"{new.label}: process {new.standing().pid} is ready, {old.standing().pid or 'nothing'} leaves")
        await self._see_off(old, tell)
        service.others.discard(old)

    async def _retire(self, service: Service, numbers: list[int], tell: Tell) -> None:
        await asyncio.gather(*(self._see_off(service.seats[number], tell) for number in numbers))

    async def _see_off(self, seat: Seat, tell: Tell) -> None:
        left = await seat.retire()
        lost = f", with {left} calls that did not end in {seat.spec.grace:g} s" if left else ""
        tell(f"{seat.label}: stopped{lost}")

    def _make(self, service: Service, replica: int, starts: int = 0) -> Seat:
        if self._over:
            raise FailedPrecondition("the agent is leaving", ran=Ran.NO)
        name = f"{service.name}.{replica}" if service.spec.replicas > 1 or replica else service.name
        return Seat(self, service.name, replica, name, service.spec, starts)

    def _begin(self, service: Service, replica: int, starts: int = 0) -> Seat:
        seat = service.seats[replica] = self._make(service, replica, starts)
        seat.begin()
        return seat

    # Of apps.

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

    # Of seats.

    async def spawn(self, seat: Seat) -> Child:
        """Start the process of a seat, with a fresh token that is good until `forget`."""
        seat.token = secrets.token_hex(16)
        self._tokens[seat.token] = seat
        return await self._spawn(seat, seat.spec.command, seat.token)

    async def probe(self, seat: Seat) -> Child:
        """Start the command that says whether a seat is ready: like its process, but with no token."""
        return await self._spawn(seat, seat.spec.ready.command or (), None)

    async def _spawn(self, seat: Seat, command: tuple[str, ...], token: str | None) -> Child:
        spec, place = seat.spec, self.place
        return await self._keeper.spawn(
            command,
            env={**_inherited(), **spec.env, **_own(place, seat.app)},
            cwd=str(spec.cwd) if spec.cwd else None,
            user=spec.user,
            log=self.log_of(seat),
            stamp=place.stamp,
            token=token,
            limits=spec.limits.given,
        )

    def log_of(self, seat: Seat) -> Path | None:
        """Return where what a seat's processes print goes."""
        return self.place.logs / f"{seat.name}.log" if self.place.logs else None

    def forget(self, seat: Seat) -> None:
        """End the token of a seat whose process is gone."""
        self._tokens.pop(seat.token, None)
        seat.child = None

    def tell(self, seat: Seat) -> None:
        """Report a change of a seat."""
        self._changed(seat.standing())

    def pause(self, seat: Seat, status: int, ran: float) -> float | None:
        """Return the seconds until the next start of a seat, or None for never."""
        return seat.lives.exited(status, ran, self._jitter())


def _inherited() -> dict[str, str]:
    """Return this process's environment without what speaks of its own agent."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BUSMESH_")}


def _own(place: Place, app: str) -> dict[str, str]:
    return {"BUSMESH_SOCKET": str(place.socket), "BUSMESH_NODE": place.node, "BUSMESH_APP": app}
