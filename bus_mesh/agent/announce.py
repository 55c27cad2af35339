"""What this node says of itself: when an instance comes or goes, and a beat every five seconds."""

from collections.abc import Callable, Iterable
from typing import Final

from bus_mesh.agent.inbound import Instance
from bus_mesh.agent.watch import Watch
from bus_mesh.bus.contract import Bus
from bus_mesh.identity.announcement import Instance as Announced
from bus_mesh.identity.announcement import Offer
from bus_mesh.identity.keyring import Keyring, Now
from bus_mesh.protocol.subjects import Subjects

BEAT: Final = 5.0
"""Seconds between announcements when nothing changes; a third of the lease."""


class Announcer:
    """Signs what this node serves and publishes it on each of its services' subjects."""

    def __init__(
        self,
        node: str,
        keyring: Keyring,
        bus: Bus,
        subjects: Subjects,
        watch: Watch,
        clock: Callable[[], Now],
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._node = node
        self._keyring = keyring
        self._bus = bus
        self._subjects = subjects
        self._watch = watch
        self._clock = clock
        self._soon = soon
        self._due = False
        self._told: set[str] = set()
        self.instances: dict[str, Instance] = {}

    def __repr__(self) -> str:
        return f"Announcer(instances={list(self.instances.values())})"

    def changed(self) -> None:
        """Announce at the end of this turn: any number of changes in one turn make one announcement."""
        if not self._due:
            self._due = True
            self._soon(self.announce)

    def announce(self) -> None:
        """Sign the present state and publish it to whoever follows one of its services, or did until now."""
        self._due = False
        self._sign(withdrawn=False)
        services = {instance.service for instance in self.instances.values()}
        self._publish(services | self._told)
        self._told = services

    def withdraw(self) -> None:
        """Say that this process is leaving for good."""
        self._sign(withdrawn=True)
        self._publish(self._told)

    def _sign(self, withdrawn: bool) -> None:
        now = self._clock()
        self._watch.document = self._keyring.announce(_offers(self.instances.values()), now, withdrawn)
        self._watch.learn(self._watch.document)

    def _publish(self, services: Iterable[str]) -> None:
        for service in services:
            self._bus.publish(self._subjects.found(service, self._node), self._watch.document)


def _offers(instances: Iterable[Instance]) -> list[Offer]:
    by_service: dict[str, list[Instance]] = {}
    for instance in instances:
        by_service.setdefault(instance.service, []).append(instance)
    return [_offer(service, members) for service, members in by_service.items()]


def _offer(service: str, members: list[Instance]) -> Offer:
    methods = {method.name: method for member in members for method in member.methods.values()}
    announced = tuple(Announced(m.id, m.version, m.labels, m.state, m.inflight) for m in members)
    return Offer(service, announced, tuple(methods.values()))
