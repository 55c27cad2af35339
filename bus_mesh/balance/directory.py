"""What this agent knows of who serves what, fed by announcements. Pure: it is told the time.

An entry lives for its lease unless it is renewed, and goes at once when its process is known to be dead or says that it
withdraws. A `View` is what a call needs to know of one service, computed when the directory changes and never per call.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Final, Generic, Protocol, TypeVar

from bus_mesh.balance.ewma import PeakEwma
from bus_mesh.protocol.frames import Method

P = TypeVar("P")
"""What an agent addresses its peers by; the directory only hands it back."""

MOST_SERVICES: Final = 1024
"""Services that an agent follows; the directory holds no more."""
MOST_RECIPIENTS: Final = 16
"""Agents that one envelope is wrapped for; with more, calls go to one instance directly."""
LEAVING_SECONDS: Final = 1.0
"""After a member said that it leaves its queue group, for good or for a while, calls go direct for so long."""
ABSENT_SECONDS: Final = 0.25
"""For so long after the broker said that nobody answers for a service, its callers are told so at once."""
_PICKED: Final = ("up", "full", "unwell")
"""States in which an instance may be picked, those of the first while there are any."""
_IN_GROUP: Final = frozenset(("joining", "up"))
"""States in which an instance is in its queue group, or about to be."""


class InstanceLike(Protocol):
    """An instance as announced."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def version(self) -> str:
        """Its version."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""

    @property
    def state(self) -> str:
        """joining, up, full, unwell, leaving, or a word of a later version."""

    @property
    def load(self) -> int:
        """Calls in flight there."""


class OfferLike(Protocol):
    """A service as announced by one node."""

    @property
    def service(self) -> str:
        """The service's name."""

    @property
    def instances(self) -> Sequence[InstanceLike]:
        """The node's instances of it."""

    @property
    def methods(self) -> Sequence[Method]:
        """What it can be asked."""


class Tally:
    """The calls that this agent has in flight at single instances of a service, those that are gone included."""

    __slots__ = ("inflight",)

    def __init__(self) -> None:
        self.inflight = 0

    def __repr__(self) -> str:
        return f"Tally({self.inflight})"


class Member(Generic[P]):
    """One instance that can be called, the same object as long as it lives.

    `inflight` counts the calls that this agent has sent it directly, `others` what was in flight there besides them
    when it last said so.
    """

    __slots__ = (
        "id",
        "inflight",
        "labels",
        "latency",
        "load",
        "node",
        "others",
        "peer",
        "service",
        "state",
        "tally",
        "version",
    )

    def __init__(self, node: str, peer: P, service: str, instance: InstanceLike, tally: Tally | None = None) -> None:
        self.node = node
        self.service = service
        self.id = instance.id
        self.inflight = 0
        self.tally = tally or Tally()
        """Shared by all instances of the service."""
        self.latency = PeakEwma()
        self.renew(peer, instance)

    def __repr__(self) -> str:
        return f"Member({self.service} {self.id} on {self.node}, {self.state}, inflight={self.inflight})"

    def begin(self) -> None:
        """Count a call that is sent to it."""
        self.inflight += 1
        self.tally.inflight += 1

    def end(self) -> None:
        """Count a call off that had been sent to it."""
        self.inflight -= 1
        self.tally.inflight -= 1

    def renew(self, peer: P, instance: InstanceLike) -> None:
        """Take over what a newer announcement says."""
        self.peer = peer
        self.version = instance.version
        self.labels = instance.labels
        self.state = instance.state
        self.report(instance.load)

    def report(self, load: int) -> None:
        """Take over how many calls it says it has in flight; with an answer, once that call is off `inflight`."""
        self.load = load
        # Our own calls are counted as they start and end; only the rest is remembered, so our own burst shows at once.
        self.others = max(load - self.inflight, 0)


class View(Generic[P]):
    """One service as calls see it. `peers` are the agents a group call is sealed for, `ready` who may be picked.

    Ready are those that are up; if there are none, the full ones, whose refusal says when to come back; else the unwell
    ones. The broker's queue group may choose from `grouped_from` on (monotonic seconds): once nobody is leaving it, and
    never when the agents do not fit into one envelope, or nobody is up: then nobody is in the group.
    """

    __slots__ = ("grouped_from", "members", "methods", "peers", "ready", "service")

    def __init__(
        self, service: str, members: list[Member[P]], methods: dict[str, Method], leaving_until: float
    ) -> None:
        self.service = service
        self.members = members
        self.methods = methods
        self.peers: list[P] = list({id(member.peer): member.peer for member in members}.values())
        best = next((state for state in _PICKED if any(member.state == state for member in members)), "")
        self.ready = [member for member in members if member.state == best]
        self.grouped_from = leaving_until if best == "up" and len(self.peers) <= MOST_RECIPIENTS else inf

    def __repr__(self) -> str:
        return f"View({self.service}, ready={len(self.ready)} of {len(self.members)}, peers={len(self.peers)})"

    def member(self, instance: object) -> Member[P] | None:
        """Return the instance of that id, whatever its state."""
        return next((member for member in self.members if member.id == instance), None)


