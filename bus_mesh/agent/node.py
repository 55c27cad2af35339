"""One agent, put together: what it knows, both directions of calls, and the seconds' work that keeps it right.

Knows no file and no signal (`run` does), and no real socket: `testing` runs several of these in one process.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from bus_mesh.agent.announce import BEAT, Announcer
from bus_mesh.agent.apps import Apps, Peer
from bus_mesh.agent.compiler import Compiler
from bus_mesh.agent.console import Console
from bus_mesh.agent.control import Control
from bus_mesh.agent.counted import answer_observers
from bus_mesh.agent.denials import Denials
from bus_mesh.agent.groups import SETTLE, Groups
from bus_mesh.agent.health import Checkups
from bus_mesh.agent.hosting import LOOK, Hosting
from bus_mesh.agent.inbound import Inbound, Instance, PlainCaller
from bus_mesh.agent.local import Door
from bus_mesh.agent.micro import Micro
from bus_mesh.agent.orders import Orders
from bus_mesh.agent.outbound import Outbound
from bus_mesh.agent.outbox import Outbox
from bus_mesh.agent.outward import Outward
from bus_mesh.agent.parts import Luck
from bus_mesh.agent.probe import EVERY, Prober
from bus_mesh.agent.receive import Receiver
from bus_mesh.agent.requests import Requests
from bus_mesh.agent.session import CALLS_PER_SESSION, LocalSession
from bus_mesh.agent.standing import Standing
from bus_mesh.agent.status import status_of
from bus_mesh.agent.watch import Watch
from bus_mesh.agent.world import Setting, World
from bus_mesh.balance.directory import Directory
from bus_mesh.bus.contract import Bus, BusState
from bus_mesh.gates.gate import Flight
from bus_mesh.gates.trace import Tracing
from bus_mesh.identity.announcement import Announcement
from bus_mesh.identity.certificate import NodeCertificate
from bus_mesh.identity.keyring import Keyring, Own, Untrusted
from bus_mesh.identity.keyring import Peer as Sender
from bus_mesh.policy.access import Access
from bus_mesh.policy.bundle import PolicySet
from bus_mesh.policy.follow import Freshness
from bus_mesh.protocol.errors import MeshError
from bus_mesh.protocol.frames import FRAME_LIMIT, HEAD_LIMIT, Call, Kind, Serve, Welcome, Withdraw
from bus_mesh.protocol.session import PROTOCOL_VERSION
from bus_mesh.protocol.subjects import Subjects
from bus_mesh.protocol.wheel import Wheel
from bus_mesh.resilience.usual import Usual
from bus_mesh.telemetry.log import Limited, get_logger
from bus_mesh.telemetry.metrics import Metrics

HEAR_SECONDS: Final = 5.0
"""How long apps may take to say that they have heard that their agent leaves."""
SWEEP: Final = 1.0
"""Seconds between looks at leases and keys."""


class Node:
    """One agent. `start`, then `listen` wherever apps come from, then `drain` and `stop`."""

    def __init__(self, own: Own, bus: Bus, apps: Apps, world: World, setting: Setting, metrics: Metrics) -> None:
        loop = asyncio.get_running_loop()
        self.own = own
        self.bus = bus
        self.apps = apps
        self.metrics = metrics
        self.door = Door()
        self.draining = False
        self.barred: MeshError | None = None
        """Why this node neither serves nor calls any more, once it is revoked."""
        self._setting = setting
        self._jitter = world.jitter
        self._loop = loop
        self._clock = world.clock
        self.now: Final[Callable[[], float]] = world.monotonic
        """Monotonic seconds."""
        self.freshness: Callable[[], Freshness] = lambda: (
            Freshness.NOTHING if self._compiler.policy.empty else Freshness.FRESH
        )
        """How sure it is that the policy in force is the newest."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = get_logger("agent")
        self._limited = Limited(self._log)
        self.denials = Denials(metrics, self._limited)
        self.every_second: list[Callable[[], None]] = []
        self._usual = Usual()
        self.subjects = Subjects(own.mesh)
        boot = world.entropy(8).hex()
        self.keyring = Keyring(
            own,
            boot,
            world.entropy,
            world.clock(),
            rotate_every=setting.rotate_every,
            boot_started_us=setting.boot_started_us,
        )
        self._join_up(world)
        self._attend(world)

    def _attend(self, world: World) -> None:
        """Make what apps, the policy agent and people are answered by."""
        own, bus, changed = self.own, self.bus, self.announcer.changed
        told = self.now, self.spawn, self.metrics, self._limited
        groups = Groups(bus, self.subjects, self.receiver, changed, *told)
        checkups = Checkups(lambda service: self._compiler.policy.health(service), groups.checked, self.now)
        serving = self.subjects, self.watch, self.announcer, groups, checkups
        labels, spawn = self._setting.labels, self.spawn
        wall_us = lambda: world.clock().wall_us  # noqa: E731
        self.hosting = Hosting(bus, *serving, lambda: f"{own.node}-{world.entropy(4).hex()}", labels, spawn, wall_us)
        exposed = lambda service, method: self._compiler.policy.exposed(service, method)  # noqa: E731
        plain = bus, self.subjects, self.hosting.instances, self.inbound
        self.micro = Micro(own.node, *plain, exposed, self.now, self._dropped)
        self.receiver.plain = self.micro.on_plain
        self.inbound.refused, self.inbound.stray = groups.refused, (checkups.answered,)
        self.requests = Requests(own.node, self.keyring, bus, world.clock)
        self.control = Control(own.node, self.keyring, bus, self.subjects, self.requests)
        self.orders = Orders(self.keyring, bus, self.outbox, world.clock, self.spawn, self._dropped)
        self.outbound.stray = self.requests.answered
        self.looks = answer_observers(self, self._compiler, wall_us)
        self._console = Console(self, self.watch, self._compiler, wall_us, self._certificate, self.spawn)

    def _join_up(self, world: World) -> None:
        """Make what knows who is there and both directions of calls, and tell each of the others."""
        own, bus, metrics, soon = self.own, self.bus, self.metrics, self._loop.call_soon
        self.directory: Directory[Sender] = Directory(world.draw)
        heard = self._clock, self.spawn, self._changed, self._distrust
        self.watch = Watch(own.node, self.keyring, bus, self.subjects, self.directory, *heard)
        self._compiler = self._new_compiler(world)
        self.wheel: Wheel[Flight] = Wheel(self._arm)
        self._timer: asyncio.TimerHandle | None = None
        self.outbox = Outbox(self.keyring, bus, self.subjects, own.node, soon, self._clock, self.now)
        standing = Standing(
            lambda: self.own.certificate, lambda: self._clock().wall_us, lambda: self.outbound.recompile()
        )
        self.every_second.append(standing.look)
        self.outbound = Outbound(
            self.wheel,
            self.outbox,
            self.directory,
            self._compiler.route,
            self._compiler.copy,
            standing.unfit,
            self._usual,
            metrics.attempts.add,
            lambda result: metrics.count("mirrored", result),
            CALLS_PER_SESSION,
        )
        self.inbound = Inbound(self.wheel, self.outbox, self._compiler.inbound, CALLS_PER_SESSION)
        self.announcer = Announcer(own.node, self.keyring, bus, self.subjects, self.watch, self._clock, soon)
        self.receiver = Receiver(
            self.keyring,
            bus,
            self.subjects,
            self.outbox,
            self.watch,
            self.outbound,
            self.inbound,
            self.announcer.instances,
            self._clock,
            self._dropped,
        )
        self.prober = Prober(own.node, self.keyring, bus, self.subjects, self.watch, self._usual, self.outbound.dead)
        self.receiver.probed = self.prober.answered

    def _new_compiler(self, world: World) -> Compiler:
        return Compiler(
            self.metrics,
            self.denials,
            self.directory,
            self.watch.ask,
            Luck(world.draw, world.jitter, world.jitter),
            lambda: self._clock().wall_us / 1e6,
            self._setting.labels,
            self._full,
            lambda call, to: self.outbound.copies.want(call, to),
        )

    def __repr__(self) -> str:
        return f"Node({self.own.node}, {self.bus.state.value}, {self.door!r}, {self.outbound!r}, {self.inbound!r})"

    # Its life.

    async def start(self) -> None:
        """Listen on the bus, and begin to announce."""
        inbox = self.subjects.inbox(self.own.node, self.keyring.boot)
        self.announcer.announce()
        await self.bus.subscribe(inbox, self.receiver.on_inbox)
        await self.bus.subscribe(self.subjects.none_of(self.own.node, self.keyring.boot), self.receiver.on_none)
        await self.bus.subscribe(self.subjects.find_of("_"), self.watch.on_find)
        await self.bus.subscribe(self.subjects.command(self.own.node), self.orders.on_command)
        await self.micro.start()
        self.bus.on_state(self._bus_changed)
        self.spawn(self._beat())
        self.spawn(self._sweep())

    async def drain(self, patience: float) -> None:
        """Leave without losing a call: tell apps and callers, finish what runs, `patience` seconds at most."""
        self.draining = True
        self.outbound.leave()
        for session in self.door.sessions:
            session.drain()
        await self.hosting.leave_all()
        await self._quiet(self._loop.time() + patience)
        self.announcer.withdraw()
        for session in list(self.door.sessions):
            session.close()

    async def _quiet(self, end: float) -> None:
        """Return once all calls are answered, apps know that we leave, and no call has come for a while from others."""
        came, since, heard_by = -1, 0.0, self._loop.time() + HEAR_SECONDS
        while (now := self._loop.time()) < end:
            busy = self.inbound.calls or not all(session.idle for session in self.door.sessions)
            unheard = now < heard_by and any(session.app and not session.heard for session in self.door.sessions)
            if busy or unheard or self.inbound.came != came:
                came, since = self.inbound.came, now
            elif now - since >= SETTLE:
                return
            await asyncio.sleep(LOOK)

    async def stop(self) -> None:
        """End everything that this node has started; the bus is the caller's."""
        for session in list(self.door.sessions):
            session.close()
        self.orders.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def enforce(self, policy: PolicySet, access: Access | None = None) -> None:
        """Put a policy into force: calls that start from now on follow it, those under way end as they began."""
        self._compiler.enforce(policy, access or Access(policy))
        self.outbound.recompile()
        self.inbound.recompile()

    def trace(self, tracing: Tracing) -> None:
        """Trace calls that start from now on."""
        self._compiler.parts.tracing = tracing
        self.outbound.recompile()
        self.inbound.recompile()

    async def reach(self, bus: Bus, inbox: str, entropy: Callable[[int], bytes], ends_us: Callable[[], int]) -> None:
        """Let apps call plain services of NATS by a bus of its own, which are to answer below `inbox`."""
        parts, outbound = self._compiler.parts, self.outbound
        told = outbound.driver.answer, self._changed, self.metrics.attempts.add
        outbound.outward = way = Outward(bus, inbox, parts.outside, entropy, self.now, *told, ends_us)
        parts.ask_outside = way.ask
        await way.start()

    def bar(self, error: MeshError) -> None:
        """Serve and call no more: this node is out of the mesh."""
        self.barred = error
        self.announcer.withdraw()
        for session in list(self.door.sessions):
            session.refuse(error)

    @property
    def access(self) -> Access:
        """Who may call what, by the policy in force."""
        return self._compiler.access

    # What sessions ask for.

    def session(self, identify: Callable[[Any], Peer]) -> LocalSession:
        """Return the agent's end of a new local connection."""
        return LocalSession(self, self._loop, identify)

    def welcome(self, peer: Peer) -> Welcome:
        """Return the answer to a HELLO."""
        limits = {"calls": CALLS_PER_SESSION, "frame": FRAME_LIMIT}
        home = self._setting.home if peer.uid == self._setting.own_uid else None
        largest = max(0, self.outbox.room() - HEAD_LIMIT)
        return Welcome(int(Kind.WELCOME), PROTOCOL_VERSION, self.own.node, limits, largest, home)

    def refusal(self, app: str, peer: Peer) -> MeshError | None:
        """Return why a process may not speak as `app`, None when it may."""
        return self.barred or self.apps.refusal(app, peer)

    def serve(self, session: LocalSession, frame: Serve) -> None:
        """Begin to serve."""
        self.hosting.serve(session, frame)

    def withdraw(self, session: LocalSession, frame: Withdraw) -> None:
        """Begin to leave."""
        self.hosting.withdraw(session, frame)

    def console(self, session: LocalSession, frame: Call) -> None:
        """Answer a call to the reserved service."""
        self._console.call(session, frame)

    def admitted(self, session: LocalSession) -> bool:
        """Count a connection in."""
        return self.door.admitted(session)

    def holding(self, session: LocalSession, held: int) -> bool:
        """Note how many bytes of half a frame a connection holds."""
        return self.door.holding(session, held)

    def left(self, session: LocalSession) -> None:
        """Count a connection out, and end what it held."""
        now = self.now()
        self.door.left(session)
        self.hosting.lost(session)
        self.inbound.lost(session, now)
        self.outbound.lost(session, now)

    # Timed work.

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, due - self.now()), self._turn)

    def _turn(self) -> None:
        """End, or take further, the calls whose time has come, and probe who holds those that take long."""
        self._timer = None
        now = self.now()
        for flight in self.wheel.due(now):
            (self.inbound if isinstance(flight.source, Sender | PlainCaller) else self.outbound).driver.due(flight, now)
        awaiting, due = self.outbound.awaiting, self.wheel.next_due()
        self.prober.look(awaiting.values(), now)
        if due is not None:
            self._arm(min(due, now + EVERY) if awaiting else due)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT * (0.9 + 0.2 * self._jitter()))
            if self.barred is None:
                self.announcer.announce()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            now = self._clock()
            if self.keyring.due(now):
                self.keyring.rotate(now)
                self.announcer.announce()
            for peer in self.keyring.sweep(now):
                self.watch.gone(peer.node, peer.boot, now.monotonic)
            self._changed(self.directory.expire(now.monotonic), now.monotonic)
            for look in self.every_second:
                look()

    # What parts of it tell.

    def _bus_changed(self, state: BusState) -> None:
        self._log.info("bus", state=state.value, why=self.bus.last_error or None)
        if state is BusState.CONNECTED:
            self.outbox.resume()
            wait = self._jitter() if self.bus.reconnects else 0.0
            self._loop.call_later(wait, self._tell_again)

    def _tell_again(self) -> None:
        """After the bus was away: say who we are and ask again; spread, so that nodes do not all speak at once."""
        self.announcer.announce()
        self.watch.ask_again()

    def _changed(self, services: Iterable[str], now: float) -> None:
        self.outbound.changed(services, self._compiler.parts.waiting.of, now)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what ends with this node."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("internal work failed", error=repr(error), exc_info=error)

    def _dropped(self, reason: str) -> None:
        self.metrics.envelope_failures.add(reason)

    def _distrust(self, error: Untrusted) -> None:
        self.metrics.envelope_failures.add(error.reason)
        if error.alarm:
            self._limited.warning("ALARM: a copied identity or key", reason=error.reason, message=error.message)
        else:
            self._limited.warning("announcement refused", reason=error.reason, message=error.message)

    # What gates and the console need.

    def _full(self, instance: Instance) -> None:
        self.metrics.count("limited", "full")
        self.hosting.full(instance)

    def _certificate(self, announcement: Announcement) -> NodeCertificate | None:
        peer = self.keyring.peer_of(announcement.node, announcement.boot)
        return peer.certificate if peer is not None else None

    def status(self) -> dict[str, object]:
        """What `busmesh status` and `/readyz` tell of this agent."""
        return status_of(self, self._clock(), loaded=not self._compiler.policy.empty)
