"""The services that local sessions offer: how an instance joins its group, and leaves without a lost call.

    JOINING ──announced, 250 ms, subscribed──▶ UP ──withdraw──▶ LEAVING ──announced, 250 ms, drained──▶ refusing, gone
                                               ▲▼                  ▲
                                          FULL, UNWELL ──withdraw──┘         in and out of the group: `groups.py`
    any ──the node is drained──▶ DRAINED: out of the group, refusing ──undrained──▶ JOINING

A new instance announces itself before it joins, so that callers seal for it by the time the broker may choose it. One
that leaves says so first, so that callers go elsewhere; what still comes after that is refused and tried elsewhere.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from bus_mesh.agent.announce import Announcer
from bus_mesh.agent.groups import OUT, SETTLE, Groups
from bus_mesh.agent.health import Checkups
from bus_mesh.agent.inbound import Instance
from bus_mesh.agent.session import CALLS_PER_SESSION, LocalSession
from bus_mesh.agent.watch import Watch
from bus_mesh.bus.contract import Bus, Subscription
from bus_mesh.protocol.frames import Kind, Serve, Withdraw
from bus_mesh.protocol.names import HEALTH
from bus_mesh.protocol.subjects import Subjects

LOOK: Final = 0.02
"""Seconds between looks at whether all calls are answered."""


class Hosting:
    """This node's instances. `new_id()` returns an instance id never used before."""

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        watch: Watch,
        announcer: Announcer,
        groups: Groups,
        checkups: Checkups,
        new_id: Callable[[], str],
        labels: dict[str, str],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        wall_us: Callable[[], int],
    ) -> None:
        self._wall_us = wall_us
        self._bus = bus
        self._subjects = subjects
        self._watch = watch
        self._announcer = announcer
        self._groups = groups
        self._checkups = checkups
        self._new_id = new_id
        self._labels = labels
        self._spawn = spawn
        self.instances = announcer.instances
        self.drained = False
        """Whether an operator has taken this node's instances out of their groups, all that come included."""
        self._turning = asyncio.Lock()
        self._finds: dict[str, Subscription | None] = {}
        self.full: Final[Callable[[Instance], None]] = groups.full
        """Note that an instance had no place for a call: it leaves its group until it is calm. Cheap when repeated."""

    def __repr__(self) -> str:
        return f"Hosting({list(self.instances.values())})"

    def serve(self, session: LocalSession, frame: Serve) -> None:
        """Begin to serve; the session is told SERVED once the instance is in the group."""
        methods = {method.name: method for method in frame.methods}
        asked = methods.pop(HEALTH, None) is not None  # between app and agent: nobody else is to know it or call it
        labels = {**self._labels, **frame.labels}
        instance = Instance(self._new_id(), frame.service, frame.version, labels, methods, session)
        instance.has_check, instance.concurrency = asked, min(frame.concurrency, CALLS_PER_SESSION)
        if self.drained:
            instance.state, instance.refusing = "drained", True
        instance.since_us = self._wall_us()
        self.instances[instance.id] = session.instances[instance.id] = instance
        self._spawn(self._join(instance, session, frame.id))

    def withdraw(self, session: LocalSession, frame: Withdraw) -> None:
        """Begin to leave; the session is told WITHDRAW once nothing more will come."""
        instance = session.instances.get(frame.instance)
        if instance is None:
            session.send(frame)
        else:
            self._spawn(self._leave(instance, session, frame.id))

    def lost(self, session: LocalSession) -> None:
        """Take the instances of a session that is gone out of their groups, and say so at once."""
        for instance in session.instances.values():
            instance.state, instance.refusing = "leaving", True
            self._checkups.end(instance)
            self._groups.drop(instance)
            self._forget(instance)
        if session.instances:
            session.instances = {}
            self._announcer.changed()

    async def leave_all(self) -> None:
        """Take every instance out of its group, without a lost call."""
        staying = [instance for instance in self.instances.values() if instance.state != "leaving"]
        await asyncio.gather(*(self._depart(instance) for instance in staying))

    @property
    def inflight(self) -> int:
        """How many calls this node's instances have in hand."""
        return sum(instance.inflight for instance in self.instances.values())

    async def retire(self, instances: list[Instance], patience: float) -> int:
        """Take instances out of their groups for good; return how many calls they still have after `patience` s."""
        await asyncio.gather(*(self._depart(instance) for instance in instances if instance.state != "leaving"))
        loop = asyncio.get_running_loop()
        end = loop.time() + patience
        while (left := sum(one.inflight for one in instances)) and loop.time() < end:  # noqa: ASYNC110 - as in `_leave`
            await asyncio.sleep(LOOK)
        return left

    async def drain(self) -> list[Instance]:
        """Take every instance out of its group, and those that come, until `undrain`; return them."""
        async with self._turning:
            self.drained = True
            staying = [instance for instance in self.instances.values() if instance.state not in OUT]
            for instance in staying:
                instance.state = "drained"
            self._announcer.changed()
            await asyncio.sleep(SETTLE)
            for instance in staying:
                if instance.state == "drained":
                    await self._groups.leave(instance)
                    instance.refusing = True
            return staying

    async def undrain(self) -> list[Instance]:
        """Have instances join their groups again; return them."""
        async with self._turning:
            self.drained = False
            coming = [instance for instance in self.instances.values() if instance.state == "drained"]
            for instance in coming:
                instance.state, instance.refusing = "joining", False
            self._announcer.changed()
            await asyncio.sleep(SETTLE)
            for instance in coming:
                if instance.state == "joining":
                    await self._groups.enter(instance)
            return coming

    async def _join(self, instance: Instance, session: LocalSession, number: int) -> None:
        await self._be_found(instance.service)
        self._announcer.changed()
        await asyncio.sleep(SETTLE)
        if instance.state == "joining":
            await self._groups.enter(instance)
        if instance.state != "leaving":  # where the node is drained, the app serves, and nobody comes
            session.served(number, instance)
            self._checkups.begin(instance)

    async def _leave(self, instance: Instance, session: LocalSession, number: int) -> None:
        if instance.state != "leaving":
            await self._depart(instance)
        # Looking now and then costs less than an event on the path of every call.
        while (instance.inflight or not instance.refusing) and instance.id in self.instances:  # noqa: ASYNC110
            await asyncio.sleep(LOOK)
        if session.instances.pop(instance.id, None) is not None:
            self._forget(instance)
            self._announcer.changed()
            session.send(Withdraw(int(Kind.WITHDRAW), number, instance.id))

    async def _be_found(self, service: str) -> None:
        """Answer those who ask for a service, from its first instance on."""
        if service not in self._finds:
            self._finds[service] = None
            found = await self._bus.subscribe(self._subjects.find_of(service), self._watch.on_find)
            if self._serves(service):
                self._finds[service] = found
            else:  # its last instance left meanwhile
                del self._finds[service]
                await found.unsubscribe()

    def _forget(self, instance: Instance) -> None:
        """Drop an instance; with the last one of a service, the broker tells those who ask that nobody serves it."""
        self.instances.pop(instance.id, None)
        if not self._serves(instance.service):
            found = self._finds.get(instance.service)
            if found is not None:
                del self._finds[instance.service]
                self._spawn(found.unsubscribe())

    def _serves(self, service: str) -> bool:
        return any(instance.service == service for instance in self.instances.values())

    async def _depart(self, instance: Instance) -> None:
        instance.state = "leaving"
        self._checkups.end(instance)
        self._announcer.changed()
        await asyncio.sleep(SETTLE)
        await self._groups.leave(instance)
        instance.refusing = True
