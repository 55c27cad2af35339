"""What is allowed to be written and is probably not meant: findings across the documents of a policy.

Pure. Each kind of finding has a stable code. An ERROR cannot be put into force by the agents of this version; a WARNING
can, and does something else than it seems to say; an INFO is good to know.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

from bus_mesh.policy.check_traffic import Around, mesh_traffic, mirrored_twice, service_traffic
from bus_mesh.policy.finding import Finding, Said, Served, Severity
from bus_mesh.policy.match import covered, matches
from bus_mesh.policy.models import Mesh, Mode, PolicyDocument, Rule, Service
from bus_mesh.protocol.names import is_plain

__all__ = ["Finding", "Served", "Severity", "check", "check_served"]


def check(documents: Iterable[PolicyDocument], now: datetime) -> list[Finding]:
    """Return what stands out in a policy, document by document; `now` tells which faults are over."""
    given, found = list(documents), []
    services = {document.name: document for document in given if isinstance(document, Service)}
    around = Around(next((document for document in given if isinstance(document, Mesh)), Mesh()), services, now)
    for document in given:
        said: list[Said] = []
        if isinstance(document, Service):
            said = [*service_traffic(document, around), *_rules(document)]
        elif isinstance(document, Mesh):
            said = [*mesh_traffic(document, now)]
        found += [Finding(code, severity, document.place, path, text) for code, severity, path, text in said]
    return found


def check_served(documents: Iterable[PolicyDocument], served: Mapping[str, Served]) -> list[Finding]:
    """Return what of a policy fits nothing that is served now: names that are misspelled, or of tomorrow."""
    found = []
    for document in documents:
        if isinstance(document, Service) and not is_plain(document.name):
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
    yield from _unmet(document, there)


def _unmet(document: Service, there: Served) -> Iterator[Said]:
    """Yield what of its traffic no instance meets, or what their contract makes doubtful."""
    for key in document.traffic.split or ():
        major = {version.partition(".")[0] for version in there.versions}
        if key not in major and key not in there.labels:
            known = ", ".join(sorted(major | there.labels)) or "none"
            yield "SPLIT_UNSERVED", Severity.WARNING, f"traffic.split.{key}", f"no instance fits; there is {known}"
    locality, names = document.traffic.locality, {label.partition("=")[0] for label in there.labels}
    if locality is not None and locality.prefer not in names:
        known = ", ".join(sorted(names)) or "none"
        text = f"no instance has the label {locality.prefer!r}, so all are far; there is {known}"
        yield "LOCALITY_UNSERVED", Severity.WARNING, "traffic.locality.prefer", text
    mirror = document.traffic.mirror
    if mirror is not None and mirror.percent:
        said = {name for name, method in document.methods.items() if method.idempotent is not None or method.mirror}
        if twice := sorted(there.not_idempotent - said):
            text = f"{', '.join(twice[:8])}: {mirrored_twice(mirror.to)}"
            yield "MIRROR_NOT_IDEMPOTENT", Severity.WARNING, "traffic.mirror", text


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
    return covered(narrow.callers, wide.callers) and covered(narrow.methods, wide.methods)
