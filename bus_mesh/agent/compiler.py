"""Makes the paths and routes of the policy in force, as they are first needed."""

from collections.abc import Callable
from typing import Any, Final

from bus_mesh.agent.denials import Denials
from bus_mesh.agent.description import open_circuits
from bus_mesh.agent.parts import Luck, Parts, Told
from bus_mesh.agent.path import copied, inbound, outbound, outward
from bus_mesh.agent.route import Route
from bus_mesh.balance.directory import Directory
from bus_mesh.gates.gate import Flight, Path
from bus_mesh.gates.measure import Meter
from bus_mesh.policy.access import Access
from bus_mesh.policy.bundle import NO_POLICY, PolicySet
from bus_mesh.policy.traffic import Hash
from bus_mesh.protocol.names import is_plain
from bus_mesh.telemetry.metrics import OTHER, Metrics

_OTHERS: Final = (OTHER, OTHER, OTHER)


class Compiler:
    """The policy in force, and what calls need of it.

    `labels` are those of this node; `full(instance)` hears that an instance had no place for a call, and
    `copy(call, to)` that a call is to be copied to a service.
    """

    def __init__(
        self,
        metrics: Metrics,
        denials: Denials,
        directory: Directory[Any],
        ask: Callable[[str], None],
        luck: Luck,
        wall: Callable[[], float],
        labels: dict[str, str],
        full: Callable[[Any], None],
        copy: Callable[[Flight, str], None],
    ) -> None:
        self.policy = NO_POLICY
        self.access = Access(NO_POLICY)
        denied = lambda call, verdict: denials.note(call, verdict, self.policy.number)  # noqa: E731
        told = Told(metrics.count, denied, full, self._waited, copy)
        self.parts: Parts[Any] = Parts(self._meter, directory, ask, luck, wall, told)
        self._metrics = metrics
        self._labels = labels
        text = "Circuits to instances that are not closed."
        metrics.gauge("breaker_state", text, lambda: open_circuits(self.parts, self.policy), label="service")

    def __repr__(self) -> str:
        return f"Compiler({self.policy})"

    def enforce(self, policy: PolicySet, access: Access) -> None:
        """Take up a newer policy, for what is made from now on; circuits that it does not want are forgotten."""
        self.policy, self.access = policy, access
        for (service, scope), circuits in self.parts.circuits:
            if policy.breaker(service, scope) != circuits.policy:  # or they would be as they were, once it wants them
                self.parts.circuits.forget((service, scope))

    def route(self, service: str, method: str) -> Route:
        """Return the way of the calls of this node's apps to a method, and what policy says of them."""
        policy = self.policy
        if is_plain(service):
            path = outward(self.parts, self.access, policy, service, method)
        else:
            path = outbound(self.parts, self.access, policy, self._labels, service, method)
        said = policy.idempotent(service, method), policy.timeout(service, method), policy.longest(service)
        way = policy.balance(service, method)
        return Route(path, *said, key=way.hash if isinstance(way, Hash) else "key")

    def copy(self, service: str, method: str) -> Path:
        """Return the way of copies to a method."""
        return copied(self.parts, self.access, self.policy, self._labels, service, method)

    def inbound(self, service: str, method: str) -> Path:
        """Return the way of calls from the bus to a method of this node's instances."""
        return inbound(self.parts, self.access, self.policy, service, method)

    def _meter(self, side: str, service: str, method: str, caller: str) -> Meter:
        series = self._metrics.client if side == "client" else self._metrics.server
        # Only names that policy knows become labels: what an app invents would use up the room of the real ones.
        return series.child(service, method, caller) if service in self.policy.services else series.child(*_OTHERS)

    def _waited(self, call: Flight, seconds: float) -> None:
        self._metrics.waited.child(call.service, call.method, "").record(0, seconds)
