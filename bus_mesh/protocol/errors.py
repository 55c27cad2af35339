"""What can go wrong with a call, as one tree.

    MeshError
    ├── Cancelled            CANCELLED            the caller gave up
    ├── InvalidArgument      INVALID_ARGUMENT     a parameter is wrong
    │   ├── InvalidName      · INVALID_NAME       not a name of a service, method, node or mesh
    │   ├── PayloadTooLarge  · PAYLOAD_TOO_LARGE  over the limit of one envelope
    │   └── KeyReused        · KEY_REUSED         its idempotency key stands for other parameters; it did not run
    ├── DeadlineExceeded     DEADLINE_EXCEEDED    its time ran out
    ├── NotFound             NOT_FOUND            the thing asked for does not exist
    ├── PermissionDenied     PERMISSION_DENIED    policy forbids it, naming the rule
    │   └── NodeRevoked      · NODE_REVOKED       the node that asks is out of the mesh
    ├── ResourceExhausted    RESOURCE_EXHAUSTED   full; carries a retry delay
    │   └── RateLimited      · RATE_LIMITED       too many calls a second; carries the time until the next
    ├── FailedPrecondition   FAILED_PRECONDITION  not in this state
    ├── Unimplemented        UNIMPLEMENTED        no such method
    ├── Internal             INTERNAL             a handler broke; carries an error id
    ├── Unauthenticated      UNAUTHENTICATED      not who it claims to be
    └── Unavailable          UNAVAILABLE          nothing there to answer just now
        ├── NoInstances      · NO_INSTANCES       nobody serves it
        ├── Draining         · DRAINING           its instance is leaving; it did not run
        ├── CircuitOpen      · CIRCUIT_OPEN       the one instance it must go to keeps failing; it did not run
        ├── BusStalled       · BUS_STALLED        the bus is away or clogged; it did not run
        ├── InstanceGone     · INSTANCE_GONE      the instance picked is not there any more; it did not run
        ├── NotARecipient    · NOT_A_RECIPIENT    it reached an instance it was not sealed for; it did not run
        ├── AgentAway        · AGENT_AWAY         this machine's agent is not there; it did not run
        └── OutcomeUnknown   · OUTCOME_UNKNOWN    lost after it may have run

Codes are gRPC's by name and number. A class declared with a `reason` arrives as itself at the caller:

    class OutOfStock(MeshError, code=Code.FAILED_PRECONDITION, reason="OUT_OF_STOCK"): ...
"""

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Any, ClassVar, Final, Self

__all__ = [
    "AgentAway",
    "BusStalled",
    "Cancelled",
    "CircuitOpen",
    "Code",
    "DeadlineExceeded",
    "Draining",
    "FailedPrecondition",
    "Fault",
    "InstanceGone",
    "Internal",
    "InvalidArgument",
    "InvalidName",
    "KeyReused",
    "MeshError",
    "NoInstances",
    "NodeRevoked",
    "NotARecipient",
    "NotFound",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "PermissionDenied",
    "Ran",
    "RateLimited",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]


