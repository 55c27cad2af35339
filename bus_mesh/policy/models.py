"""The documents people write.

All of it is read and checked here. What this version does not enforce (`LATER`) an agent refuses, so that what is
accepted holds; the parts of `traffic` are in `traffic.py`.

    kind: Service                          kind: Mesh
    name: orders                           access: {default: deny}
    access:                                traffic: {longest_timeout: 1m}
      allow: [{from: [web], methods: [get, "list*"]}]
      deny:  [{name: no-batch, from: [batch], methods: ["*"]}]
      mode:  enforce                       # or audit
    traffic: {timeout: 2s, longest_timeout: 10s, balance: queue}
    methods: {create: {timeout: 5s, idempotent: false}}

    kind: Service                          # a plain service of NATS, outside the mesh
    name: micro:MinMax
    access: {allow: [{from: [web], methods: [min, max]}]}

    kind: Revocation                       # who is out for good: a form that never changes
    name: revoked
    nodes: [node-c]
    operators: [eve]
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from bus_mesh.policy.problems import refuse
from bus_mesh.policy.traffic import (
    Balance,
    BreakerPart,
    Budget,
    Document,
    Envelope,
    Fault,
    Hash,
    LimitPart,
    Locality,
    Mirror,
    Rate,
    RetryPart,
    Split,
)
from bus_mesh.policy.units import Duration, Interval, Timeout, show_seconds
from bus_mesh.protocol import names

__all__ = [
    "RESERVED",
    "REVOKED",
    "Access",
    "Balance",
    "Document",
    "Health",
    "Mesh",
    "MeshAccess",
    "MeshTraffic",
    "Method",
    "Mode",
    "PolicyDocument",
    "Revocation",
    "Rule",
    "Service",
    "Traffic",
]

RESERVED: Final = "busmesh"
"""The service that every agent hosts for its own machine; no document can grant or take it."""
REVOKED: Final = "Revocation/revoked"
"""The one document of kind Revocation, as a manifest names it."""

OUTSIDE: Final = frozenset(("kind", "name", "access", "traffic", "methods"))
OUTSIDE_METHOD: Final = frozenset(("timeout", "retry", "fault", "idempotent"))
OUTSIDE_TRAFFIC: Final = frozenset(("timeout", "longest_timeout", "retry", "budget", "fault"))
"""What may be said of a plain service of NATS: the caller's agent does it alone."""

_CALLERS: Final = re.compile(r"[a-z][a-z0-9-]{0,62}|(?:[a-z][a-z0-9-]{0,61})?\*", re.ASCII)
_METHODS: Final = re.compile(r"[A-Za-z0-9_-]{1,64}|[A-Za-z0-9_-]{0,63}\*", re.ASCII)
"""Those of plain services included; a Service document holds its own to what may be one of it."""


def _service(text: str) -> str:
    if text == RESERVED:
        raise refuse(f"{RESERVED} is reserved", "every agent answers it to the apps of its own machine, by itself")
    if not names.is_service(text):
        raise refuse(f"{text[:80]!r} is not a service name", "a lower-case letter, then up to 62 of a-z 0-9 -")
    return text


def _callee(text: str) -> str:
    if not text.startswith(names.MICRO):
        return _service(text)
    if not names.is_plain(text):
        hint = f"{names.MICRO}, then its name at NATS: 1 to 64 of a-z A-Z 0-9 _ -"
        raise refuse(f"{text[:80]!r} is not a plain service", hint)
    return text


def _name(text: str) -> str:
    if not names.is_service(text):
        raise refuse(f"{text[:80]!r} is not a name", "a lower-case letter, then up to 62 of a-z 0-9 -")
    return text


def _method(text: str) -> str:
    if not names.is_endpoint(text):
        raise _no_method(text)
    return text


def _no_method(text: str, at: Sequence[str | int] = ()) -> PydanticCustomError:
    return refuse(f"{text[:80]!r} is not a method name", "a lower-case letter, then up to 62 of a-z 0-9 _", at)


def _callers(text: str) -> str:
    if not _CALLERS.fullmatch(text):
        raise refuse(f"{text[:80]!r} names no service", 'an exact name, or the start of names and one *: "web*"')
    return text


def _methods(text: str) -> str:
    if not _METHODS.fullmatch(text):
        raise _no_methods(text)
    return text


