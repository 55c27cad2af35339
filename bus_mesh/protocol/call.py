"""How a try of a call ended, as gates and agents hand it on."""

from enum import Enum
from typing import Any, Final, Self

from bus_mesh.protocol.errors import Code, MeshError, Ran
from bus_mesh.protocol.frames import Fail, Kind

_RAN: Final = {"no": Ran.NO, "maybe": Ran.MAYBE, "yes": Ran.YES}
_OK: Final = int(Code.OK)
_FAIL: Final = int(Kind.FAIL)


class Origin(Enum):
    """Who said how it ended: this agent, the instance called, or a service that the instance had called in turn."""

    HERE = "here"
    TARGET = "target"
    FURTHER = "further"


class Outcome:
    """How a try ended. `payload` is the result of a success; `fail` is the frame of a failure, its id not yet set.

    `final` outcomes (a cancelled call, a deadline, a lost app) are for good: no gate can have the call tried again.
    """

    # What a success never sets has its value here: one is made in half the time.
    code = _OK
    ran = Ran.YES
    origin = Origin.TARGET
    fail: Fail | None = None
    load = 0
    """Calls in flight at the instance, as it says with a success."""
    member: Any = None
    """The instance that answered, where it is known to be one of the agent that sent the answer."""
    retry_after = 0.0
    final = False
    replayed = False
    """Whether it is how an earlier call ended, kept by its idempotency key: to ask again would bring the same."""

    def __init__(self, instance: str | None, payload: bytes = b"") -> None:
        self.instance = instance
        self.payload = payload

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
    def failure(cls, fail: Fail, instance: str | None) -> Self:
        """Return the outcome that a FAIL is; what its head says is read tolerantly, and no claim is `MAYBE`."""
        head = fail.head or {}
        outcome = cls(instance)
        outcome.fail = fail
        outcome.code = fail.code if 0 < fail.code <= 16 else int(Code.UNKNOWN)
        outcome.ran = _RAN.get(str(head.get("ran")), Ran.MAYBE)
        if head.get("origin") == "further":
            outcome.origin = Origin.FURTHER
        if head.get("replayed") is True:
            outcome.replayed = True
        delay = head.get("retry_after_ms")
        if type(delay) is int and 0 <= delay <= 600_000:
            outcome.retry_after = delay / 1000
        return outcome

    @classmethod
    def refusal(cls, error: MeshError, instance: str | None = None, final: bool = False) -> Self:
        """Return the outcome that this agent gives a call by itself."""
        outcome = cls(instance)
        outcome.fail = fail(0, error)
        outcome.code, outcome.ran, outcome.origin = outcome.fail.code, error.ran, Origin.HERE
        outcome.retry_after = error.retry_after
        outcome.final = final
        return outcome

    def copy(self) -> Self:
        """Return the same outcome for another call: what is said of one is not said of the other."""
        made = type(self)(self.instance)
        made.__dict__.update(self.__dict__)
        return made

    def doubt(self) -> None:
        """Take back that it did not run: an earlier try of the same call may have."""
        self.ran = Ran.MAYBE
        if self.fail is not None:
            self.fail = self.fail._replace(head={**(self.fail.head or {}), "ran": str(Ran.MAYBE)})

    def error(self) -> MeshError:
        """Return a failure as the exception it would arrive as."""
        assert self.fail is not None
        return MeshError.from_wire(*self.fail[2:])


def fail(number: int, error: MeshError) -> Fail:
    """Return the FAIL frame that says an error."""
    code, reason, message, details, head = error.to_wire()
    return Fail(_FAIL, number, code, reason, message, details, head)
