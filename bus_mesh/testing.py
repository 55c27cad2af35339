"""A whole mesh in one process, for tests: real agents, keys and policy, a bus in memory, a clock that stands still.

    with ManualClock() as clock:
        mesh = MemoryMesh(clock)
        node = await mesh.start("node-a", serve=["orders"], call_as=["orders"])
        await clock.advance(2.0)
        await mesh.close()

No broker, no socket, no thread. What apps connect to is `bus_mesh_sdk.testing.MeshTest`, built on this.
"""

import asyncio
import contextvars
import heapq
import itertools
import json
import os
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from bus_mesh import __version__, clock
from bus_mesh.agent.apps import Apps, Peer
from bus_mesh.agent.node import Node
from bus_mesh.agent.world import Setting, World
from bus_mesh.bus.memory import MemoryBroker, MemoryBus
from bus_mesh.identity.certificate import Role, certify_node, delegate
from bus_mesh.identity.keyring import Now, own_identity
from bus_mesh.identity.keys import NodeKey
from bus_mesh.policy.bundle import NO_POLICY, PolicySet
from bus_mesh.policy.load import parse
from bus_mesh.protocol import micro
from bus_mesh.protocol.errors import Code, MeshError
from bus_mesh.telemetry.metrics import Metrics

__all__ = ["ROUNDING", "ManualClock", "MemoryMesh", "Pipe", "PlainService"]

ROUNDING: Final = 0.011
"""Seconds that `advance` goes further than it was told: agents and the SDK round each deadline up by 10 ms at most."""
_TURNS: Final = 100_000
_YEARS_US: Final = 100 * 365 * 86_400 * 1_000_000

P = TypeVar("P", bound=asyncio.Protocol)
R = TypeVar("R")


