"""Which policy an agent follows: never backwards, never two under one number, never a part of one.

Pure: heads come verified, and the time is handed in: `now` in monotonic seconds, `wall_us` since 1970.

    NOTHING ──take──▶ FRESH ──15 s without a head──▶ STALE ──the head's expiry──▶ EXPIRED
                        ▲────────────a head of the same or a newer bundle──────────┘

What a head means beside the one in force, compared by (term, number):
    higher                      TAKE: fetch what is lacking, check all of it, and only then `take` it
    equal, the same manifest    KEEP: only its times move, and only forward
    equal, another manifest     FORK: two bundles under one number; keep the first, and tell a person
    lower                       OLD: a rolled-back store, or a recording; refused
"""

from enum import Enum
from math import inf
from typing import Final, NamedTuple

__all__ = ["STALE_SECONDS", "Follower", "Freshness", "InForce", "Meaning"]

STALE_SECONDS: Final = 15.0
"""Seconds without a head after which the policy in force may be old."""
SKEW_SECONDS: Final = 60.0
"""What clocks may differ by; a head that was issued longer ago was held back, or is a recording."""


class Meaning(Enum):
    """What a head means; see the table above."""

    TAKE = "take"
    KEEP = "keep"
    FORK = "fork"
    OLD = "old"


class Freshness(Enum):
    """How sure it is that nothing newer is in force elsewhere; see the diagram above."""

    NOTHING = "nothing"
    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"


class InForce(NamedTuple):
    """A bundle as a head named it: what is kept on disk beside the documents."""

    term: int
    number: int
    manifest: bytes
    expires_us: int
    issued_us: int = 0


class Follower:
    """The bundle in force at one agent. Start it with what was kept on disk, if anything was."""

    __slots__ = ("_heard_at", "in_force")

    def __init__(self, in_force: InForce | None = None) -> None:
        self.in_force = in_force
        self._heard_at: float | None = None

    def hear(self, head: InForce, now: float, wall_us: int) -> Meaning:
        """Return what a verified head means; a newer one of the bundle in force proves that it still is.

        One that was issued before the last one proves nothing: it may be a recording.
        """
        held = self.in_force
        if held is None or (head.term, head.number) > (held.term, held.number):
            return Meaning.TAKE
        if (head.term, head.number) < (held.term, held.number):
            return Meaning.OLD
        if head.manifest != held.manifest:
            return Meaning.FORK
        if head.issued_us > held.issued_us:
            expires_us = max(held.expires_us, head.expires_us)
            self.in_force = held._replace(expires_us=expires_us, issued_us=head.issued_us)
            self._heard_at = now - _age(head, wall_us)
        return Meaning.KEEP

    def take(self, head: InForce, now: float, wall_us: int) -> bool:
        """Put a bundle into force whose documents have all been checked; False when it is no longer the newest.

        Between its head and its last document a newer bundle may have been taken: policy never goes backwards.
        """
        if self.in_force is not None and (head.term, head.number) <= (self.in_force.term, self.in_force.number):
            return False
        self.in_force = head
        self._heard_at = now - _age(head, wall_us)
        return True

    def age(self, now: float) -> float:
        """Return the seconds since a head was signed that says what is in force is the newest; infinity before any."""
        return inf if self._heard_at is None else now - self._heard_at

    def freshness(self, now: float, wall_us: int) -> Freshness:
        """Tell how sure it is that the bundle in force is the newest."""
        if self.in_force is None:
            return Freshness.NOTHING
        if wall_us >= self.in_force.expires_us:
            return Freshness.EXPIRED
        if self._heard_at is None or now - self._heard_at > STALE_SECONDS:
            return Freshness.STALE
        return Freshness.FRESH

    def __repr__(self) -> str:
        held = self.in_force
        what = "nothing" if held is None else f"{held.term}.{held.number} {held.manifest.hex()[:12]}…"
        return f"Follower({what})"


def _age(head: InForce, wall_us: int) -> float:
    """Return how many seconds ago a head was issued, 0 for what two clocks may well disagree about."""
    seconds = (wall_us - head.issued_us) / 1e6
    return seconds if seconds > SKEW_SECONDS else 0.0