def _no_methods(text: str, at: Sequence[str | int] = ()) -> PydanticCustomError:
    return refuse(f"{text[:80]!r} names no method", 'an exact name, or the start of names and one *: "get*"', at)


ServiceName = Annotated[str, AfterValidator(_service)]
Callee = Annotated[str, AfterValidator(_callee)]
Name = Annotated[str, AfterValidator(_name)]
MethodName = Annotated[str, AfterValidator(_method)]
CallerPattern = Annotated[str, AfterValidator(_callers)]
MethodPattern = Annotated[str, AfterValidator(_methods)]


class Mode(StrEnum):
    """Whether a refusal is carried out, or only reported."""

    ENFORCE = "enforce"
    AUDIT = "audit"


class Rule(Document):
    """Some callers and some methods."""

    name: Name | None = None
    """What errors, logs and metrics call the rule; else its place, `orders/access.allow[0]`."""
    callers: tuple[CallerPattern, ...] = Field(alias="from", min_length=1)
    methods: tuple[MethodPattern, ...] = Field(min_length=1)


class Access(Document):
    """Who may call: deny wins, and what no rule allows is denied."""

    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    mode: Mode = Mode.ENFORCE

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        seen: set[str] = set()
        for effect, rules in (("allow", self.allow), ("deny", self.deny)):
            for number, rule in enumerate(rules):
                if rule.name in seen:
                    path = (effect, number, "name")
                    raise refuse(f"two rules are called {rule.name}", "a verdict names its rule", path)
                seen.update([rule.name] if rule.name else [])
        return self


class Health(Document):
    """How often an instance is asked whether it is well, and after how many failures it is not."""

    interval: Interval = 5.0
    timeout: Timeout = 1.0
    failures: int = Field(default=3, ge=1, le=100)


class Tap(Document):
    """What those who watch live calls may see."""

    payload: bool = False


