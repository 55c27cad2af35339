"""The way of a call through an agent: the two lists, in travel order.

    app ─ SDK ─ socket ─ agent A: OUTBOUND ─ outbox ─ seal ─ NATS ─ open ─ agent B: INBOUND ─ socket ─ SDK ─ service

A call enters each list top to bottom, and its outcome leaves it bottom to top. Compiled once per (service, method) and
policy, never interpreted per call.
"""

from collections.abc import Callable
from typing import Final, Generic

from bus_mesh.balance.directory import Directory, P
from bus_mesh.balance.pick import Picker
from bus_mesh.gates.authorise import Authorise
from bus_mesh.gates.balance import Balance, Waiting
from bus_mesh.gates.deadline import Deadline
from bus_mesh.gates.gate import Flight, Path
from bus_mesh.gates.measure import Measure, Meter
from bus_mesh.gates.retry import Retry
from bus_mesh.gates.signature import Signature
from bus_mesh.policy import traffic
from bus_mesh.policy.access import Access, Verdict
from bus_mesh.policy.bundle import NO_POLICY, PolicySet
from bus_mesh.policy.models import Balance as Way
from bus_mesh.resilience.budget import RetryBudget

MOST_BUDGETS: Final = 4096
"""Services whose retries are counted apart."""


class Parts(Generic[P]):
    """What gates share and what outlives any one path: counters, the directory, randomness."""

    def __init__(
        self,
        meter: Callable[[str, str, str, str], Meter],
        denied: Callable[[Flight, Verdict], None],
        directory: Directory[P],
        ask: Callable[[str], None],
        jitter: Callable[[], float],
        retried: Callable[[str], None] = lambda result: None,
    ) -> None:
        self.meter = meter
        self.denied = denied
        self.directory = directory
        self.ask = ask
        self.jitter = jitter
        self.retried = retried
        self.waiting = Waiting()
        self._budgets: dict[str, tuple[traffic.Budget, RetryBudget]] = {}

    def meters(self, side: str, service: str, method: str) -> Callable[[str], Meter]:
        """Return who hands out the meter of one caller of one method."""
        return lambda caller: self.meter(side, service, method, caller)

    def budget(self, service: str, policy: traffic.Budget) -> RetryBudget:
        """Return the budget for the retries to a service: it outlives paths, and begins anew with another policy."""
        held = self._budgets.get(service)
        if held is None or held[0] != policy:
            if len(self._budgets) >= MOST_BUDGETS:
                self._budgets.clear()
            held = self._budgets[service] = policy, RetryBudget(policy)
        return held[1]


def picker(way: Way, draw: Callable[[int], int]) -> Picker | None:
    """Return who picks an instance by a policy's word; None leaves it to the broker's queue group."""
    if way is Way.QUEUE:
        return None
    if way is Way.ROUND_ROBIN:
        return Picker.round_robin()
    return (Picker.random if way is Way.RANDOM else Picker.least_request)(draw)


def outbound(
    parts: Parts[P], access: Access, chosen: Picker | None, service: str, method: str, policy: PolicySet = NO_POLICY
) -> Path:
    """From a local app to the bus."""
    retry, budget = policy.retry(service, method), parts.budget(service, policy.budget(service))
    return Path(
        Measure(parts.meters("client", service, method), "outbound"),  # outside all: refusals count as calls
        Deadline(),  # nothing below may outlive the caller
        Authorise(access, parts.denied, "outbound"),  # once per call, and before any search on the bus
        Retry(retry, budget, parts.jitter, parts.retried),  # each try passes everything below
        Balance(parts.directory, parts.waiting, parts.ask, chosen),  # from here on the call has a target
        signed=policy.signed(service, method),  # has the outbox sign what it seals
    )


def inbound(parts: Parts[P], access: Access, service: str, method: str, *, signed: bool = False) -> Path:
    """From the bus, opened and verified, to a local instance; `signed` refuses what its sender did not sign."""
    gates = (
        Measure(parts.meters("server", service, method), "inbound"),  # outside all: refusals count as calls
        Deadline(),  # what came too late is not run
        Authorise(access, parts.denied, "inbound"),  # the one that counts: callers' agents may be anybody's
    )
    # Last, so that only who may call learns what a call needs; and not there at all where policy does not ask for it.
    return Path(*gates, Signature(), signed=True) if signed else Path(*gates)