class ManualClock:
    """The time of the running loop, in the test's hands: `with ManualClock() as clock:`.

    Inside, `loop.time()` stands still and no timer fires (`asyncio.sleep`, `asyncio.timeout` and all that agents do by
    the clock included) until `advance` or `through` moves it. What needs no time, calls among them, runs as ever.
    Threads and sockets are outside of its power. Works with asyncio's loops and uvloop's; one to a loop at a time.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time()
        self._began = self._now
        self._wall_us = clock.wall_us()
        self._numbers = itertools.count()
        self._timers: list[tuple[float, int, _Timer]] = []
        self._call_soon = self._loop.call_soon
        self._soon = 0
        self._settling = 0

    def __repr__(self) -> str:
        return f"ManualClock({self._now - self._began:.3f}s in, timers={len(self._timers)})"

    def __enter__(self) -> Self:
        if isinstance(getattr(self._loop.time, "__self__", None), ManualClock):
            raise RuntimeError("this loop's time is in the hands of another ManualClock (or MeshTest): use that one")
        vars(self._loop).update(
            time=self.time, call_at=self._call_at, call_later=self._call_later, call_soon=self._counted
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in ("time", "call_at", "call_later", "call_soon"):
            vars(self._loop).pop(name, None)
        for when, _, timer in sorted(self._timers):
            if not timer.cancelled():  # somebody still sleeps: from here on by the real time
                self._loop.call_later(max(0.0, when - self._now), timer.ring, context=timer.variables)

    def time(self) -> float:
        """Monotonic seconds, as `loop.time()` tells them."""
        return self._now

    def now(self) -> Now:
        """Return all three clocks of an agent: they move together."""
        passed_us = round((self._now - self._began) * 1e6)
        return Now(self._now, 1_000_000_000 + passed_us, self._wall_us + passed_us)

    async def advance(self, seconds: float) -> None:
        """Let `seconds` (and `ROUNDING`) pass: every timer fires at its time, and what it sets off comes to rest."""
        if seconds < 0:
            raise ValueError(f"time does not go back: advance({seconds})")
        target = self._now + seconds + ROUNDING
        await self.settle()
        while (due := self._next()) is not None and due <= target:
            self._move(due)
            await self.settle()
        self._move(target)
        await self.settle()

    async def settle(self) -> None:
        """Let everything run that can without time passing."""
        self._settling += 1
        try:
            for _ in range(_TURNS):
                before = self._soon
                await asyncio.sleep(0)
                if self._soon - before <= self._settling:  # in the next turn only those who settle have anything to do
                    return
        finally:
            self._settling -= 1
        raise RuntimeError(f"after {_TURNS} turns of the loop something still runs: is there a loop that never waits?")

    async def through(self, work: Coroutine[Any, Any, R], longest: float = 120.0) -> R:
        """Return what `work` returns, letting as much time pass as it needs, `longest` seconds at most."""
        task = self._loop.create_task(work)
        try:
            end = self._now + longest
            await self.settle()
            while not task.done() and (due := self._next()) is not None and due <= end:
                self._move(due)
                await self.settle()
            return await task
        finally:
            task.cancel()

    def _next(self) -> float | None:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def _move(self, to: float) -> None:
        self._now = max(self._now, to)
        while self._timers and self._timers[0][0] <= self._now:
            timer = heapq.heappop(self._timers)[2]
            self._counted(timer.ring, context=timer.variables)

    def _counted(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        self._soon += 1
        return self._call_soon(callback, *args, context=context)

    def _call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self._loop, context or contextvars.copy_context())
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def _call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self._call_at(self._now + delay, callback, *args, context=context)


class _Timer(asyncio.TimerHandle):
    """A timer of a ManualClock; the loop does not know of it."""

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        variables: contextvars.Context,
    ) -> None:
        super().__init__(when, callback, args, loop, variables)
        self.variables = variables
        self._what = callback
        self._with = args

    def cancel(self) -> None:
        """Never fire. (A TimerHandle's own would report to the loop.)"""
        asyncio.Handle.cancel(self)

    def ring(self) -> None:
        """Fire, unless it was cancelled meanwhile."""
        if not self.cancelled():
            self._what(*self._with)


class Pipe(asyncio.Transport):
    """One end of a connection within the process; what is written arrives at the other end in the next turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._unread: list[bytes] = []
        self._closing = False
        self._peer = self

    @classmethod
    def join(cls, loop: asyncio.AbstractEventLoop, one: asyncio.Protocol, other: asyncio.Protocol) -> None:
        """Connect two protocols with each other."""
        ends = cls(loop, one), cls(loop, other)
        ends[0]._peer, ends[1]._peer = ends[1], ends[0]
        for end in ends:
            end._protocol.connection_made(end)

    def __repr__(self) -> str:
        return f"Pipe({self._protocol!r}, {'closing' if self._closing else 'open'}, unread={len(self._unread)})"

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Hand bytes to the other end, all of one turn at once."""
        if self._closing or not data:
            return
        if not self._unread:
            self._loop.call_soon(self._deliver)
        self._unread.append(bytes(data))

    def close(self) -> None:
        """Deliver what was written, then hang up."""
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._end)

    def abort(self) -> None:
        """Hang up at once."""
        self._unread.clear()
        self.close()

    def is_closing(self) -> bool:
        """Whether nothing more is taken."""
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing to set: the other end takes all."""

    def get_write_buffer_size(self) -> int:
        """Bytes that the other end has not been given yet."""
        return sum(map(len, self._unread))

    def _deliver(self) -> None:
        data = b"".join(self._unread)
        self._unread.clear()
        if data and not self._peer._closing:
            self._peer._protocol.data_received(data)

    def _end(self) -> None:
        self._protocol.connection_lost(None)
        self._peer.close()


class MemoryMesh:
    """Agents of one mesh on one broker in memory. Keys and all draws follow from `seed`: every run is the same."""

    def __init__(self, clock: ManualClock, name: str = "test", seed: int = 7) -> None:
        self.clock = clock
        self.name = name
        self.nodes: dict[str, Node] = {}
        self._rng = random.Random(seed)
        self.broker = MemoryBroker(self._rng.randrange)
        self._root, self._issuer = self._key(), self._key()
        now_us = clock.now().wall_us
        self._valid = now_us - 60_000_000, now_us + _YEARS_US
        self._delegation = delegate(
            self._root,
            name,
            Role.ISSUER,
            self._issuer.public,
            term=1,
            not_before_us=self._valid[0],
            not_after_us=self._valid[1],
        )
        self._policy = NO_POLICY
        self._reaches_plain = False

    def __repr__(self) -> str:
        return f"MemoryMesh({self.name}, nodes={sorted(self.nodes)}, {self._policy!r})"

    async def start(
        self, node: str, serve: Iterable[str] = (), call_as: Iterable[str] = (), labels: Mapping[str, str] | None = None
    ) -> Node:
        """Certify a node for the services it may serve and the apps it may call as, and start its agent."""
        key = self._key()
        chain = certify_node(
            self._issuer,
            self._delegation,
            mesh=self.name,
            node=node,
            key=key.public,
            serve=serve,
            call_as=call_as,
            serial=f"{node}-1",
            not_before_us=self._valid[0],
            not_after_us=self._valid[1],
        )
        own = own_identity(key, chain, self.name, self._root.public, self.clock.now().wall_us)
        granted = own.certificate.serve | own.certificate.call_as
        apps = Apps({}, granted, os.getuid(), int, int, lambda token, pid: None)
        # No jitter: a retry's pause then takes no time, so a call comes to its end while the clock stands still.
        world = World(self.clock.now, self.clock.time, self._rng.randbytes, self._rng.randrange, lambda: 0.0)
        setting = Setting(dict(labels or {}), 3600.0, None, os.getuid())
        made = Node(own, self.broker.connect(), apps, world, setting, Metrics(__version__))
        made.enforce(self._policy)
        await made.start()
        self.nodes[node] = made
        if self._reaches_plain:
            await self._reach(made)
        return made

    async def serve_plain(self, name: str, endpoints: Iterable[str], answer: Callable[[str, Any], Any]) -> None:
        """Serve a plain service of NATS, and give every node a way there, as `micro` in node.yaml does."""
        await PlainService(self.broker.connect(), name, endpoints, answer).start()
        self._reaches_plain = True
        for node in self.nodes.values():
            await self._reach(node)

    def connect(self, node: Node, app: P) -> P:
        """Connect an app's end of the local protocol to a node's agent, and return it."""
        session = node.session(lambda transport: Peer(os.getpid(), os.getuid(), frozenset(), None))
        Pipe.join(asyncio.get_running_loop(), session, app)
        return app

    def enforce(self, text: str) -> None:
        """Put the policy documents of a YAML text into force on every node; PolicyError for what is wrong in them."""
        self._policy = PolicySet.of(parse(text, "policy"), self._policy.number + 1)
        for node in self.nodes.values():
            node.enforce(self._policy)

    async def close(self) -> None:
        """End every agent, the last one started first; their buses go with the broker."""
        for node in reversed(self.nodes.values()):
            await node.stop()
        self.nodes = {}

    async def _reach(self, node: Node) -> None:
        if node.outbound.outward is None:
            await node.reach(self.broker.connect(), f"_INBOX.{node.own.node}", self._rng.randbytes, lambda: 0)

    def _key(self) -> NodeKey:
        return NodeKey.generate(self._rng.randbytes)


class PlainService:
    """A plain service of NATS (ADR-32), which knows no mesh: its endpoints take JSON and answer JSON.

    `answer(endpoint, value)` returns what is answered, or raises; a MeshError's code becomes a status of HTTP.
    """

    def __init__(self, bus: MemoryBus, name: str, endpoints: Iterable[str], answer: Callable[[str, Any], Any]) -> None:
        self._bus = bus
        self._served = micro.Served(name, "plain-1", "1.0.0", {}, 0, f"{name}.", micro.counts(endpoints))
        self._answer = answer

    def __repr__(self) -> str:
        return f"PlainService({self._served.service}, endpoints={list(self._served.endpoints)})"

    async def start(self) -> None:
        """Begin to answer."""
        name = self._served.service
        await self._bus.subscribe(f"$SRV.INFO.{name}", self._on_info)
        await self._bus.subscribe(f"{name}.*", self._on_call, name)

    def _on_info(self, subject: str, reply: str, data: bytes, status: int) -> None:
        self._bus.publish(reply, micro.said("INFO", self._served))

    def _on_call(self, subject: str, reply: str, data: bytes, status: int) -> None:
        headers, answer = {}, b""
        try:
            answer = json.dumps(self._answer(subject.rpartition(".")[2], json.loads(data))).encode()
        except MeshError as error:
            headers = micro.failure(error.code, error.message)
        except Exception as error:  # as services of NATS do, whatever goes wrong in them
            headers = micro.failure(Code.INTERNAL, f"{type(error).__name__}: {error}")
        self._bus.publish_headed(reply, headers, answer)
