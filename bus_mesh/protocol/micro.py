"""What services of NATS say of themselves when they are asked (ADR-32, "Service API"), and how they answer.

Pure. A mesh's instance is a service there, each of its methods an endpoint. What goes out is strict: every field is
there, numbers are integers, metadata is text to text. Times are nanoseconds, as the ADR has them.
"""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from bus_mesh.protocol.errors import Code

__all__ = ["ERROR", "ERROR_CODE", "VERBS", "Count", "Served", "code_of", "failure", "parse", "said", "semver"]

VERBS: Final = ("PING", "INFO", "STATS")
ERROR: Final = "Nats-Service-Error"
ERROR_CODE: Final = "Nats-Service-Error-Code"
LONGEST_MESSAGE: Final = 1024
"""Characters of an error's message that go into a header, or are read from one."""
_NUMBER: Final = r"(?:0|[1-9]\d*)"
_SEMVER: Final = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?",
    re.ASCII,
)
_SHORT: Final = re.compile(rf"{_NUMBER}(?:\.{_NUMBER})?", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_HTTP: Final = {
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}

_CODES: Final = {str(status): code for code, status in reversed(_HTTP.items())}  # of two with one number, the first


class Count:
    """What one endpoint of one instance has done since the instance came. `seconds` is the sum of all calls'."""

    __slots__ = ("errors", "last_error", "requests", "seconds")

    def __init__(self) -> None:
        self.requests = self.errors = 0
        self.seconds = 0.0
        self.last_error = ""

    def __repr__(self) -> str:
        return f"Count({self.requests}, errors={self.errors})"


class Served(NamedTuple):
    """One instance as services of NATS see it. `subject` is what comes before the name of an endpoint."""

    service: str
    id: str
    version: str
    metadata: Mapping[str, str]
    started_us: int
    subject: str
    endpoints: Mapping[str, Count]


def parse(subject: str) -> tuple[str, str, str] | None:
    """Return (verb, name, id) of a question, "" for what it leaves open, or None when it is none."""
    prefix, _, rest = subject.partition(".")
    verb, *narrower = rest.split(".")
    if prefix != "$SRV" or verb not in VERBS or len(narrower) > 2 or not all(map(_NAME.fullmatch, narrower)):
        return None
    name, id = [*narrower, "", ""][:2]
    return verb, name, id


def said(verb: str, served: Served) -> bytes:
    """Return an instance's answer to PING, INFO or STATS, as JSON."""
    answer: dict[str, Any] = {
        "type": f"io.nats.micro.v1.{verb.lower()}_response",
        "name": served.service,
        "id": served.id,
        "version": semver(served.version),
        "metadata": {**served.metadata, "version": served.version},
    }
    if verb == "INFO":
        answer["description"] = f"{served.service}, a service of a bus mesh"
        answer["endpoints"] = [{**_endpoint(served, name), "metadata": {}} for name in served.endpoints]
    elif verb == "STATS":
        began = datetime.fromtimestamp(served.started_us // 1_000_000, UTC).replace(
            microsecond=served.started_us % 1_000_000
        )
        answer["started"] = began.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        answer["endpoints"] = [
            {**_endpoint(served, name), **_statistics(count)} for name, count in served.endpoints.items()
        ]
    return json.dumps(answer).encode()


def semver(version: str) -> str:
    """Return `version` as the three numbers that services of NATS have: 1.2 is 1.2.0, and what is none is 0.0.0."""
    if _SEMVER.fullmatch(version):
        return version
    return version + ".0" * (2 - version.count(".")) if _SHORT.fullmatch(version) else "0.0.0"


def failure(code: int, message: str) -> dict[str, str]:
    """Return the headers of an error; gRPC codes become those of HTTP, which clients of NATS know."""
    known = {int(one): status for one, status in _HTTP.items()}
    return {ERROR: message[:LONGEST_MESSAGE] or "failed", ERROR_CODE: str(known.get(code, 500))}


def code_of(status: str) -> Code:
    """Return the code of an error that a plain service has numbered, as most do, with a status of HTTP."""
    return _CODES.get(status) or (Code.INTERNAL if re.fullmatch(r"5\d\d", status, re.ASCII) else Code.UNKNOWN)


def _endpoint(served: Served, name: str) -> dict[str, Any]:
    return {"name": name, "subject": served.subject + name, "queue_group": served.service}


def _statistics(count: Count) -> dict[str, Any]:
    spent = int(count.seconds * 1e9)
    return {
        "num_requests": count.requests,
        "num_errors": count.errors,
        "last_error": count.last_error,
        "processing_time": spent,
        "average_processing_time": spent // count.requests if count.requests else 0,
    }


def counts(methods: Iterable[str]) -> dict[str, Count]:
    """Return a fresh count for each method."""
    return {method: Count() for method in methods}
