"""The way of a call through an agent: the two lists, in travel order.

    app ─ SDK ─ socket ─ agent A: OUTBOUND ─ outbox ─ seal ─ NATS ─ open ─ agent B: INBOUND ─ socket ─ SDK ─ service

A call enters each list top to bottom, and its outcome leaves it bottom to top; a success goes on first, for all that
gates do with it is note it. Compiled once per (service, method) and policy, never interpreted per call; a gate that
policy switches off is not there at all.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from bus_mesh.agent.parts import Parts
from bus_mesh.balance import fault, mirror
from bus_mesh.balance.directory import Member, P
from bus_mesh.balance.locality import Locality
from bus_mesh.balance.pick import Picker
from bus_mesh.balance.placement import Placement
from bus_mesh.balance.split import Split
from bus_mesh.gates.authorise import Authorise
from bus_mesh.gates.balance import Balance
from bus_mesh.gates.breaker import Breaker
from bus_mesh.gates.deadline import Deadline
from bus_mesh.gates.fault import Inject
from bus_mesh.gates.gate import Gate, Path
from bus_mesh.gates.limit import Limit
from bus_mesh.gates.measure import Measure
from bus_mesh.gates.mirror import Mirror
from bus_mesh.gates.once import Once
from bus_mesh.gates.rate import Rate
from bus_mesh.gates.retry import Retry
from bus_mesh.gates.seek import Seek
from bus_mesh.gates.signature import Signature
from bus_mesh.gates.tap import Tap
from bus_mesh.gates.trace import Served, TraceCall, TraceTry
from bus_mesh.policy import traffic
from bus_mesh.policy.access import Access
from bus_mesh.policy.bundle import PolicySet
from bus_mesh.policy.traffic import Balance as Way
from bus_mesh.policy.traffic import Hash
from bus_mesh.resilience.circuits import Circuits


def outbound(
    parts: Parts[P], access: Access, policy: PolicySet, labels: dict[str, str], service: str, method: str
) -> Path:
    """From a local app to the bus. `labels` are this node's."""
    circuits = _circuits(parts, policy, service, method)
    gates: list[Gate] = [
        *_asked(parts, access, service, method),
        *_mirror(parts, policy.mirror(service, method)),  # one copy of a call, not one of each try
        *_tried(parts, policy, service, method),
        _balance(parts, policy, labels, service, method, circuits),  # from here on the call has a target
    ]
    if circuits is not None:
        gates.append(Breaker(circuits))  # below Retry: books how each try ended
    if parts.tracing is not None:
        gates.append(TraceTry(parts.tracing))  # innermost: what leaves here names this try as its parent
    return Path(*gates, signed=policy.signed(service, method))  # `signed` has the outbox sign what it seals


def outward(parts: Parts[P], access: Access, policy: PolicySet, service: str, method: str) -> Path:
    """From a local app to a plain service of NATS, whose instances nobody tells apart."""
    gates: list[Gate] = [
        *_asked(parts, access, service, method),
        *_tried(parts, policy, service, method),
        Seek(parts.outside, parts.waiting, parts.ask_outside),  # from here on the call has a target
    ]
    if parts.tracing is not None:
        gates.append(TraceTry(parts.tracing))  # innermost: what leaves here names this try as its parent
    return Path(*gates)


def copied(
    parts: Parts[P], access: Access, policy: PolicySet, labels: dict[str, str], service: str, method: str
) -> Path:
    """The way of a copy to the bus: it is tried once, and counts for no caller, budget or circuit."""
    return Path(
        Deadline(),
        Authorise(access, parts.told.denied, "outbound"),
        _balance(parts, policy, labels, service, method, _circuits(parts, policy, service, method)),
        signed=policy.signed(service, method),
    )


