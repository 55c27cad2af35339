"""Why bytes were not believed. The names are metric labels: they are few, and they never change.

IdentityError
├── Untrusted       a document (delegation, certificate, announcement) that does not hold
│   └── Misfit      what a node really said, dated by a clock that is not ours, or after its certificate's end
├── Dropped         an envelope that nobody gets an answer to
└── NotARecipient   an envelope of a known sender for somebody else (in `keyring`)
"""

from enum import StrEnum
from typing import Final

__all__ = ["ALARMS", "Dropped", "IdentityError", "Misfit", "Reason", "Untrusted"]


class Reason(StrEnum):
    """What was wrong; a member equals its name as text."""

    FORMAT = "FORMAT"  # no envelope, cut short, or a reserved bit set
    KIND = "KIND"  # this kind of envelope does not come on this subject
    STRANGER = "STRANGER"  # the sender's key is not known and nothing introduces it
    SUITE = "SUITE"  # not the suite of the sender's key
    NOT_A_RECIPIENT = "NOT_A_RECIPIENT"  # sealed for others
    FORGED = "FORGED"  # the bytes, or the subject, are not what the sender sealed
    REPLAYED = "REPLAYED"  # this counter was here before, or is too old to tell
    FRAMES = "FRAMES"  # authentic, and still not a row of frames
    MALFORMED = "MALFORMED"  # not a document of this type
    TOO_LARGE = "TOO_LARGE"
    BAD_SIGNATURE = "BAD_SIGNATURE"
    WEAK_KEY = "WEAK_KEY"  # a point of small order: anything verifies under it
    WRONG_MESH = "WRONG_MESH"
    WRONG_ROLE = "WRONG_ROLE"
    WRONG_NODE = "WRONG_NODE"  # speaks for another node than its certificate or its subject names
    NOT_YET_VALID = "NOT_YET_VALID"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"
    CLOCK_SKEW = "CLOCK_SKEW"  # the clocks of the two machines differ by over a minute
    BUDGET = "BUDGET"  # too many signatures to check this second
    FULL = "FULL"  # as many senders as we keep
    KEY_ID_HELD = "KEY_ID_HELD"  # a key that another node announced first
    NOT_GRANTED = "NOT_GRANTED"  # its certificate does not let the node ask, or answer, in that name
    NOT_ITS_ANSWER = "NOT_ITS_ANSWER"  # an answer to another request than the one shown
    CLONE = "CLONE"  # our own identity, in use by a process that started after us


ALARMS: Final = frozenset({Reason.KEY_ID_HELD, Reason.CLONE})
"""Reasons that a person must hear of: somebody holds, or copies, what is another's."""


class IdentityError(Exception):
    """Bytes that were not believed, with the reason."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message

    @property
    def alarm(self) -> bool:
        """Whether a person must hear of it."""
        return self.reason in ALARMS


class Untrusted(IdentityError):
    """A document that does not hold; the message says what was found and what would do."""


class Misfit(Untrusted):
    """An announcement that its node has signed, and that does not fit the time: CLOCK_SKEW, EXPIRED or NOT_YET_VALID.

    `by_us` is how far the node's clock is ahead of ours (less than 0: behind), how long ago its certificate ended, or
    in how long it begins; `mark` is what grows with each word of the node.
    """

    def __init__(self, reason: Reason, message: str, node: str, boot: str, by_us: int, mark: tuple[int, int]) -> None:
        super().__init__(reason, message)
        self.node = node
        self.boot = boot
        self.by_us = by_us
        self.mark = mark


class Dropped(IdentityError):
    """An envelope that is met with silence: an answer would tell a stranger something, or run something twice."""

    def __init__(self, reason: Reason, message: str = "envelope dropped") -> None:
        super().__init__(reason, message)
