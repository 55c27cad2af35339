"""Who may call what: deny by default, deny wins, and each verdict names its rule.

Pure. The rules of a service are compiled into tables: the caller's name gives a row, the method's name a verdict. There
is no cache, so nothing that strangers send is kept and nothing they send pushes anything out. A row is made when the
first caller of its kind turns up; rows are at most as many as the policy's own names and patterns.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from bus_mesh.policy.bundle import NO_POLICY, PolicySet
from bus_mesh.policy.match import Table, classes
from bus_mesh.policy.models import Mode, Rule, Service

__all__ = ["DEFAULT_DENY", "NO_POLICY_LOADED", "POLICY_EXPIRED", "Access", "Verdict"]


class Verdict(NamedTuple):
    """Whether a call may be made, and by which rule. `audited`: let through, though `rule` would have refused it."""

    allowed: bool
    rule: str
    audited: bool = False


DEFAULT_DENY: Final = Verdict(False, "default deny")
"""No rule speaks of this caller, service and method."""
POLICY_EXPIRED: Final = Verdict(False, "policy expired")
"""The rules may be old, and they themselves want calls to be refused then."""
NO_POLICY_LOADED: Final = Verdict(False, "no policy")
"""There are no rules yet."""

Row = Table[Verdict]


class Access:
    """Answers whether one service may call a method of another: one evaluator for both ends of a call."""

    __slots__ = ("_otherwise", "_services", "number")

    def __init__(self, policy: PolicySet) -> None:
        self.number = policy.number
        self._otherwise = NO_POLICY_LOADED if policy.empty else DEFAULT_DENY
        self._services = {name: _Compiled(service.document) for name, service in policy.services.items()}

    def expired(self) -> "Access":
        """Return what refuses every call because the policy has expired."""
        denying = Access(NO_POLICY)
        denying.number, denying._otherwise = self.number, POLICY_EXPIRED
        return denying

    def check(self, caller: str, service: str, method: str) -> Verdict:
        """Return the verdict on a call; any text may be asked, and what is no name is simply denied."""
        compiled = self._services.get(service)
        return self._otherwise if compiled is None else compiled.check(caller, method)

    def __repr__(self) -> str:
        return f"Access(policy {self.number}, {len(self._services)} services)"


class _Compiled:
    """The rules of one service. Denials are numbered before permissions, so the lowest number that fits decides."""

    __slots__ = ("_callers", "_otherwise", "_rows", "_rules", "_verdicts")

    def __init__(self, document: Service) -> None:
        access = document.access
        audit = access.mode is Mode.AUDIT
        self._otherwise = Verdict(audit, DEFAULT_DENY.rule, audit)
        self._rules: tuple[Rule, ...] = (*access.deny, *access.allow)
        self._verdicts = [
            *(Verdict(audit, _title(document, "deny", rule, at), audit) for at, rule in enumerate(access.deny)),
            *(Verdict(True, _title(document, "allow", rule, at)) for at, rule in enumerate(access.allow)),
        ]
        self._callers = Table(classes((number, rule.callers) for number, rule in enumerate(self._rules)))
        self._rows: dict[tuple[int, ...], Row] = {}

    def check(self, caller: str, method: str) -> Verdict:
        numbers = self._callers.find(caller)
        if numbers is None:
            return self._otherwise
        row = self._rows.get(numbers)
        if row is None:
            row = self._rows[numbers] = self._row(numbers)
        return row.find(method) or self._otherwise

    def _row(self, numbers: Sequence[int]) -> Row:
        found = classes((number, self._rules[number].methods) for number in numbers)
        return Table({pattern: self._verdicts[fitting[0]] for pattern, fitting in found.items()})


def _title(document: Service, effect: str, rule: Rule, at: int) -> str:
    return rule.name or f"{document.name}/access.{effect}[{at}]"
