"""What is allowed to be written and is probably not meant: findings across the documents of a policy.

Pure. Each kind of finding has a stable code. An ERROR cannot be put into force by the agents of this version; a WARNING
can, and does something else than it seems to say; an INFO is good to know.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from enum import IntEnum
from typing import Final, NamedTuple

from bus_mesh.policy.match import matches
from bus_mesh.policy.models import Method, Mode, PolicyDocument, Revocation, Rule, Service, Traffic
from bus_mesh.policy.traffic import Balance, Off, Retry
from bus_mesh.policy.units import show_seconds

__all__ = ["Finding", "Served", "Severity", "check", "check_served"]

_DEFAULT_TIMEOUT: Final = 5.0


class Severity(IntEnum):
    """How much a finding matters."""

    INFO = 0
    WARNING = 1
    ERROR = 2


class Finding(NamedTuple):
    """One thing to look at. `place` is `file:line` of its document, `path` the key in it."""

    code: str
    severity: Severity
    place: str
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        return f"{where}{self.severity.name.lower()} {self.code}: {self.path}: {self.message}"


class Served(NamedTuple):
    """What instances of a service say of themselves: methods, versions, and labels as `name=value`."""

    methods: frozenset[str]
    versions: frozenset[str]
    labels: frozenset[str]


Said = tuple[str, Severity, str, str]


def check(documents: Iterable[PolicyDocument], now: datetime) -> list[Finding]:
    """Return what stands out in a policy, document by document; `now` tells which faults are over."""
    found = []
    for document in documents:
        if isinstance(document, Revocation):
            continue
        said: list[Said] = [*_traffic(document.traffic, "traffic", now)]
        if isinstance(document, Service):
            said += [*_rules(document), *_methods(document, now)]
        found += [Finding(code, severity, document.place, path, text) for code, severity, path, text in said]
    return found


def check_served(documents: Iterable[PolicyDocument], served: Mapping[str, Served]) -> list[Finding]:
    """Return what of a policy fits nothing that is served now: names that are misspelled, or of tomorrow."""
    found = []
    for document in documents:
        if isinstance(document, Service):
            there = served.get(document.name)
            said = _unserved(document, there) if there is not None else [_NOT_SERVED]
            found += [Finding(code, severity, document.place, path, text) for code, severity, path, text in said]
    return found


_NOT_SERVED: Final[Said] = ("NOT_SERVED", Severity.INFO, "name", "nobody serves it now")


def _unserved(document: Service, there: Served) -> Iterator[Said]:
    has = f"{document.name} has {', '.join(sorted(there.methods)[:8]) or 'none'}"
    for effect, rules in (("deny", document.access.deny), ("allow", document.access.allow)):
        for at, rule in enumerate(rules):
            for pattern in rule.methods:
                if not any(matches(pattern, method) for method in there.methods):
                    path = f"access.{effect}[{at}]"
                    yield "METHOD_UNKNOWN", Severity.WARNING, path, f"no method fits {pattern!r}: {has}"
    for name in document.methods:
        if name not in there.methods:
            yield "METHOD_UNKNOWN", Severity.WARNING, f"methods.{name}", f"there is no such method: {has}"
    for key in document.traffic.split or ():
        major = {version.partition(".")[0] for version in there.versions}
        if key not in major and key not in there.labels:
            known = ", ".join(sorted(major | there.labels)) or "none"
            yield "SPLIT_UNSERVED", Severity.WARNING, f"traffic.split.{key}", f"no instance fits; there is {known}"


def _rules(document: Service) -> Iterator[Said]:
    access = document.access
    if access.mode is Mode.AUDIT:
        yield "AUDIT", Severity.INFO, "access.mode", "nothing is refused: what would be is counted and logged"
    if not access.allow:
        yield "NOBODY_ALLOWED", Severity.WARNING, "access", f"no rule allows anybody to call {document.name}"
    for effect, rules in (("deny", access.deny), ("allow", access.allow)):
        for at, rule in enumerate(rules):
            path = f"access.{effect}[{at}]"
            above = next((f"access.{effect}[{n}]" for n in range(at) if _covers(rules[n], rule)), None)
            if above is not None:
                yield "RULE_REPEATED", Severity.WARNING, path, f"all of it is said by {above} already"
            denied = next((n for n, other in enumerate(access.deny) if _covers(other, rule)), None)
            if effect == "allow" and denied is not None:
                yield "RULE_UNREACHABLE", Severity.WARNING, path, f"access.deny[{denied}] denies all that it allows"


def _covers(wide: Rule, narrow: Rule) -> bool:
    return all(
        all(any(_within(one, other) for other in wider) for one in narrower)
        for wider, narrower in ((wide.callers, narrow.callers), (wide.methods, narrow.methods))
    )


def _within(narrow: str, wide: str) -> bool:
    """Tell whether every name that fits the one pattern fits the other."""
    return narrow == wide or (wide.endswith("*") and matches(wide, narrow.removesuffix("*")))


def _methods(document: Service, now: datetime) -> Iterator[Said]:
    for name, method in document.methods.items():
        path = f"methods.{name}"
        yield from _common(method, path, method.timeout or document.traffic.timeout, now)
        balance = method.balance or document.traffic.balance or Balance.QUEUE
        if method.idempotent is False and balance is Balance.QUEUE:
            text = "not idempotent and balanced by queue: when its instance dies, its outcome is known at the deadline"
            yield "QUEUE_NOT_IDEMPOTENT", Severity.INFO, path, text


def _traffic(traffic: Traffic, path: str, now: datetime) -> Iterator[Said]:
    yield from _common(traffic, path, traffic.timeout, now)
    budget = traffic.budget
    none = budget is not None and not budget.ratio and not budget.floor_per_second
    if none and not isinstance(traffic.retry, Off):
        yield "BUDGET_ZERO", Severity.WARNING, f"{path}.budget", "no retry is ever made: say retry: off instead"
    if traffic.split is not None:
        for key, weight in traffic.split.items():
            if not weight:
                yield "SPLIT_ZERO", Severity.INFO, f"{path}.split.{key}", "gets no call"


def _common(said: Traffic | Method, path: str, timeout: float | None, now: datetime) -> Iterator[Said]:
    deadline = timeout or _DEFAULT_TIMEOUT
    if isinstance(said.retry, Retry) and said.retry.tries > 1 and said.retry.pause >= deadline:
        text = (
            f"its first pause, up to {show_seconds(said.retry.pause)}, may be all of a call's {show_seconds(deadline)}"
        )
        yield "RETRY_PAST_DEADLINE", Severity.WARNING, f"{path}.retry", text
    if said.fault is not None and said.fault.over(now):
        yield "FAULT_OVER", Severity.WARNING, f"{path}.fault", f"it ended at {said.fault.until.isoformat()}: remove it"
