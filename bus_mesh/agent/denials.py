"""What policy refused at this agent, or would refuse but for `mode: audit`: counted by rule, told, kept as a table."""

from collections import Counter
from typing import Any, Final

from bus_mesh.gates.gate import Flight
from bus_mesh.policy.access import Verdict
from bus_mesh.protocol.errors import Code
from bus_mesh.protocol.trace import parse
from bus_mesh.telemetry.log import Limited
from bus_mesh.telemetry.metrics import Metrics

MOST_ROWS: Final = 1000
"""Different (caller, service, method, rule) that are kept; more are counted together."""
_MORE: Final = ("…", "…", "…", "…")


class Denials:
    """Notes each refusal, and each call that was let through only because it is audited."""

    def __init__(self, metrics: Metrics, log: Limited) -> None:
        self._metrics = metrics
        self._log = log
        self._audited: Counter[tuple[str, str, str, str]] = Counter()

    def __repr__(self) -> str:
        return f"Denials(audited={self._audited.total()})"

    def note(self, call: Flight, verdict: Verdict, policy: int) -> None:
        """Count a call that a rule refuses, or would; `policy` is the number of what is in force."""
        self._metrics.denied.add(verdict.rule)
        if verdict.audited:
            row = call.caller, call.service, call.method, verdict.rule
            self._audited[row if row in self._audited or len(self._audited) < MOST_ROWS else _MORE] += 1
        trace = parse((call.head or {}).get("traceparent"))
        self._log.warning(
            "denied",
            rule=verdict.rule,
            policy=policy,
            audited=verdict.audited,
            code=Code.OK.name if verdict.audited else Code.PERMISSION_DENIED.name,
            caller=call.caller,
            service=call.service,
            method=call.method,
            **({} if trace is None else {"trace_id": trace.trace_id, "span_id": trace.span_id}),
        )

    def audited(self) -> list[dict[str, Any]]:
        """Return the calls that `mode: audit` let through, most of them first."""
        names = "caller", "service", "method", "rule"
        return [{**dict(zip(names, row, strict=True)), "calls": calls} for row, calls in self._audited.most_common()]