class Events(Document):
    """Topics that may be published or subscribed to, exact or with one trailing `*`."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()


class Certificates(Document):
    """How long the certificates of nodes live."""

    life: Duration = 86400.0


class _Ways(Document):
    """What a service and a method of it may both say of their calls."""

    timeout: Timeout | None = None
    """Seconds for a call that says nothing itself; None leaves it to the contract, and then to 5 s."""
    retry: RetryPart | None = None
    breaker: BreakerPart | None = None
    limit: LimitPart | None = None
    rate: tuple[Rate, ...] | None = None
    fault: Fault | None = None
    mirror: Mirror | None = None
    balance: Balance | Hash | None = None


class Traffic(_Ways):
    """How calls to a service travel."""

    longest_timeout: Timeout | None = None
    """Seconds that no call may exceed; None leaves it to the Mesh document."""
    budget: Budget | None = None
    locality: Locality | None = None
    split: Split | None = None


class Method(_Ways):
    """What differs for one method."""

    idempotent: bool | None = None
    """Whether running it twice is as good as once; None leaves it to the contract."""
    envelope: Envelope | None = None
    """None leaves it to the service."""
    expose: Literal["micro", "off"] | None = None
    """None leaves it to the service."""
    tap: Tap | None = None


class Kind(Document):
    """A whole document: `kind` and `name` together are its identity."""

    kind: str
    name: str
    _place: str = PrivateAttr(default="")

    @property
    def place(self) -> str:
        """Where it was read, `file:line`; empty if it was not read from a file."""
        return self._place


class Service(Kind):
    """Who may call one service, and how its calls travel."""

    LATER = frozenset(("events",))

    kind: Literal["Service"] = "Service"
    name: Callee
    access: Access = Access()
    traffic: Traffic = Traffic()
    methods: Mapping[MethodName, Method] = {}
    envelope: Envelope | None = None
    """None leaves it to the mesh."""
    health: Health | None = None
    """None leaves it to the mesh."""
    expose: Literal["micro", "off"] | None = None
    """Whether plain clients of NATS may call it, as the caller `anonymous`; None: off."""
    tap: Tap | None = None
    events: Events | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.name.startswith(names.MICRO):
            self._is_outside()
            return self
        for path, pattern in self._patterns():
            if not names.is_method(pattern.removesuffix("*") or "a"):
                raise _no_methods(pattern, path)
        for name in self.methods:
            if not names.is_method(name):
                raise _no_method(name, ("methods", name))
        return self

    def _patterns(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for effect, rules in (("allow", self.access.allow), ("deny", self.access.deny)):
            for at, rule in enumerate(rules):
                yield from ((("access", effect, at, "methods", n), text) for n, text in enumerate(rule.methods))

    def _is_outside(self) -> None:
        """Refuse what takes an agent of the mesh at the other end."""
        said: list[tuple[str, ...]] = [(key,) for key in sorted(self.model_fields_set - OUTSIDE)]
        said += [("traffic", key) for key in sorted(self.traffic.model_fields_set - OUTSIDE_TRAFFIC)]
        for name, method in self.methods.items():
            said += [("methods", name, key) for key in sorted(method.model_fields_set - OUTSIDE_METHOD)]
        for path in said:
            kept = ", ".join(sorted(OUTSIDE_TRAFFIC | OUTSIDE_METHOD))
            raise refuse(
                f"{self.name} is no part of the mesh: nobody there would keep {path[-1]}",
                f"access is kept, and of the rest {kept}",
                path,
            )

    @model_validator(mode="after")
    def _is_no_mirror_of_itself(self) -> Self:
        ways: dict[tuple[str, ...], _Ways] = {("traffic",): self.traffic}
        for path, way in (ways | {("methods", name): method for name, method in self.methods.items()}).items():
            if way.mirror is not None and way.mirror.to == self.name:
                raise refuse(f"{self.name} would get each of these calls twice", "", (*path, "mirror", "to"))
        return self

    @model_validator(mode="after")
    def _timeouts_fit(self) -> Self:
        longest = self.traffic.longest_timeout
        if longest is None:
            return self
        told: dict[tuple[str, ...], float | None] = {("traffic", "timeout"): self.traffic.timeout}
        told |= {("methods", name, "timeout"): method.timeout for name, method in self.methods.items()}
        for path, timeout in told.items():
            if timeout is not None and timeout > longest:
                limit = show_seconds(longest)
                raise refuse(f"{show_seconds(timeout)} is over this service's longest_timeout, {limit}", "", path)
        return self


class MeshAccess(Document):
    """What holds where no rule speaks: nothing is allowed."""

    default: Literal["deny"] = "deny"


class MeshTraffic(Traffic):
    """What holds for the calls to every service that says nothing itself."""

    longest_timeout: Timeout | None = None
    """Seconds that no call may exceed; None: 10 minutes."""


class Mesh(Kind):
    """What holds in the whole mesh."""

    LATER = frozenset(("certificates", "events"))

    kind: Literal["Mesh"] = "Mesh"
    name: Name = "mesh"
    access: MeshAccess = MeshAccess()
    traffic: MeshTraffic = MeshTraffic()
    envelope: Envelope | None = None
    """None: sealed."""
    certificates: Certificates = Certificates()
    health: Health | None = None
    tap: Tap | None = None
    events: Events | None = None
    on_expired: Literal["keep", "deny"] = "keep"
    """What an agent does that has heard no head until its last one expired: go on, or deny every call."""


class Revocation(Kind):
    """Who is out, for good.

    This form never changes, so that agents of every version take it in, also out of a bundle that they refuse. It only
    ever adds: one that lists fewer takes nobody back.
    """

    kind: Literal["Revocation"] = "Revocation"
    name: Literal["revoked"] = "revoked"
    nodes: tuple[Name, ...] = ()
    operators: tuple[Name, ...] = ()

    def adding(self, nodes: Iterable[str] = (), operators: Iterable[str] = ()) -> "Revocation":
        """Return these and further ones, in order."""
        return Revocation(
            nodes=tuple(sorted({*self.nodes, *nodes})), operators=tuple(sorted({*self.operators, *operators}))
        )

    @property
    def text(self) -> str:
        """The document as it is applied, fetched and kept."""
        # Quoted, because a node may be called `no`.
        nodes, operators = json.dumps(self.nodes), json.dumps(self.operators)
        return f"kind: {self.kind}\nname: {self.name}\nnodes: {nodes}\noperators: {operators}\n"


PolicyDocument: TypeAlias = Service | Mesh | Revocation
"""A document of any kind."""
