"""Findings on how calls travel: parts of `traffic` that contradict each other, or do something else than they seem to.

Pure. `check.py` asks for them, document by document.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import accumulate, repeat
from typing import Any, Final, NamedTuple

from bus_mesh.policy.finding import Said, Severity
from bus_mesh.policy.match import covered, overlap
from bus_mesh.policy.models import Mesh, Method, Mode, Service, Traffic
from bus_mesh.policy.traffic import Balance, Fault, Hash, Mirror, Off, Retry
from bus_mesh.policy.units import show_seconds
from bus_mesh.protocol.names import is_plain

__all__ = ["Around", "mesh_traffic", "mirrored_twice", "service_traffic"]

_DEFAULT_TIMEOUT: Final = 5.0
_INFO, _WARNING = Severity.INFO, Severity.WARNING


class Around(NamedTuple):
    """What a document is checked beside: the mesh's word, the services of the same set, and the time."""

    mesh: Mesh
    services: Mapping[str, Service]
    now: datetime


def mesh_traffic(mesh: Mesh, now: datetime) -> Iterator[Said]:
    """Yield what stands out in the traffic of a Mesh document."""
    yield from _written(mesh.traffic, "traffic", (mesh.traffic,), now)
    yield from _of_all(mesh.traffic, (mesh.traffic,))


def service_traffic(document: Service, around: Around) -> Iterator[Said]:
    """Yield what stands out in the traffic of a service and of its methods."""
    words = (document.traffic, around.mesh.traffic)
    yield from _written(document.traffic, "traffic", words, around.now)
    yield from _of_all(document.traffic, words)
    yield from _denied(document, document.traffic.mirror, "traffic.mirror", "*", around)
    for name, method in document.methods.items():
        path, nearest = f"methods.{name}", (method, *words)
        yield from _written(method, path, nearest, around.now)
        yield from _denied(document, method.mirror, f"{path}.mirror", name, around)
        if method.idempotent is False:
            yield from _not_idempotent(document, path, nearest)


Words = tuple[Traffic | Method, ...]
"""Who may say something of a part, the nearest first."""


def _written(said: Traffic | Method, path: str, words: Words, now: datetime) -> Iterator[Said]:
    """Yield what one place says by itself, or together with what is said around it."""
    retry = _word("retry", words)
    if said.retry is not None or said.timeout is not None:
        yield from _late(retry, _word("timeout", words) or _DEFAULT_TIMEOUT, path, own=said.retry is not None)
    if isinstance(said.breaker, Off) and not _never(retry):
        text = "off, while calls are tried again: an instance that keeps failing gets its share of calls and retries"
        yield "BREAKER_OFF", _INFO, f"{path}.breaker", text
    if said.fault is not None:
        yield from _fault(said.fault, f"{path}.fault", now)
    if isinstance(said.balance, Hash):
        key = said.balance.hash
        what = "without options(key=…)" if key == "key" else f"without {key}"
        text = f"a call {what} goes as by least_request, and counts in busmesh_astray_total"
        yield "HASH_KEY", _INFO, f"{path}.balance", text
        yield from _hashed(f"{path}.balance", words)


def _of_all(said: Traffic, words: Words) -> Iterator[Said]:
    """Yield what is only said of a whole service, or of the mesh."""
    none = said.budget is not None and not said.budget.ratio and not said.budget.floor_per_second
    if none and not isinstance(said.retry, Off):
        yield "BUDGET_ZERO", _WARNING, "traffic.budget", "no retry is ever made: say retry: off instead"
    for key, weight in (said.split or {}).items():
        if not weight:
            yield "SPLIT_ZERO", _INFO, f"traffic.split.{key}", "gets no call"
    if said.split is not None and len(said.split) == 1:
        (key,) = said.split
        text = "gets all calls: other instances get none, and while none of these is up, nobody answers"
        yield "SPLIT_ONE", _INFO, f"traffic.split.{key}", text
    if said.balance is None and isinstance(_word("balance", words), Hash):
        path = "traffic.locality" if said.locality is not None else "traffic.split"
        if said.locality is not None or said.split is not None:
            yield from _hashed(path, words)


