"""What operators have an agent do with the services it runs, and with itself as a node: the verbs, by name.

Looking is answered at once. What changes something is a job: it is begun, and its progress is asked for with `job`. One
is done to a service at a time. Nothing is touched that this agent did not start.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from bus_mesh.agent.hosting import Hosting
from bus_mesh.agent.jobs import Jobs, Tell
from bus_mesh.agent.orders import Orders
from bus_mesh.agent.supervise import MOST_REPLICAS, Service, Supervisor
from bus_mesh.agent.tail import Cursor, since, tail
from bus_mesh.identity.certificate import May
from bus_mesh.protocol.errors import FailedPrecondition, InvalidArgument, Ran

__all__ = ["ServiceDesk"]

DRAIN_SECONDS: Final = 30.0
"""How long a node that is drained waits for calls to end before it says that some have not."""
LOOK: Final = 0.05
MOST_REPLY: Final = 256 * 1024
"""Bytes of log lines in one answer."""

Arguments = dict[str, Any]
Do = Callable[[Service, Tell], Awaitable[str]]


class ServiceDesk:
    """Carries out what operators ask of one agent's services. `orders` is told of it by `open`."""

    def __init__(self, supervisor: Supervisor, hosting: Hosting, jobs: Jobs) -> None:
        self._supervisor = supervisor
        self._hosting = hosting
        self._jobs = jobs

    def __repr__(self) -> str:
        return f"ServiceDesk({self._supervisor!r}, {self._jobs!r})"

    def open(self, orders: Orders) -> None:
        """Answer to its verbs from now on."""
        for looking in (self.services, self.logs, self.job):
            orders.on(looking.__name__, May.OBSERVE, looking)
        for changing in (self.start, self.stop, self.restart, self.scale, self.drain, self.undrain):
            orders.on(changing.__name__, May.SERVICES, changing)

    # Looking.

    async def services(self, arguments: Arguments) -> object:
        """Return every service that this agent runs, and how each replica is doing; of one `service` if it is named."""
        name = _text(arguments, "service", "")
        found = [self._supervisor.service(name)] if name else list(self._supervisor.services.values())
        return {
            "node": self._supervisor.place.node,
            "drained": self._hosting.drained,
            "services": [_row(service) for service in found],
        }

    async def logs(self, arguments: Arguments) -> object:
        """Return lines of a `service`, or of its `replica`: the last `lines`, or what came after `cursors`."""
        service = self._supervisor.service(_text(arguments, "service"))
        replica, lines = _number(arguments, "replica", None), _number(arguments, "lines", 100)
        cursors = arguments.get("cursors")
        if cursors is not None and not isinstance(cursors, dict):
            raise InvalidArgument("cursors are by replica, as the last answer gave them", ran=Ran.NO)
        wanted = [number for number in service.seats if replica is None or number == replica]
        if not wanted:
            raise _no_replica(service)
        return await asyncio.to_thread(self._read, service, wanted, cursors, lines or 0)

    def _read(self, service: Service, wanted: list[int], cursors: dict[str, Any] | None, lines: int) -> object:
        found: list[tuple[str, int, str]] = []
        following: dict[str, Any] = {}
        most = MOST_REPLY // len(wanted)
        for number in wanted:
            path = self._supervisor.log_of(service.seats[number])
            if path is None:
                continue
            before = None if cursors is None else _cursor(cursors.get(str(number)))
            said, cursor = tail(path, lines, most) if cursors is None else since(path, before, most)
            found += _dated(number, said)
            following[str(number)] = cursor
        found.sort(key=lambda one: one[0])
        return {"lines": [[number, line] for _, number, line in found], "cursors": following}

    async def job(self, arguments: Arguments) -> object:
        """Return how far a `job` is, from `cursor` on."""
        return self._jobs.look(_number(arguments, "job") or 0, _number(arguments, "cursor", 0) or 0)

    # Changing.

    async def start(self, arguments: Arguments) -> object:
        """Start what is stopped of a `service`."""
        return self._begin("start", arguments, self._supervisor.start_service)

    async def stop(self, arguments: Arguments) -> object:
        """Drain and stop a `service`."""
        return self._begin("stop", arguments, self._supervisor.stop_service)

    async def restart(self, arguments: Arguments) -> object:
        """Replace the replicas of a `service`, or one `replica`, without a lost call."""
        replica = _number(arguments, "replica", None)
        service = self._supervisor.service(_text(arguments, "service"))
        if replica is not None and replica not in service.seats:
            raise _no_replica(service)
        return self._begin("restart", arguments, lambda one, tell: self._supervisor.restart(one, replica, tell))

    async def scale(self, arguments: Arguments) -> object:
        """Have so many `replicas` of a `service` run."""
        replicas = _number(arguments, "replicas") or 0
        if not 0 <= replicas <= MOST_REPLICAS:
            raise InvalidArgument(f"{replicas} replicas are not within 0 and {MOST_REPLICAS}", ran=Ran.NO)
        return self._begin("scale", arguments, lambda one, tell: self._supervisor.scale(one, replicas, tell))

    async def drain(self, _: Arguments) -> object:
        """Take all instances of this node out of their groups, and those that come; the agent stays."""
        return {"job": self._jobs.begin("drain", self._drain)}

    async def undrain(self, _: Arguments) -> object:
        """Have this node's instances join their groups again."""
        return {"job": self._jobs.begin("undrain", self._undrain)}

    async def _drain(self, tell: Tell) -> str:
        leaving = await self._hosting.drain()
        tell(f"{len(leaving)} instances have left their groups")
        loop = asyncio.get_running_loop()
        end = loop.time() + DRAIN_SECONDS
        while (left := self._hosting.inflight) and loop.time() < end:  # noqa: ASYNC110 - looking costs calls nothing
            await asyncio.sleep(LOOK)
        node = self._supervisor.place.node
        if left:
            raise FailedPrecondition(f"{node} is drained, and {left} calls still run after {DRAIN_SECONDS:g} s")
        return f"{node} is drained until `busmesh undrain {node}`, or until its agent starts anew"

    async def _undrain(self, tell: Tell) -> str:
        coming = await self._hosting.undrain()
        tell(f"{len(coming)} instances have joined their groups")
        return f"{self._supervisor.place.node} takes calls"

    def _begin(self, verb: str, arguments: Arguments, do: Do) -> object:
        service = self._supervisor.service(_text(arguments, "service"))
        if service.busy:
            raise FailedPrecondition(f"{service.name}: a {service.busy} goes on, wait for its end", ran=Ran.NO)
        service.busy = verb

        async def work(tell: Tell) -> str:
            try:
                return await do(service, tell)
            finally:
                service.busy = ""

        return {"job": self._jobs.begin(f"{verb} {service.name}", work)}


