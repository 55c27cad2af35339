"""What a check of a policy comes to: findings, each with a code that stays, and how much it matters."""

from enum import IntEnum
from typing import NamedTuple

__all__ = ["Finding", "Said", "Served", "Severity"]


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
    not_idempotent: frozenset[str] = frozenset()
    """Those of the methods that their contract does not call idempotent."""


Said = tuple[str, Severity, str, str]
"""Code, severity, path and message of a finding whose document is known."""