def _late(retry: Retry | Off | None, deadline: float, path: str, *, own: bool) -> Iterator[Said]:
    """Yield that the pauses of retries may take all the time that a call has."""
    if not isinstance(retry, Retry) or _never(retry):
        return
    doubled = accumulate(repeat(2.0, retry.tries - 2), lambda pause, two: pause * two, initial=retry.pause)
    pauses = [min(pause, retry.longest_pause) for pause in doubled]
    where = f"{path}.{'retry' if own else 'timeout'}"
    if pauses[0] >= deadline:
        text = f"its first pause, up to {show_seconds(pauses[0])}, may be all of a call's {show_seconds(deadline)}"
        yield "RETRY_PAST_DEADLINE", _WARNING, where, text
    elif sum(pauses) >= deadline:
        took, last = show_seconds(round(sum(pauses), 6)), retry.tries
        text = f"its pauses, up to {took} in all, may be all of a call's {show_seconds(deadline)}: no try {last} then"
        yield "RETRY_PAST_DEADLINE", _WARNING, where, text


def _never(retry: Retry | Off | None) -> bool:
    return isinstance(retry, Off) or (retry is not None and retry.tries == 1)


def _fault(fault: Fault, path: str, now: datetime) -> Iterator[Said]:
    if fault.over(now):
        yield "FAULT_OVER", _WARNING, path, f"it ended at {fault.until.isoformat()}: remove it"
    elif fault.percent == 100.0:
        what = "refused" if fault.abort else f"delayed by {show_seconds(fault.delay or 0.0)}"
        yield "FAULT_TOTAL", _WARNING, path, f"every call is {what} until {fault.until.isoformat()}"


def _hashed(path: str, words: Words) -> Iterator[Said]:
    """Yield what makes calls with one key go to more than one instance."""
    locality = _word("locality", words)
    if locality is not None:
        text = f"callers of another {locality.prefer} send the same key to another instance, for locality comes first"
        yield "HASH_LOCALITY", _WARNING, path, text
    if len(_word("split", words) or ()) > 1:
        text = "the split comes first: a change of its weights moves keys to instances of the other part"
        yield "HASH_SPLIT", _INFO, path, text


def _denied(document: Service, mirror: Mirror | None, path: str, method: str, around: Around) -> Iterator[Said]:
    """Yield whose copies the other service refuses, which nobody would notice: their answers are dropped."""
    if mirror is None or not mirror.percent:
        return
    other = around.services.get(mirror.to)
    if other is None:
        text = f"{mirror.to} has no document here, and what no rule allows is denied: copies are refused"
        yield "MIRROR_DENIED", _WARNING, path, text
        return
    rules = document.access.allow
    pairs = ((caller, one) for rule in rules for caller in rule.callers for one in rule.methods)
    called = {(caller, one) for caller, one in pairs if overlap(one, method)}
    taken = {caller for caller, one in called if _takes(other, caller, one)}
    refused = sorted({caller for caller, _ in called} - taken)
    if refused:
        text = f"no rule of {mirror.to} allows {', '.join(refused[:8])}: copies of their calls are refused"
        yield "MIRROR_DENIED", _WARNING, path, text


def _takes(service: Service, caller: str, method: str) -> bool:
    """Tell whether a service lets in any of the calls that two patterns stand for."""
    access = service.access
    if any(covered((caller,), rule.callers) and covered((method,), rule.methods) for rule in access.deny):
        return access.mode is Mode.AUDIT
    some = ((one, other) for rule in access.allow for one in rule.callers for other in rule.methods)
    return access.mode is Mode.AUDIT or any(overlap(caller, one) and overlap(method, other) for one, other in some)


def _not_idempotent(document: Service, path: str, words: Words) -> Iterator[Said]:
    if is_plain(document.name):  # who answers is the broker's choice alone, and nothing is mirrored
        return
    balance = _word("balance", words) or Balance.QUEUE
    if balance is Balance.QUEUE and _word("split", words) is None and _word("locality", words) is None:
        text = "not idempotent and balanced by queue: when its instance dies, its outcome is known at the deadline"
        yield "QUEUE_NOT_IDEMPOTENT", _INFO, path, text
    mirror = _word("mirror", words)
    if mirror is not None and mirror.percent and mirror.to != document.name:
        yield "MIRROR_NOT_IDEMPOTENT", _WARNING, path, mirrored_twice(mirror.to)


def mirrored_twice(to: str) -> str:
    """Return what is said of a mirrored method that is not idempotent."""
    return f"not idempotent, and {to} runs copies of its calls too: let it see current().mirrored, or mirror 0% of it"


def _word(part: str, words: Words) -> Any:
    """Return the nearest word on a part, None where nobody says anything."""
    said = (getattr(word, part, None) for word in words)
    return next((word for word in said if word is not None), None)
