"""Spans of calls: one for the call as its app sees it, one for each try below it, one where it is answered.

    app's span ──▶ call (client) ──▶ try 1, try 2 … (client) ──▶ served (server) ──▶ the handler's own calls

Only in the path where a node traces at all. What is not sampled costs a draw, or reading a `traceparent`; no span is
made for it. Pure: what has ended goes to `record`.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from bus_mesh.gates.gate import Flight, Gate
from bus_mesh.protocol.call import Outcome
from bus_mesh.protocol.errors import Code
from bus_mesh.protocol.trace import Trace, parse

__all__ = ["Served", "Span", "TraceCall", "TraceTry", "Tracing"]

CALL: Final = "call"
TRY: Final = "try"
SERVED: Final = "served"


class Span(NamedTuple):
    """A span that has ended. `began` and `ended` are seconds since 1970; `parent` is "" for the first of a trace."""

    kind: str
    service: str
    method: str
    caller: str
    trace_id: str
    span_id: str
    parent: str
    began: float
    ended: float
    attempt: int
    instance: str
    code: str
    reason: str


class Tracing(NamedTuple):
    """How a node traces: what share of the traces that begin here, where spans go, ids, and the time of day."""

    share: float
    record: Callable[[Span], None]
    entropy: Callable[[int], bytes]
    roll: Callable[[], float]
    wall: Callable[[], float]

    def begin(self, parent: Trace | None) -> Trace:
        """Return the place of a new span below `parent`, or of the first one of a new trace."""
        if parent is not None:
            return Trace(parent.trace_id, self.entropy(8).hex(), parent.sampled)
        return Trace(self.entropy(16).hex(), self.entropy(8).hex(), self.roll() < self.share)

    def end(self, kind: str, call: Flight, place: Trace, parent: str, began: float, outcome: Outcome) -> None:
        """Record a span that ends now; `began` is its wall clock."""
        where = place.trace_id, place.span_id, parent, began, self.wall()
        ended = call.attempt, outcome.instance or "", Code(outcome.code).name, outcome.reason
        self.record(Span(kind, call.service, call.method, call.caller, *where, *ended))


def carry(call: Flight, place: Trace) -> None:
    """Have whatever comes below know its parent."""
    call.head = {**(call.head or {}), "traceparent": place.text()}


class _Spans(Gate):
    kind = CALL

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._held: dict[int, tuple[Trace, str, float]] = {}

    def _enter(self, call: Flight, parent: Trace | None) -> None:
        place = self._tracing.begin(parent)
        carry(call, place)
        if place.sampled:
            self._held[id(call)] = place, parent.span_id if parent is not None else "", self._tracing.wall()

    def leave(self, call: Flight, outcome: Outcome, now: float) -> None:
        """End the span, if there is one."""
        held = self._held.pop(id(call), None)
        if held is not None:
            self._tracing.end(self.kind, call, *held, outcome)


class TraceCall(_Spans):
    """The span of a call as its app sees it."""

    def enter(self, call: Flight, now: float) -> None:
        """Begin it, below the app's own span where it said one."""
        self._enter(call, parse((call.head or {}).get("traceparent")))


class TraceTry(_Spans):
    """The spans of its tries: each is a child of the call's, and the parent of what the instance does."""

    kind = TRY

    def enter(self, call: Flight, now: float) -> None:
        """Begin one, unless the call is not sampled."""
        parent = parse((call.head or {}).get("traceparent"))
        if parent is not None and parent.sampled:
            self._enter(call, parent)

    def leave(self, call: Flight, outcome: Outcome, now: float) -> None:
        """End it, and have the next try be a child of the call's again."""
        held = self._held.get(id(call))
        if held is not None:
            place, above, _ = held
            carry(call, Trace(place.trace_id, above, True))
        super().leave(call, outcome, now)


class Served(_Spans):
    """The span of a call where it is answered."""

    kind = SERVED

    def enter(self, call: Flight, now: float) -> None:
        """Begin it below the try that came; the handler's calls come below it."""
        self._enter(call, parse((call.head or {}).get("traceparent")))