def _dated(replica: int, lines: list[str]) -> list[tuple[str, int, str]]:
    """Return each line with the time that it begins with; what goes on from a file before has that of the next."""
    dated, time = [], ""
    for line in reversed(lines):
        time = line[:24] if line[23:24] == "Z" else time
        dated.append((time, replica, line))
    return dated[::-1]


def _row(service: Service) -> dict[str, Any]:
    seats = [*(service.seats[number] for number in sorted(service.seats)), *service.others]
    replicas = [{**seat.standing()._asdict(), "phase": str(seat.lives.phase)} for seat in seats]
    for row in replicas:
        del row["service"]
    return {
        "service": service.name,
        "app": service.spec.app or service.name,
        "configured": service.spec.replicas,
        "busy": service.busy,
        "replicas": replicas,
    }


def _no_replica(service: Service) -> InvalidArgument:
    known = ", ".join(map(str, sorted(service.seats))) or "none"
    return InvalidArgument(f"{service.name} has no such replica here; there is {known}", ran=Ran.NO)


def _text(arguments: Arguments, name: str, default: str | None = None) -> str:
    found = arguments.get(name, default)
    if not isinstance(found, str):
        raise InvalidArgument(f"{name} must be text", ran=Ran.NO)
    return found


def _number(arguments: Arguments, name: str, default: int | None = -1) -> int | None:
    found = arguments.get(name, default)
    if found is None and default is None:
        return None
    if type(found) is not int or (name not in arguments and default == -1):
        raise InvalidArgument(f"{name} must be a whole number", ran=Ran.NO)
    return found


def _cursor(given: object) -> Cursor | None:
    if given is None:
        return None
    if not isinstance(given, list | tuple) or len(given) != 3 or any(type(part) is not int for part in given):
        raise InvalidArgument("a cursor is what the last answer gave", ran=Ran.NO)
    return Cursor(*given)
