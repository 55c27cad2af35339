"""Where the endpoints of plain services of NATS are, as these say when they are asked (`$SRV.INFO`, ADR-32).

Pure. What they say is a stranger's word, so it is only kept where it leads out of the mesh: to a subject that is no
mesh's, no inbox and nothing of the broker's.

    nothing known ──asked──▶ open for FIND_PATIENCE ──an answer──▶ known, others add for SETTLE ──HELD──▶ asked again

A question is open to `_MOST_ANSWERS` answers within FIND_PATIENCE, and all of them together name `_MOST_ENDPOINTS`.
"""

import json
from typing import Final, NamedTuple

from bus_mesh.protocol import names
from bus_mesh.protocol.subjects import is_outside

__all__ = ["AWAY", "FIND_PATIENCE", "HELD", "SETTLE", "Endpoint", "Outside"]

AWAY: Final = "the way to plain services of NATS is away or clogged: the call was not sent, see busmesh check"
"""What a call is told that could not leave."""

FIND_PATIENCE: Final = 2.0
"""Seconds that a call waits for a plain service to say where its endpoints are, and that it may do so."""
SETTLE: Final = 0.25
"""Seconds in which further instances may name an endpoint that the first ones have not."""
HELD: Final = 30.0
"""Seconds until a service is asked again, while what is known of it is still used."""
_MOST_BYTES: Final = 256 * 1024
_MOST_ENDPOINTS: Final = 256
_MOST_ANSWERS: Final = 256
_LONGEST_SUBJECT: Final = 255
_INFO: Final = "io.nats.micro.v1.info_response"


class Endpoint(NamedTuple):
    """Where calls to one endpoint of a plain service go."""

    subject: str


class _Known:
    __slots__ = ("answered_at", "answers", "asked_at", "endpoints")

    def __init__(self) -> None:
        self.asked_at = float("-inf")
        self.answered_at: float | None = None
        self.answers = 0
        self.endpoints: dict[str, Endpoint] = {}


class Outside:
    """What is known of plain services, by the names that they are called by: `micro:NAME`. Times: monotonic seconds."""

    def __init__(self) -> None:
        self._services: dict[str, _Known] = {}

    def __repr__(self) -> str:
        return f"Outside({ {name: sorted(known.endpoints) for name, known in self._services.items()} })"

    def endpoint(self, service: str, name: str) -> Endpoint | None:
        """Return where an endpoint is, None while that is not known."""
        known = self._services.get(service)
        return None if known is None else known.endpoints.get(name)

    def endpoints(self, service: str) -> list[str]:
        """Return the names of all endpoints that are known of a service."""
        known = self._services.get(service)
        return [] if known is None else sorted(known.endpoints)

    def due(self, service: str, name: str, now: float) -> bool:
        """Tell whether the service is to be asked now, for somebody who wants this endpoint."""
        known = self._services.get(service)
        return known is None or now >= known.asked_at + (HELD if name in known.endpoints else FIND_PATIENCE)

    def until(self, service: str) -> float:
        """Return when it is no use any more to wait for an endpoint that is not known."""
        known = self._services.get(service)
        if known is None:  # forgotten while somebody waited for another endpoint of it
            return float("-inf")
        return known.asked_at + FIND_PATIENCE if known.answered_at is None else known.answered_at + SETTLE

    def asked(self, service: str, now: float) -> None:
        """Note that the service is being asked; the first answer then replaces what was known."""
        known = self._services.setdefault(service, _Known())
        known.asked_at, known.answered_at, known.answers = now, None, 0

    def forget(self, service: str) -> None:
        """Forget a service: nobody listens any more where its endpoints were."""
        self._services.pop(service, None)

    def learn(self, service: str, data: bytes, now: float) -> bool:
        """Take in the answer of one instance to a question; False for what is none, or says nothing new."""
        known = self._services.get(service)
        if known is None or now > known.asked_at + FIND_PATIENCE or known.answers >= _MOST_ANSWERS:
            return False
        known.answers += 1
        found = _read(service, data)
        if found and known.answered_at is None:
            known.endpoints, known.answered_at = found, now
            return True
        new = [name for name in found if name not in known.endpoints][: _MOST_ENDPOINTS - len(known.endpoints)]
        known.endpoints |= {name: found[name] for name in new}
        return bool(new)


def _read(service: str, data: bytes) -> dict[str, Endpoint]:
    """Return the endpoints that an answer names, those left out that cannot be called or lead into a mesh."""
    try:
        said = json.loads(data) if len(data) <= _MOST_BYTES else None
    except (ValueError, RecursionError):
        return {}
    if type(said) is not dict or (said.get("type"), said.get("name")) != (_INFO, service[len(names.MICRO) :]):
        return {}
    listed = said.get("endpoints")
    found = {}
    for one in listed[:_MOST_ENDPOINTS] if type(listed) is list else ():
        name, subject = (one.get("name"), one.get("subject")) if type(one) is dict else (None, None)
        if type(name) is str and type(subject) is str and names.is_endpoint(name) and _may_be_asked(subject):
            found[name] = Endpoint(subject)
    return found


def _may_be_asked(subject: str) -> bool:
    tokens = subject.split(".")
    plain = subject.isascii() and subject.isprintable() and " " not in subject and len(subject) <= _LONGEST_SUBJECT
    return plain and is_outside(subject) and all(tokens) and not {"*", ">"} & set(tokens)