class Code(IntEnum):
    """How a call ended: gRPC's status codes (grpc/grpc, doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Ran(StrEnum):
    """Whether the handler ran. `NO` is a proof, `MAYBE` the absence of one."""

    NO = "no"
    MAYBE = "maybe"
    YES = "yes"


class Fault(StrEnum):
    """Who has to act: the caller's author, the service's author, or whoever runs the mesh."""

    CALLER = "caller"
    SERVICE = "service"
    MESH = "mesh"


_CODE_FAULT: Final = {
    Code.INVALID_ARGUMENT: Fault.CALLER,
    Code.CANCELLED: Fault.CALLER,
    Code.NOT_FOUND: Fault.CALLER,
    Code.ALREADY_EXISTS: Fault.CALLER,
    Code.PERMISSION_DENIED: Fault.CALLER,
    Code.FAILED_PRECONDITION: Fault.CALLER,
    Code.OUT_OF_RANGE: Fault.CALLER,
    Code.UNIMPLEMENTED: Fault.CALLER,
    Code.UNAUTHENTICATED: Fault.CALLER,
    Code.UNAVAILABLE: Fault.MESH,
    Code.RESOURCE_EXHAUSTED: Fault.MESH,
}
_declared: Final[dict[tuple[Code, str], "type[MeshError]"]] = {}


class MeshError(Exception):
    """A call that failed, with the code and reason that travelled on the wire.

    `metadata` is text to text and `details` anything MessagePack can carry; both travel. `ran` says whether the handler
    ran; `retry_after` is the seconds to wait before another try, 0.0 when nobody said.
    """

    code: ClassVar[Code] = Code.UNKNOWN
    reason: ClassVar[str] = "UNKNOWN"
    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later, unchanged."""

    def __init_subclass__(
        cls, code: Code | None = None, reason: str | None = None, retryable: bool | None = None
    ) -> None:
        super().__init_subclass__()
        if retryable is not None:
            cls.retryable = retryable
        if code is None and reason is None:
            return
        cls.code = cls.code if code is None else code
        cls.reason = cls.code.name if reason is None else reason
        other = _declared.setdefault((cls.code, cls.reason), cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(
                f"{cls.__qualname__} and {other.__module__}.{other.__qualname__} both declare "
                f"{cls.code.name}/{cls.reason}: give one of them another reason"
            )
        _declared[cls.code, cls.reason] = cls

    def __init__(
        self,
        message: str = "",
        *,
        metadata: Mapping[str, str] | None = None,
        details: Any = None,
        ran: Ran = Ran.MAYBE,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.details = details
        self.ran = ran
        self.retry_after = retry_after

    # A subclass may have a constructor of its own that never calls ours.
    message: str = ""
    details: Any = None
    ran: Ran = Ran.MAYBE
    retry_after: float = 0.0
    wire_reason: str = ""
    wire_code: Code | None = None

    @property
    def fault(self) -> Fault:
        """Who has to act on it."""
        return _CODE_FAULT.get(self.wire_code or self.code, Fault.SERVICE)

    @classmethod
    def from_wire(
        cls, code: int, reason: str, message: str, details: Any, head: Mapping[str, Any] | None
    ) -> "MeshError":
        """Return the error as the class that declared its code and reason, else as the class of its code."""
        known = Code(code) if code in Code.__members__.values() else Code.UNKNOWN
        kind = _declared.get((known, reason)) or _declared.get((known, known.name)) or MeshError
        return kind._arrived(known, reason, message, details, head or {})

    @classmethod
    def _arrived(cls, code: Code, reason: str, message: str, details: Any, head: Mapping[str, Any]) -> Self:
        error = cls.__new__(cls, message)
        Exception.__init__(error, message)
        error.message, error.details, error.metadata = message, details, dict(head.get("metadata") or {})
        error.ran = Ran(head.get("ran", Ran.MAYBE))
        error.retry_after = head.get("retry_after_ms", 0) / 1000
        error.wire_code, error.wire_reason = code, reason
        return error

    def to_wire(self) -> tuple[int, str, str, Any, dict[str, Any]]:
        """Return (code, reason, message, details, head) of the FAIL frame that says this."""
        head: dict[str, Any] = {"ran": str(self.ran)}
        if self.retry_after:
            head["retry_after_ms"] = round(self.retry_after * 1000)
        metadata = getattr(self, "metadata", None)
        if metadata:
            head["metadata"] = metadata
        code = int(self.code if self.wire_code is None else self.wire_code)
        return code, self.wire_reason or self.reason, self.message or str(self), self.details, head

    def __str__(self) -> str:
        text = self.args[0] if self.args else ""
        return f"{(self.wire_code or self.code).name}/{self.wire_reason or self.reason}: {text}"


class Cancelled(MeshError, code=Code.CANCELLED):
    """The caller gave the call up."""


class InvalidArgument(MeshError, code=Code.INVALID_ARGUMENT):
    """A parameter is wrong; the message says which and what was expected."""


class InvalidName(InvalidArgument, reason="INVALID_NAME"):
    """`text` cannot name a `kind` (service, method, node or mesh)."""

    def __init__(self, kind: str, text: str, rule: str) -> None:
        shown = text if len(text) <= 80 else text[:77] + "..."
        super().__init__(f"{shown!r} is not a {kind} name: {rule}", ran=Ran.NO)


class PayloadTooLarge(InvalidArgument, reason="PAYLOAD_TOO_LARGE"):
    """The parameters or the result are larger than one envelope carries."""


class KeyReused(InvalidArgument, reason="KEY_REUSED"):
    """The idempotency key was used for the same method with other parameters; the call did not run."""


class DeadlineExceeded(MeshError, code=Code.DEADLINE_EXCEEDED, retryable=True):
    """The call's time ran out; `ran` tells whether that was before it ran."""


class NotFound(MeshError, code=Code.NOT_FOUND):
    """The thing asked for does not exist."""


class PermissionDenied(MeshError, code=Code.PERMISSION_DENIED):
    """Policy forbids the call; the message names the rule."""


class NodeRevoked(PermissionDenied, reason="NODE_REVOKED"):
    """The node that asks was revoked: it is out of the mesh, for good."""


class ResourceExhausted(MeshError, code=Code.RESOURCE_EXHAUSTED, retryable=True):
    """Full for now: try again after `retry_after` seconds."""


class RateLimited(ResourceExhausted, reason="RATE_LIMITED"):
    """More calls a second than policy allows: try again after `retry_after` seconds."""


class FailedPrecondition(MeshError, code=Code.FAILED_PRECONDITION):
    """Not possible in the present state."""


class Unimplemented(MeshError, code=Code.UNIMPLEMENTED):
    """The service has no such method."""


class Internal(MeshError, code=Code.INTERNAL):
    """The handler broke; the text is in the service's log under the error id."""


class Unauthenticated(MeshError, code=Code.UNAUTHENTICATED):
    """The peer is not who it claims to be."""


class Unavailable(MeshError, code=Code.UNAVAILABLE, retryable=True):
    """Nothing is there to answer just now."""


class NoInstances(Unavailable, reason="NO_INSTANCES"):
    """Nobody serves this service."""


class Draining(Unavailable, reason="DRAINING"):
    """The instance is leaving; the call did not run and is tried elsewhere."""


class CircuitOpen(Unavailable, reason="CIRCUIT_OPEN"):
    """The one instance that the call must go to keeps failing and is given a rest of `retry_after` seconds."""


class BusStalled(Unavailable, reason="BUS_STALLED"):
    """The bus is away or clogged; the call was not published."""


class InstanceGone(Unavailable, reason="INSTANCE_GONE"):
    """The instance picked is not there any more; the call did not run and is tried elsewhere."""


class NotARecipient(Unavailable, reason="NOT_A_RECIPIENT"):
    """The broker's choice was not among those the call was sealed for; it did not run and is tried elsewhere."""


class AgentAway(Unavailable, reason="AGENT_AWAY"):
    """This machine's agent did not come back in time; the call was not sent."""


class OutcomeUnknown(Unavailable, reason="OUTCOME_UNKNOWN"):
    """The instance was lost after the call may have run; never retried unless the method is idempotent."""
