"""How a try of a call ended, as gates and agents hand it on."""

from enum import Enum
from typing import Final, Self

from bus_mesh.protocol.errors import Code, MeshError, Ran
from bus_mesh.protocol.frames import Fail, Kind, Reply

_RAN: Final = {"no": Ran.NO, "maybe": Ran.MAYBE, "yes": Ran.YES}
_OK: Final = int(Code.OK)
_FAIL: Final = int(Kind.FAIL)


class Origin(Enum):
    """Who said how it ended: this agent, the instance called, or a service that the instance had called in turn."""

    HERE = "here"
    TARGET = "target"
    FURTHER = "further"


_YES: Final = Ran.YES  # an enum member costs 0.1 µs to look up by its class
_TARGET: Final = Origin.TARGET


class Outcome:
    """How a try ended. `payload` is the result of a success; `fail` is the frame of a failure, its id not yet set.

    `final` outcomes (a cancelled call, a deadline, a lost app) are for good: no gate can have the call tried again.
    """

    __slots__ = ("code", "fail", "final", "instance", "load", "origin", "payload", "ran", "retry_after")

    def __init__(
        self, code: int, ran: Ran, origin: Origin, instance: str | None, payload: bytes = b"", fail: Fail | None = None
    ) -> None:
        self.code = code
        self.ran = ran
        self.origin = origin
        self.instance = instance
        self.payload = payload
        self.fail = fail
        self.load = 0
        self.retry_after = 0.0
        self.final = False

    def __repr__(self) -> str:
        reason = f"/{self.reason}" if self.fail else ""
        return f"Outcome({Code(self.code).name}{reason}, ran={self.ran}, {self.origin.value}, {self.instance})"

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return self.code == _OK

    @property
    def reason(self) -> str:
        """The reason of a failure, "" for a success."""
        return self.fail.reason if self.fail is not None else ""

    @classmethod
    def success(cls, reply: Reply, instance: str | None) -> Self:
        """Return the outcome that a REPLY is."""
        outcome = cls(_OK, _YES, _TARGET, instance, reply.payload)
        head = reply.head
        if head is not None and type(head.get("load")) is int:
            outcome.load = head["load"]
        return outcome

    @classmethod
    def failure(cls, fail: Fail, instance: str | None) -> Self:
        """Return the outcome that a FAIL is; what its head says is read tolerantly, and no claim is `MAYBE`."""
        head = fail.head or {}
        origin = Origin.FURTHER if head.get("origin") == "further" else Origin.TARGET
        known = fail.code if 0 < fail.code <= 16 else int(Code.UNKNOWN)
        outcome = cls(known, _RAN.get(str(head.get("ran")), Ran.MAYBE), origin, instance, fail=fail)
        delay = head.get("retry_after_ms")
        outcome.retry_after = delay / 1000 if type(delay) is int and 0 <= delay <= 600_000 else 0.0
        return outcome

    @classmethod
    def refusal(cls, error: MeshError, instance: str | None = None, final: bool = False) -> Self:
        """Return the outcome that this agent gives a call by itself."""
        code, reason, message, details, head = error.to_wire()
        outcome = cls(code, error.ran, Origin.HERE, instance, fail=Fail(_FAIL, 0, code, reason, message, details, head))
        outcome.retry_after = error.retry_after
        outcome.final = final
        return outcome

    def error(self) -> MeshError:
        """Return a failure as the exception it would arrive as."""
        assert self.fail is not None
        return MeshError.from_wire(*self.fail[2:])
