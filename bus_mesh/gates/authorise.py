"""Who may call what: deny by default, once per call and not once per try.

Stands at the caller's agent, so that a denied name causes no search on the bus, and at the receiver's, where it counts.
"""

from collections.abc import Callable
from typing import Final

from bus_mesh.gates.gate import Flight, Gate, Refuse
from bus_mesh.policy.access import NO_POLICY_LOADED, Access, Verdict
from bus_mesh.protocol.errors import FailedPrecondition, PermissionDenied, Ran

MOST_CALLERS: Final = 1024
"""Callers of one method whose verdict is remembered; those of more are asked for anew."""


class NoPolicy(FailedPrecondition, reason="NO_POLICY"):
    """This agent has no policy yet, so it lets nothing through."""


class Authorise(Gate):
    """Refuses what policy does not allow. `denied(call, verdict)` notes what was, or in audit would be, refused."""

    def __init__(self, access: Access, denied: Callable[[Flight, Verdict], None], side: str) -> None:
        self.side = side
        self._access = access
        self._denied = denied
        self._known: dict[str, Verdict] = {}

    def enter(self, call: Flight, now: float) -> Refuse | None:
        """Let an allowed call on, and mark it as permitted: without that mark nothing leaves this agent."""
        verdict = self._known.get(call.caller) or self._ask(call)
        if verdict.allowed:
            call.permit = verdict
            if verdict.audited:
                self._denied(call, verdict)
            return None
        self._denied(call, verdict)
        return Refuse(self._refusal(call, verdict))

    def _ask(self, call: Flight) -> Verdict:
        """Ask the evaluator. One path is for one (service, method) and policy, so its word on a caller stands."""
        verdict = self._access.check(call.caller, call.service, call.method)
        if len(self._known) < MOST_CALLERS:
            self._known[call.caller] = verdict
        return verdict

    def _refusal(self, call: Flight, verdict: Verdict) -> NoPolicy | PermissionDenied:
        if verdict is NO_POLICY_LOADED:
            return NoPolicy("this agent has no policy yet: busmesh policy apply -f PATH", ran=Ran.NO)
        text = f"{call.caller} may not call {call.service}/{call.method}: {verdict.rule} (policy {self._access.number})"
        details = {"rule": verdict.rule, "policy": self._access.number, "side": self.side}
        return PermissionDenied(text, details=details, ran=Ran.NO)
