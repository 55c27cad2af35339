"""What policy comes to for one service: each part of its traffic, and whose word it is. For people to look at.

Pure. Paths ask `PolicySet` one part at a time; this lays all of it out.
"""

from collections.abc import Iterator
from typing import Any, Final

from pydantic_core import to_jsonable_python

from bus_mesh.policy.bundle import PolicySet, ServicePolicy
from bus_mesh.policy.models import OUTSIDE_TRAFFIC, Health, Tap
from bus_mesh.policy.traffic import Balance, Breaker, Budget, Limit, Off, Retry
from bus_mesh.policy.units import CALL_LONGEST, show_seconds
from bus_mesh.protocol.names import is_plain

__all__ = ["DEFAULTS", "policy_of"]

DEFAULTS: Final[dict[str, Any]] = {
    "timeout": None,
    "longest_timeout": CALL_LONGEST,
    "retry": Retry(),
    "budget": Budget(),
    "breaker": Breaker(),
    "limit": Limit(),
    "rate": None,
    "balance": Balance.QUEUE,
    "locality": None,
    "split": None,
    "fault": None,
    "mirror": None,
    "envelope": "sealed",
    "expose": "off",
    "health": Health(),
    "tap": Tap(),
}
"""What holds where nobody says anything; None: no such part, and for `timeout` the contract's, else 5 s."""
OUTSIDE: Final = tuple(part for part in DEFAULTS if part in OUTSIDE_TRAFFIC)
"""The parts that hold for a plain service of NATS."""
_BESIDE: Final = frozenset(("envelope", "expose", "health", "tap"))  # what stands beside `traffic` in a document


def policy_of(policy: PolicySet, service: str) -> dict[str, Any] | None:
    """Return what policy says of a service: `access`, `traffic` by part, and by method the parts that it says itself.

    Each part is {value, from}; the latter is method, service, mesh or default. None: the service has no document.
    """
    said = policy.services.get(service)
    if said is None:
        return None
    access = said.document.access
    return {
        "access": {"mode": access.mode.value, "allow": len(access.allow), "deny": len(access.deny)},
        "traffic": {part: _resolved(said, part) for part in (OUTSIDE if is_plain(service) else DEFAULTS)},
        "methods": {name: parts for name in sorted(said.document.methods) if (parts := dict(_own(said, name)))},
    }


def _resolved(said: ServicePolicy, part: str) -> dict[str, Any]:
    words = (("service", _word(said.document, part)), ("mesh", _word(said.mesh, part)))
    for place, value in words:
        if value is not None and not (part == "mirror" and value.to == said.name):  # as in PolicySet.mirror
            return {"value": _plain(value), "from": place}
    return {"value": _plain(DEFAULTS[part]), "from": "default"}


def _own(said: ServicePolicy, method: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in (*DEFAULTS, "idempotent"):
        value = said.of_method(part, method)
        if value is not None:
            yield part, {"value": _plain(value), "from": "method"}


def _word(document: Any, part: str) -> Any:
    return getattr(document if part in _BESIDE else document.traffic, part, None)


def _plain(value: Any) -> Any:
    """Return a part as people write it, in what JSON and MessagePack hold."""
    if isinstance(value, float):  # a length of time; those within a part write themselves
        return show_seconds(value)
    return "off" if isinstance(value, Off) else to_jsonable_python(value, exclude_none=True)