def inbound(parts: Parts[P], access: Access, policy: PolicySet, service: str, method: str) -> Path:
    """From the bus, opened and verified, to a local instance."""
    told, signed = parts.told, policy.signed(service, method)
    gates: list[Gate] = [
        Measure(parts.meters("server", service, method), "inbound"),  # outside all: refusals count as calls
        *([Served(parts.tracing)] if parts.tracing else []),
        Deadline(),  # what came too late is not run
        Authorise(access, told.denied, "inbound"),  # the one that counts: callers' agents may be anybody's
    ]
    if signed:
        gates.append(Signature())  # so that only who may call learns what a call needs
    gates.append(Once(told.counter("idempotency_keys")))  # who waits for the answer of another needs nothing below
    scope = policy.scope("rate", service, method)
    rates = [
        (rate.per, parts.buckets(service, scope, at, rate)) for at, rate in enumerate(policy.rates(service, method))
    ]
    if rates:
        gates.append(Rate(rates, told.counter("limited")))  # before Limit: a refused call needs no place
    limit = policy.limit(service, method)
    if limit is not None:
        gates.append(Limit(limit, policy.scope("limit", service, method), told.full, told.waited))
    return Path(*gates, signed=signed)


def _asked(parts: Parts[P], access: Access, service: str, method: str) -> Iterator[Gate]:
    """Yield what every call of a local app begins with."""
    yield Measure(parts.meters("client", service, method), "outbound")  # outside all: refusals count as calls
    if parts.tracing is not None:
        yield TraceCall(parts.tracing)
    yield from _tap(parts, service)  # as the app sees it: what is below is one call
    yield Deadline()  # nothing below may outlive the caller
    yield Authorise(access, parts.told.denied, "outbound")  # once per call, and before any search on the bus


def _tried(parts: Parts[P], policy: PolicySet, service: str, method: str) -> Iterator[Gate]:
    """Yield what stands above each try of a call."""
    yield from _fault(parts, policy.traffic("fault", service, method))  # what is refused on purpose is not tried again
    # What policy does not know is denied: names that apps make up would crowd out those of real services.
    budget = parts.budget(service, policy.budget(service), keep=service in policy.services)
    yield Retry(policy.retry(service, method), budget, parts.luck.jitter, parts.told.counter("retries"))


def _circuits(parts: Parts[P], policy: PolicySet, service: str, method: str) -> Circuits | None:
    breaker, scope = policy.breaker(service, method), policy.scope("breaker", service, method)
    known = service in policy.services  # as in `_tried`
    return None if breaker is None else parts.circuits_of(service, scope, breaker, keep=known)


def _balance(
    parts: Parts[P], policy: PolicySet, labels: dict[str, str], service: str, method: str, circuits: Circuits | None
) -> Balance[P]:
    way, luck = policy.balance(service, method), parts.luck
    near: traffic.Locality | None = policy.traffic("locality", service)
    weights: dict[str, int] | None = policy.traffic("split", service)
    placement: Placement[Member[P]] = Placement(
        _picker(way, luck.draw),
        luck.roll,
        hashed=isinstance(way, Hash),
        split=Split(weights) if weights else None,
        locality=Locality(near.prefer, labels.get(near.prefer), near.spill_below) if near is not None else None,
        astray=parts.told.counter("astray"),
    )
    grouped = way is Way.QUEUE and weights is None and near is None
    return Balance(parts.directory, parts.waiting, parts.ask, placement, circuits, grouped=grouped)


def _picker(way: Way | Hash, draw: Any) -> Picker:
    """Return who picks an instance where the broker does not; calls that lack the key of a hash go to the less busy."""
    if way is Way.ROUND_ROBIN:
        return Picker.round_robin()
    return (Picker.random if way in (Way.QUEUE, Way.RANDOM) else Picker.least_request)(draw)


def _tap(parts: Parts[P], service: str) -> Iterator[Gate]:
    """Yield the gate that shows calls, while somebody watches those to the service."""
    show = parts.watched(service)
    if show is not None:
        yield Tap(show)


def _mirror(parts: Parts[P], said: traffic.Mirror | None) -> Iterator[Gate]:
    if said is not None:
        yield Mirror(mirror.Mirror(said.to, said.percent), parts.luck.roll, parts.told.copy)


def _fault(parts: Parts[P], said: traffic.Fault | None) -> Iterator[Gate]:
    """Yield the gate of a fault that is not over yet."""
    if said is not None and not said.over(datetime.fromtimestamp(parts.wall(), said.until.tzinfo)):
        injected = fault.Injected(said.delay or 0.0, said.abort)
        what = fault.Fault(injected, said.percent, said.until.timestamp())
        yield Inject(what, parts.luck.roll, parts.wall, parts.told.counter("faults"))
