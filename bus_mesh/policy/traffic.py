"""How calls to a service travel, as people write it: the parts of `traffic` and their defaults.

retry:    {tries: 3, pause: 25ms, longest_pause: 1s}            # or off
budget:   {ratio: 0.2, floor_per_second: 10, window: 10s}
breaker:  {failures: 7, success_ratio: 0.8, window: 10s, calls_at_least: 5, rest: 1s, longest_rest: 60s}   # or off
limit:    {concurrency: 64, queue: 1024}                        # or off
rate:     [{per: caller, limit: 100/s, burst: 200}]
balance:  {hash: metadata.user}                                 # or queue, least_request, round_robin, random
locality: {prefer: zone, spill_below: 70%}
split:    {"1": 90, "track=canary": 10}
fault:    {delay: 200ms, abort: unavailable, percent: 5, until: 2026-12-01T00:00:00Z}
mirror:   {to: orders-next, percent: 10}
"""

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from bus_mesh.policy.problems import refuse, suggest
from bus_mesh.policy.units import Duration, Percent, PerSecond, Timeout, Window
from bus_mesh.protocol import names
from bus_mesh.protocol.errors import Code

__all__ = [
    "Balance",
    "Breaker",
    "Budget",
    "Document",
    "Fault",
    "Hash",
    "Limit",
    "Locality",
    "Mirror",
    "Off",
    "Per",
    "Rate",
    "Retry",
    "Split",
]

