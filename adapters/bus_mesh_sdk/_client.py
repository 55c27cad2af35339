"""Objects that look like a service and call it.

`mesh.client(Orders)` is an `Orders` whose `@rpc` methods go through the mesh; what else the class has, it keeps.
"""

from collections.abc import Callable, Coroutine, Mapping
from types import new_class
from typing import Any, Protocol, TypeVar

from bus_mesh_sdk._service import Method, Service, contract_of

_S = TypeVar("_S", bound=Service)


class Caller(Protocol):
    """Who carries the calls of a client out."""

    def invoke(
        self, method: Method, args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout: float | None
    ) -> Coroutine[Any, Any, Any]:
        """Call `method` with these arguments; `timeout` (seconds) goes before the contract's."""


_classes: dict[type, type] = {}


def client_of(kind: type[_S], caller: Caller, timeout: float | None) -> _S:
    """Return an object of `kind` whose `@rpc` methods call through `caller`; TypeError when `kind` is no contract."""
    made = _classes.get(kind)
    if made is None:
        made = _classes[kind] = _class_of(kind)
    client: _S = object.__new__(made)
    client.__dict__.update(_bus_mesh_caller=caller, _bus_mesh_timeout=timeout)
    return client


def _class_of(kind: type[Service]) -> type:
    methods = contract_of(kind).methods.values()
    for method in methods:
        _ = method.codec  # an annotation that cannot travel is refused here, not at the first call
    body: dict[str, Any] = {method.attribute: _calling(method) for method in methods}
    body.update(__module__=kind.__module__, __doc__=kind.__doc__, __repr__=_shown)
    return new_class(kind.__name__, (kind,), exec_body=lambda namespace: namespace.update(body))


def _calling(method: Method) -> Callable[..., Coroutine[Any, Any, Any]]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        caller: Caller = self._bus_mesh_caller
        return caller.invoke(method, args, kwargs, self._bus_mesh_timeout)

    call.__name__ = method.function.__name__
    call.__qualname__ = method.function.__qualname__
    call.__doc__ = method.function.__doc__
    return call


def _shown(self: Any) -> str:
    return f"<client of {contract_of(type(self)).service} by {self._bus_mesh_caller!r}>"