class _Entry(Generic[P]):
    """What one node has announced of the services that this agent follows."""

    __slots__ = ("boot", "expires", "members", "methods", "peer")

    def __init__(self, boot: str, peer: P, expires: float) -> None:
        self.boot = boot
        self.peer = peer
        self.expires = expires
        self.members: dict[str, Member[P]] = {}
        self.methods: dict[str, tuple[Method, ...]] = {}

    def shape(self) -> object:
        """Return what calls depend on, to tell a beat from news."""
        members = [(member.id, member.state, member.version) for member in self.members.values()]
        return self.boot, id(self.peer), members, self.methods

    def services(self) -> set[str]:
        """Return the services that it has instances of."""
        return {member.service for member in self.members.values()}


class Directory(Generic[P]):
    """Who serves what, of the services that this agent follows. `draw(n)` returns 0 to n - 1 at random, for pickers."""

    def __init__(self, draw: Callable[[int], int]) -> None:
        self.draw = draw
        self._followed: set[str] = set()
        self._entries: dict[str, _Entry[P]] = {}
        self._members: dict[str, dict[str, Member[P]]] = {}
        self._tallies: dict[str, Tally] = {}
        self._views: dict[str, View[P]] = {}
        self.view: Final[Callable[[str], View[P] | None]] = self._views.get
        """Returns what is known of a service, None when nothing is."""
        self._absent: dict[str, float] = {}
        self._leaving: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"Directory(nodes={sorted(self._entries)}, services={sorted(self._views)})"

    def follow(self, service: str) -> bool:
        """Keep what is announced of a service from now on; False when it is followed already or there are too many."""
        if service in self._followed or len(self._followed) >= MOST_SERVICES:
            return False
        self._followed.add(service)
        return True

    def unfollow(self, service: str) -> None:
        """Forget a service that nobody here calls."""
        self._followed.discard(service)
        self._absent.pop(service, None)

    @property
    def followed(self) -> frozenset[str]:
        """The services that this agent follows."""
        return frozenset(self._followed)

    @property
    def instances(self) -> int:
        """How many instances are known."""
        return sum(len(members) for members in self._members.values())

    def services(self) -> list[str]:
        """Return the followed services that somebody serves."""
        return list(self._views)

    def member(self, service: str, instance: str) -> Member[P] | None:
        """Return the instance of that id, whatever its state."""
        return self._members.get(service, {}).get(instance)

    def absent(self, service: str, now: float) -> bool:
        """Tell whether it has just been found that nobody serves `service`."""
        return self._absent.get(service, 0.0) > now

    def missing(self, service: str, now: float) -> None:
        """Note the broker's word that nobody answers for a followed `service`."""
        if service in self._followed:
            self._absent[service] = now + ABSENT_SECONDS

    def update(
        self, node: str, boot: str, peer: P, offers: Iterable[OfferLike], expires: float, now: float
    ) -> set[str]:
        """Take in an announcement and return the services for which something changed. `expires`: monotonic seconds."""
        old = self._entries.get(node)
        before = old.shape() if old is not None else None
        known = old.members if old is not None and old.boot == boot else {}
        entry = _Entry(boot, peer, expires)
        for offer in offers:
            if offer.service in self._followed:
                entry.methods[offer.service] = tuple(offer.methods)
                for instance in offer.instances:
                    entry.members[instance.id] = self._member(known.get(instance.id), node, peer, offer, instance, now)
        if before == entry.shape() or (old is None and not entry.members):
            if old is not None:
                old.expires = expires
            return set()
        return self._replace(node, entry)

    def gone(self, node: str, boot: str) -> set[str]:
        """Forget a process that is dead, and return the services that it served."""
        entry = self._entries.get(node)
        return self._replace(node, None) if entry is not None and entry.boot == boot else set()

    def expire(self, now: float) -> set[str]:
        """Forget what has not been renewed in time, and return the services that lost an instance by it."""
        changed: set[str] = set()
        for node in [node for node, entry in self._entries.items() if entry.expires <= now]:
            changed |= self._replace(node, None)
        return changed

    def _member(
        self, known: Member[P] | None, node: str, peer: P, offer: OfferLike, instance: InstanceLike, now: float
    ) -> Member[P]:
        if known is None or known.service != offer.service:
            return Member(node, peer, offer.service, instance, self._tallies.setdefault(offer.service, Tally()))
        if known.state in _IN_GROUP and instance.state not in _IN_GROUP:
            self._leaving[offer.service] = now + LEAVING_SECONDS
        known.renew(peer, instance)
        return known

    def _replace(self, node: str, entry: _Entry[P] | None) -> set[str]:
        old = self._entries.pop(node, None)
        changed = old.services() if old is not None else set()
        for member in old.members.values() if old is not None else ():
            self._members[member.service].pop(member.id, None)
        if entry is not None and entry.members:
            self._entries[node] = entry
            changed |= entry.services()
            for member in entry.members.values():
                self._members.setdefault(member.service, {})[member.id] = member
        for service in changed:
            self._rebuild(service)
        return changed

    def _rebuild(self, service: str) -> None:
        members = list(self._members.get(service, {}).values())
        if not members:
            for table in (self._members, self._views, self._leaving, self._tallies):
                table.pop(service, None)
            return
        nodes = {member.node for member in members}
        methods = {m.name: m for node in nodes for m in self._entries[node].methods.get(service, ())}
        self._views[service] = View(service, members, methods, self._leaving.get(service, 0.0))
        self._absent.pop(service, None)
