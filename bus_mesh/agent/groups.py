"""Which of this node's instances are in the queue group of their service, where the broker chooses among its members.

    UP ──full or unwell──▶ FULL, UNWELL: announced, 250 ms, out of the group, and looked at every 100 ms
     ▲─────────────────── calm and well: in the group again, announced ───────────────────┘

So the broker stops choosing who cannot take more, also for callers that know nothing of the mesh. What comes directly
is answered all the while; only one that leaves for good refuses. When is `resilience/shedding.py`'s to say.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from bus_mesh.agent.inbound import Instance
from bus_mesh.agent.receive import Receiver
from bus_mesh.bus.contract import Bus, Subscription
from bus_mesh.protocol.subjects import Subjects
from bus_mesh.resilience.shedding import Standing
from bus_mesh.telemetry.log import Limited
from bus_mesh.telemetry.metrics import Metrics

SETTLE: Final = 0.25
"""Seconds between an announcement and acting on it."""
LOOK_AGAIN: Final = 0.1
"""Seconds between looks at whether an instance that is out may come back."""
_UP: Final = Standing.UP
OUT: Final = ("leaving", "drained")
"""States in which an instance is in no group, and refuses what comes, until somebody says otherwise."""


class Groups:
    """The memberships of instances. `changed()` has their states announced, `now()` tells monotonic seconds."""

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        receiver: Receiver,
        changed: Callable[[], None],
        now: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        metrics: Metrics,
        log: Limited,
    ) -> None:
        self._bus = bus
        self._subjects = subjects
        self._receiver = receiver
        self._changed = changed
        self._now = now
        self._spawn = spawn
        self._metrics = metrics
        self._log = log
        self._members: dict[str, Subscription] = {}
        self._entering: set[str] = set()

    def __repr__(self) -> str:
        return f"Groups({sorted(self._members)})"

    async def enter(self, instance: Instance) -> bool:
        """Join the group and be up; False when the instance is told to leave meanwhile, or is about to be in it."""
        if instance.id in self._entering:
            return False
        handler = self._receiver.on_rpc(instance)
        self._entering.add(instance.id)
        try:
            group = await self._bus.subscribe(self._subjects.rpc_of(instance.service), handler, instance.service)
        finally:
            self._entering.discard(instance.id)
        if instance.state in OUT:
            instance.refusing = True
            await group.drain()
            return False
        self._members[instance.id] = group
        instance.state = _UP.value
        self._changed()
        return True

    async def leave(self, instance: Instance) -> None:
        """Leave the group, if the instance is in it; what the broker has delivered by then is handled."""
        group = self._members.pop(instance.id, None)
        if group is not None:
            await group.drain()

    def drop(self, instance: Instance) -> None:
        """Leave the group without waiting for it."""
        if instance.id in self._members:
            # Drained, not just ended: what the broker has delivered already is refused, and so tried elsewhere.
            self._spawn(self.leave(instance))

    def full(self, instance: Instance) -> None:
        """Note that there was no place for a call at an instance; any number of times."""
        instance.shedding.refused()
        self._judge(instance, "")

    def refused(self, instance: Instance) -> None:
        """Note that the app itself, or its connection, had no place for a call; any number of times."""
        instance.shedding.refused(max(0, instance.inflight - 1))  # the one that is refused is counted
        self._judge(instance, "")

    def checked(self, instance: Instance, passed: bool, failures: int, why: str) -> None:
        """Note what a health check came to; after `failures` in a row an instance is unwell. `why` is for the log."""
        instance.shedding.checked(passed, failures)
        instance.passed = instance.passed or passed
        self._judge(instance, why)

    def _judge(self, instance: Instance, why: str) -> None:
        """Take an instance that is up out of its group, if it is better out."""
        if instance.state != _UP:
            return  # not in it yet, or who takes it out and back looks again by itself
        standing = self._look(instance)
        if standing is not _UP:
            self._metrics.sheds[standing.value].add(instance.service)
            self._tell("an instance leaves its group", instance, why=standing.value, said=why or None)
            self._stand(instance, standing)
            self._spawn(self._stay_out(instance))

    async def _stay_out(self, instance: Instance) -> None:
        began = self._now()
        await asyncio.sleep(SETTLE)
        if instance.state in OUT:
            return  # and who had it leave takes it out
        await self.leave(instance)
        while instance.state not in OUT:
            standing = self._look(instance)
            if standing is not _UP:
                self._stand(instance, standing)
                await asyncio.sleep(LOOK_AGAIN)
            elif await self.enter(instance):
                self._tell("an instance is back in its group", instance, after_s=round(self._now() - began, 3))
                self._judge(instance, "")  # something may have come while the broker was told
                return

    def _look(self, instance: Instance) -> Standing:
        return instance.shedding.look(self._now(), instance.inflight, instance.limits.values())

    def _stand(self, instance: Instance, standing: Standing) -> None:
        if instance.state != standing:
            instance.state = standing.value
            self._changed()

    def _tell(self, event: str, instance: Instance, **more: object) -> None:
        found = {"service": instance.service, "instance": instance.id, "inflight": instance.inflight, **more}
        self._log.info(event, **{name: value for name, value in found.items() if value is not None})
