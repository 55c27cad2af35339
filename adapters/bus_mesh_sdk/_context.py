"""What a handler knows of the call it answers, and what a caller says beside the parameters.

Both ride on context variables, so they follow the code into tasks and threads that a handler starts, and a nested call
finds the deadline and the trace of the call it is part of.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from bus_mesh.protocol.errors import DeadlineExceeded, InvalidArgument, MeshError, Ran
from bus_mesh.protocol.frames import MAX_TTL_MS, Head

DEFAULT_TIMEOUT: Final = 5.0
"""Seconds that a call has when nobody said."""
LONGEST_TIMEOUT: Final = MAX_TTL_MS / 1000
"""Seconds that a call may have at most."""
METADATA_LIMIT: Final = 8 * 1024
"""Characters that the metadata of a call may take, names and values together."""

_FURTHER: Final = "_bus_mesh_further"


class Context:
    """The call that a handler answers: who asked, how long is left, and what came beside the parameters."""

    cancelled = False
    """Whether the caller gave up; of use to blocking handlers, which cannot be interrupted."""
    began = False
    """Whether the handler has begun to run; what its callers are told rests on it."""
    caller: str
    """The calling service, as its certificate says; verified by the agents."""
    service: str
    """The service called."""
    method: str
    """The method called, by its name on the wire."""
    instance: str
    """The id of this instance."""
    deadline: float
    """When the call's time is out, in seconds of `loop.time()`."""
    head: Head | None
    """All that came beside the parameters; the SDK's own affair, like the next two."""
    connection: Any
    now: Callable[[], float]

    def __repr__(self) -> str:
        return f"Context({self.service}.{self.method} from {self.caller}, {self.remaining():.3f}s left)"

    def remaining(self) -> float:
        """Seconds left until the deadline, 0.0 once it is past."""
        return max(0.0, self.deadline - self.now())

    @property
    def metadata(self) -> dict[str, str]:
        """What the caller gave as `options(metadata=...)`."""
        said = (self.head or {}).get("metadata")
        if not isinstance(said, dict):
            return {}
        return {name: value for name, value in said.items() if isinstance(name, str) and isinstance(value, str)}

    @property
    def traceparent(self) -> str:
        """The W3C trace context that the call carries, or an empty string."""
        said = (self.head or {}).get("traceparent")
        return said if isinstance(said, str) else ""

    @property
    def trace_id(self) -> str:
        """The 32 hexadecimal digits of the trace, or an empty string."""
        parts = self.traceparent.split("-")
        return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else ""

    @property
    def mirrored(self) -> bool:
        """Whether this is a copy of a call to another service, made by policy: nobody waits for its answer."""
        return (self.head or {}).get("mirrored") is True

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        said = (self.head or {}).get("attempt")
        return said if type(said) is int and said > 0 else 1


class Options(NamedTuple):
    """What `options(...)` said, inner blocks over outer ones."""

    timeout: float | None = None
    metadata: Mapping[str, str] | None = None
    key: str | None = None
    idempotency_key: str | None = None
    instance: str | None = None
    traceparent: str | None = None


NOTHING: Final = Options()
answering: Final[ContextVar[Context | None]] = ContextVar("bus_mesh_answering", default=None)
asked: Final[ContextVar[Options]] = ContextVar("bus_mesh_asked", default=NOTHING)


def current() -> Context:
    """Return the call being answered; LookupError outside of a handler."""
    context = answering.get()
    if context is None:
        raise LookupError("current() is known only while a handler answers a call, and in what that handler starts")
    return context


@contextmanager
def options(
    *,
    timeout: float | None = None,
    metadata: Mapping[str, str] | None = None,
    key: str | None = None,
    idempotency_key: str | None = None,
    instance: str | None = None,
    traceparent: str | None = None,
) -> Iterator[None]:
    """Say more about the calls made inside the block.

    `timeout` in seconds, at most 600. `metadata` is text to text and adds to that of outer blocks. `key` keeps calls
    with the same key on one instance, or in one part of a split, where policy says so. `instance` names
    the one instance to call. `traceparent` is the span that the calls are part of (W3C Trace Context), for apps that
    trace themselves; without it that is the call being answered.

    `idempotency_key`, 1 to 255 bytes of UTF-8: an instance runs what this app asks of a method with one key once, and
    answers who comes again with what came of it, until a minute after the deadline of the call that ran. With other
    parameters the key is refused (KeyReused). Another instance does not know it.
    """
    if timeout is not None:
        check_timeout(timeout)
    outer = asked.get()
    both = check_metadata({**(outer.metadata or {}), **metadata}) if metadata else outer.metadata
    token = asked.set(
        Options(
            outer.timeout if timeout is None else timeout,
            both,
            outer.key if key is None else key,
            outer.idempotency_key if idempotency_key is None else idempotency_key,
            outer.instance if instance is None else instance,
            outer.traceparent if traceparent is None else traceparent,
        )
    )
    try:
        yield
    finally:
        asked.reset(token)


def check_timeout(timeout: float) -> float:
    """Return `timeout` (seconds), or raise InvalidArgument unless it is over 0 and at most 600."""
    if not 0 < timeout <= LONGEST_TIMEOUT:
        raise InvalidArgument(
            f"a timeout of {timeout} s: it must be over 0 and at most {LONGEST_TIMEOUT:.0f} s", ran=Ran.NO
        )
    return timeout


def check_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """Return `metadata`, or raise InvalidArgument unless it is text to text within its limit."""
    size = 0
    said: dict[Any, Any] = dict(metadata)  # an author without a type checker may have given anything
    for name, value in said.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidArgument(f"metadata {str(name)[:40]!r}: names and values must be str", ran=Ran.NO)
        size += len(name) + len(value)
    if size > METADATA_LIMIT:
        raise InvalidArgument(f"metadata of {size} characters, over the limit of {METADATA_LIMIT}", ran=Ran.NO)
    return metadata


def deadline_of(now: float, timeout: float | None, parent: Context | None) -> float:
    """Return when a call made at `now` must be over: never later than the call it is part of."""
    own = now + (DEFAULT_TIMEOUT if timeout is None else timeout)
    if parent is None or own < parent.deadline:
        return own
    if parent.deadline <= now:
        raise further(DeadlineExceeded("no time was left to make this further call", ran=Ran.NO))
    return parent.deadline


def head_of(said: Options, parent: Context | None, deadline: float, idempotent: bool) -> Head:
    """Return the head of a CALL frame: all that travels beside the parameters."""
    head: Head = {"expires_us": int(deadline * 1_000_000)}
    if idempotent:
        head["idempotent"] = True
    if parent is not None and parent.traceparent:
        head["traceparent"] = parent.traceparent
    if said is not NOTHING:
        for name in ("metadata", "key", "idempotency_key", "instance", "traceparent"):
            value = getattr(said, name)
            if value is not None:
                head[name] = value
    return head


def further(error: MeshError) -> MeshError:
    """Mark an error as one of a further call, so that a handler which passes it on is not blamed for it."""
    error.__dict__[_FURTHER] = True
    return error


def is_further(error: MeshError) -> bool:
    """Tell whether an error came from a further call."""
    return _FURTHER in error.__dict__
