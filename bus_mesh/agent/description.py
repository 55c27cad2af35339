"""The instances of one service as one agent sees them, in rows. Pure: what is known goes in, what is shown comes out.

Circuits, calls in flight and latencies are each agent's own, so it has them only of services that its apps call. Of the
others it knows what nodes announce.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from bus_mesh.agent.parts import Parts
from bus_mesh.balance.directory import Member
from bus_mesh.identity.announcement import Announcement
from bus_mesh.policy.bundle import PolicySet
from bus_mesh.policy.resolved import policy_of
from bus_mesh.resilience.breaker import State
from bus_mesh.resilience.circuits import Circuits

Row = dict[str, Any]
_NOT_KNOWN: Row = {"circuit": None, "probe_in_ms": None, "circuits": {}, "inflight": None, "latency_ms": None}


def described(
    service: str, parts: Parts[Any], policy: PolicySet, seen: Iterable[Announcement], number: int, now: float
) -> Row:
    """Return all that an agent has on a service, `number` being that of the policy in force. `now`: monotonic seconds.

    `others` names the services that there are, where this one is not.
    """
    said, follows = policy_of(policy, service), service in parts.directory.followed
    if follows:
        view = parts.directory.view(service)
        rows = followed(view.members if view is not None else (), circuits_of(parts, policy, service), now)
    else:
        rows = [{**row, **_NOT_KNOWN} for row in announced(seen, service)]
    others = set() if said or rows else {*policy.services, *(offer.service for a in seen for offer in a.offers)}
    return {
        "service": service,
        "number": number,
        "policy": said,
        "followed": follows,
        "instances": rows,
        "others": sorted(others),
    }


def announced(seen: Iterable[Announcement], service: str | None = None) -> list[Row]:
    """Return the instances of one service, or of all, as nodes announce them, sorted."""
    rows = [
        {
            "instance": i.id,
            "service": offer.service,
            "node": a.node,
            "version": i.version,
            "labels": dict(i.labels),
            "state": i.state,
            "load": i.load,
        }
        for a in seen
        for offer in a.offers
        if service in (None, offer.service)
        for i in offer.instances
    ]
    return sorted(rows, key=lambda row: (row["service"], row["node"], row["instance"]))


def followed(members: Iterable[Member[Any]], circuits: Mapping[str, Circuits], now: float) -> list[Row]:
    """Return the instances of a service that this agent follows, with what it alone knows of them, sorted.

    `latency_ms` is the moving average as of the last answer, None where none was measured; `probe_in_ms` the time until
    an open circuit takes a probe. `circuit` is None before the first call under this policy, or with breakers off;
    `circuits` are those of the methods that have a breaker of their own.
    """
    rows = [
        {
            "instance": member.id,
            "service": member.service,
            "node": member.node,
            "version": member.version,
            "labels": dict(member.labels),
            "state": member.state,
            "load": member.load,
            **(_standing(circuits[""], member.id, now) if "" in circuits else {"circuit": None, "probe_in_ms": None}),
            "circuits": {name: _standing(of, member.id, now) for name, of in sorted(circuits.items()) if name},
            "inflight": member.inflight,
            "latency_ms": None if member.latency.level is None else round(member.latency.seconds * 1000, 3),
        }
        for member in members
    ]
    return sorted(rows, key=lambda row: (row["node"], row["instance"]))


def circuits_of(parts: Parts[Any], policy: PolicySet, service: str) -> dict[str, Circuits]:
    """Return the circuits of a service that policy still wants, by method; "" for those that its other methods share.

    There are none before the first call under this policy.
    """
    return {
        scope: circuits
        for (name, scope), circuits in parts.circuits
        if name == service
        and policy.scope("breaker", service, scope) == scope
        and policy.breaker(service, scope) == circuits.policy
    }


def open_circuits(parts: Parts[Any], policy: PolicySet) -> dict[str, float]:
    """Return how many circuits are not closed, by service, of those that policy has a document for."""
    found: dict[str, float] = {}
    for service in {name for (name, _), _ in parts.circuits} & set(policy.services):
        view = parts.directory.view(service)
        members = view.members if view is not None else ()
        kept = circuits_of(parts, policy, service).values()
        breakers = [circuits.of(member.id) for circuits in kept for member in members]
        found[service] = sum(breaker is not None and breaker.state is not State.CLOSED for breaker in breakers)
    return found


def _standing(circuits: Circuits, instance: str, now: float) -> Row:
    breaker = circuits.of(instance)
    if breaker is None:  # not called since it came: nothing is held against it
        return {"circuit": State.CLOSED.value, "probe_in_ms": None}
    waits = round(breaker.retry_after(now) * 1000) if breaker.state is State.OPEN else None
    return {"circuit": breaker.state.value, "probe_in_ms": waits}
