"""What stands in for services in an app's tests: stubs, faults, and plain services of NATS."""

from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from bus_mesh.protocol import names
from bus_mesh.protocol.errors import Unimplemented

_R = TypeVar("_R")
_Answer = Callable[[str, Any], Any]


class Called(NamedTuple):
    """A call as its service got it: the parameters by name as they were sent, the verified caller, the metadata.

    A plain service of NATS is told neither of the last two: they are empty.
    """

    params: dict[str, Any]
    caller: str
    metadata: dict[str, str]


class Stub(Generic[_R]):
    """What a stubbed method does instead of its own work; what was said last holds."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._value: Any = None
        self._error: BaseException | None = Unimplemented(f"the stub of {label} has neither .returns() nor .raises()")

    def __repr__(self) -> str:
        return f"Stub({self._label}: {self._error or self._value!r})"

    def returns(self, value: _R) -> None:
        """Answer every call with `value`."""
        self._value, self._error = value, None

    def raises(self, error: BaseException) -> None:
        """Fail every call with `error`: a MeshError arrives as itself, anything else as INTERNAL."""
        self._error = error

    def answer(self) -> Any:
        """Return or raise what the stub was told."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        return self._value


class Fault(NamedTuple):
    """What goes wrong before a method does its work."""

    delay: float
    error: BaseException | None


class PlainStubs:
    """The plain services of NATS that a test stands in for; their calls are noted in `calls`."""

    def __init__(self, calls: dict[tuple[str, str], list[Called]]) -> None:
        self._calls = calls
        self._services: dict[str, dict[str, Stub[Any]]] = {}
        self._started: set[str] = set()

    def __repr__(self) -> str:
        return f"PlainStubs({ {service: list(stubs) for service, stubs in self._services.items()} })"

    def add(self, service: str, endpoint: str) -> Stub[Any]:
        """Return a new stub of an endpoint; RuntimeError when callers have been told that there is none."""
        label = names.called(service, endpoint)
        if not names.is_plain(service):
            raise TypeError(f"{label}: stub a method of the mesh by its reference; by name are micro:NAME, ENDPOINT")
        stubs = self._services.setdefault(service, {})
        if service in self._started and endpoint not in stubs:
            raise RuntimeError(f"{label}: stub every endpoint of {service} before the first call, which asks for them")
        stub = stubs[endpoint] = Stub[Any](label)
        return stub

    async def start(self, serve: Callable[[str, Iterable[str], _Answer], Coroutine[Any, Any, None]]) -> None:
        """Have those served that are not yet: `serve(name, endpoints, answer)`."""
        for service in [service for service in self._services if service not in self._started]:
            self._started.add(service)
            answer = partial(self._answer, service)
            await serve(service.removeprefix(names.MICRO), self._services[service], answer)

    def _answer(self, service: str, endpoint: str, value: Any) -> Any:
        self._calls.setdefault((service, endpoint), []).append(Called(value, "", {}))
        return self._services[service][endpoint].answer()