_VERSION: Final = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,62}", re.ASCII)
_METADATA: Final = re.compile(r"metadata\.[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_ABORTS: Final = {code.name.lower(): code for code in Code if code is not Code.OK}


class Document(BaseModel):
    """A part of what people write: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    LATER: ClassVar[frozenset[str]] = frozenset()
    """Keys that this version knows and does not enforce: an agent that is given one refuses the whole."""

    @classmethod
    def later(cls, written: Mapping[str, Any]) -> dict[str, str]:
        """Return what of `written` is not enforced, each key with what it says."""
        return {key: "is" for key in written if key in cls.LATER}


class Off(Document):
    """`off`: the whole part is not in the way of a call."""


D = TypeVar("D", bound=Document)


def _or_off(written: object) -> object:
    return Off() if written in ("off", False) else written


def _which(value: object) -> str:
    return "[off]" if isinstance(value, Off) else "[on]"


def _part(model: type[D]) -> Any:
    """Return the annotation of a part that may be `off`; what is wrong in it is said of the part, not of both."""
    either = Annotated[
        Annotated[model, Tag("[on]")] | Annotated[Off, Tag("[off]")],  # type: ignore[valid-type]  # made, not written
        Discriminator(_which),
    ]
    return Annotated[either, BeforeValidator(_or_off)]


class Retry(Document):
    """When a failed call is tried again: what is idempotent or provably did not run, elsewhere, with full jitter."""

    tries: int = Field(default=3, ge=1, le=10)
    """Calls made in all, the first one included. 1 turns retries off."""
    pause: Duration = 0.025
    """Seconds before the second try; doubles for each one after it."""
    longest_pause: Duration = 1.0


class Budget(Document):
    """How many retries a calling agent may make of all its calls to a service."""

    ratio: float = Field(default=0.2, ge=0.0, le=1.0)
    """Of retries to calls."""
    floor_per_second: float = Field(default=10.0, ge=0.0, le=10_000.0)
    """Retries that are always allowed."""
    window: Window = 10.0


class Breaker(Document):
    """When an agent stops calling an instance that keeps failing, until it has had time to recover."""

    failures: int = Field(default=7, ge=1, le=1000)
    """In a row."""
    success_ratio: float = Field(default=0.8, ge=0.0, le=1.0)
    """Of successes to calls in the window, below which the circuit opens."""
    window: Window = 10.0
    calls_at_least: int = Field(default=5, ge=1, le=100_000)
    """In the window, before the ratio counts."""
    rest: Duration = 1.0
    """Seconds until the first probe; doubles with each that fails."""
    longest_rest: Duration = 60.0

    @model_validator(mode="after")
    def _rests_fit(self) -> Self:
        if self.rest > self.longest_rest:
            raise refuse("is over longest_rest", "the first rest is the shortest", ("rest",))
        return self


class Limit(Document):
    """How many calls an instance runs at once, and how many may wait for that, at the receiver."""

    concurrency: int | None = Field(default=None, ge=1, le=100_000)
    """None: as many as the instance says that it runs, and 64 at least."""
    queue: int = Field(default=1024, ge=0, le=100_000)


class Per(StrEnum):
    """Whose calls are counted together."""

    CALLER = "caller"
    SERVICE = "service"
    METHOD = "method"


class Rate(Document):
    """How many calls a second one receiving agent takes: a bucket of tokens."""

    per: Per
    limit: PerSecond
    burst: int = Field(ge=1, le=1_000_000)
    """Calls that may come at once after a pause."""


class Balance(StrEnum):
    """Who chooses the instance of a call: the broker's queue group, or the caller's agent."""

    QUEUE = "queue"
    ROUND_ROBIN = "round_robin"
    RANDOM = "random"
    LEAST_REQUEST = "least_request"


def _hash_key(text: str) -> str:
    if text != "key" and not _METADATA.fullmatch(text):
        raise refuse(f"{text[:80]!r} is no key of a call", "key, or metadata. and a name: metadata.user")
    return text


class Hash(Document):
    """Calls with the same key go to the same instance, as far as its load allows (bounded-load consistent hashing)."""

    hash: Annotated[str, AfterValidator(_hash_key)]


class Locality(Document):
    """Instances whose label is the caller's own come first, until too few of them are fit to be called."""

    prefer: str = Field(pattern=_LABEL.pattern)
    spill_below: Percent = 70.0
    """Of the near instances that are fit, below which calls go further away too."""


def _split_key(text: str) -> str:
    label, equals, value = text.partition("=")
    if equals and _LABEL.fullmatch(label) and _LABEL.fullmatch(value):
        return text
    if not equals and _VERSION.fullmatch(text):
        return text
    raise refuse(f"{text[:80]!r} is no version and no label", 'a major version, "1", or a label, "track=canary"')


def _some_weight(weights: dict[str, int]) -> dict[str, int]:
    if not sum(weights.values()):
        raise refuse("all weights are 0", "give one of them calls")
    return weights


Split = Annotated[
    dict[Annotated[str, AfterValidator(_split_key)], Annotated[int, Field(ge=0, le=1_000_000)]],
    Field(min_length=1),
    AfterValidator(_some_weight),
]
"""Weights by major version or label."""


def _abort(text: object) -> object:
    if isinstance(text, str) and text.lower() not in _ABORTS:
        raise refuse(f"{text[:80]!r} is no status code", suggest(text.lower(), _ABORTS))
    return text.lower() if isinstance(text, str) else text


class Fault(Document):
    """Calls that are delayed or refused on purpose, until a moment that must be named."""

    delay: Timeout | None = None
    abort: Annotated[str, BeforeValidator(_abort)] | None = None
    """A status code's name, in lower case."""
    percent: Percent
    until: AwareDatetime

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.delay is None and self.abort is None:
            raise refuse("does nothing", "give it a delay, an abort, or both")
        return self

    def over(self, now: datetime) -> bool:
        """Tell whether its time has passed."""
        return now >= self.until


def _service(text: str) -> str:
    if not names.is_service(text):
        raise refuse(f"{text[:80]!r} is not a service name", "a lower-case letter, then up to 62 of a-z 0-9 -")
    return text


class Mirror(Document):
    """Copies of calls to another service; their answers are dropped, and they delay and fail nothing."""

    to: Annotated[str, AfterValidator(_service)]
    percent: Percent


RetryPart: Final = _part(Retry)
BreakerPart: Final = _part(Breaker)
LimitPart: Final = _part(Limit)
Envelope = Literal["sealed", "signed"]
"""Whether envelopes of calls prove to third parties who sent them."""
