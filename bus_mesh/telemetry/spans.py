"""Spans on their way to a collector, by OTLP over HTTP: the only place that knows OpenTelemetry.

The SDK is an extra (`bus-mesh[otel]`), met only where node.yaml has `traces:`, and by sampled calls alone. It sends
from a thread of its own, from a bounded queue: a collector that is slow or away costs spans, and never a call.

Names follow OpenTelemetry's conventions for RPC; they stand here and nowhere else.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

__all__ = ["Exporter", "NoExporter", "open_exporter"]

QUEUE: Final = 2048
"""Spans that wait to be sent; more are dropped."""
EVERY_MS: Final = 1000
SEND_SECONDS: Final = 5.0
SYSTEM: Final = "busmesh"
_PATH: Final = "/v1/traces"


class NoExporter(Exception):
    """OpenTelemetry is not installed here; the message says how to get it."""


class Ended(Protocol):
    """A span that has ended; `kind` is call, try or served."""

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


class Exporter:
    """Sends spans. `record` takes one, on any thread and at once; `close` sends what is there, some seconds at most."""

    def __init__(self, processor: Any, make: Callable[[Any], Any]) -> None:
        self._processor = processor
        self._make = make

    def record(self, span: Any) -> None:
        """Have a span sent."""
        self._processor.on_end(self._make(span))

    def close(self) -> None:
        """Send what is left, and end."""
        self._processor.shutdown()


def open_exporter(endpoint: str, resource: Mapping[str, str]) -> Exporter:
    """Return what sends spans to a collector at `endpoint`, like http://127.0.0.1:4318; raise NoExporter."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
    except ImportError as error:
        raise NoExporter(f"{error.name} is not installed: pip install 'bus-mesh[otel]'") from None
    url = endpoint if endpoint.endswith(_PATH) else endpoint.rstrip("/") + _PATH
    sender = OTLPSpanExporter(endpoint=url, timeout=int(SEND_SECONDS))
    processor = BatchSpanProcessor(sender, max_queue_size=QUEUE, schedule_delay_millis=EVERY_MS)
    about, scope = Resource.create(dict(resource)), InstrumentationScope("bus_mesh")
    sampled = TraceFlags(TraceFlags.SAMPLED)

    def place(trace_id: str, span_id: str, remote: bool) -> SpanContext:
        return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=remote, trace_flags=sampled)

    def make(span: Ended) -> ReadableSpan:
        served = span.kind == "served"
        return ReadableSpan(
            name=f"{span.service}/{span.method}" if span.kind != "try" else f"{span.service}/{span.method} try",
            context=place(span.trace_id, span.span_id, remote=False),
            parent=place(span.trace_id, span.parent, remote=served) if span.parent else None,
            resource=about,
            attributes=attributes(span),
            kind=SpanKind.SERVER if served else SpanKind.CLIENT,
            status=Status(StatusCode.UNSET) if span.code == "OK" else Status(StatusCode.ERROR, span.reason),
            start_time=int(span.began * 1e9),
            end_time=int(span.ended * 1e9),
            instrumentation_scope=scope,
        )

    return Exporter(processor, make)


def attributes(span: Ended) -> dict[str, str | int]:
    """Return what a span says, by the names of OpenTelemetry's conventions for RPC."""
    said: dict[str, str | int] = {
        "rpc.system.name": SYSTEM,
        "rpc.method": f"{span.service}/{span.method}",
        "rpc.response.status_code": span.code,
        "busmesh.caller": span.caller,
        "busmesh.attempt": span.attempt,
    }
    if span.instance:
        said["busmesh.instance"] = span.instance
    if span.code != "OK":
        said["error.type"] = span.reason or span.code
    return said
