"""A contract is a plain class: `class Orders(Service, name="orders")` with `@rpc` methods.

Both sides import it. The caller gets an object of the same class whose methods call; the server subclasses it and
overrides them, and the overrides inherit the marks.
"""

import asyncio
import inspect
import typing
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import cached_property, partial, wraps
from typing import Any, ClassVar, Final, ParamSpec, TypeVar, overload

from bus_mesh.protocol import frames, names
from bus_mesh.protocol.errors import DeadlineExceeded, Ran
from bus_mesh_sdk._codec import Codec
from bus_mesh_sdk._context import answering, check_timeout

BLOCKING_THREADS: Final = 32
"""Threads that all blocking handlers of a process share."""

_MARK: Final = "__bus_mesh__"
_BLOCKING: Final = "__bus_mesh_blocking__"
_F = TypeVar("_F", bound=Callable[..., Coroutine[Any, Any, Any]])
_P = ParamSpec("_P")
_R = TypeVar("_R")


class Mark:
    """What `@rpc` says of a function; `method` is filled in when its class is made."""

    __slots__ = ("idempotent", "method", "name", "timeout")

    def __init__(self, name: str, idempotent: bool, timeout: float | None) -> None:
        self.name = name
        self.idempotent = idempotent
        self.timeout = timeout
        self.method: Method | None = None


class Method:
    """One method of a contract. Its codec is built when first needed, so annotations may name later classes."""

    def __init__(self, service: str, attribute: str, function: Callable[..., Any], mark: Mark) -> None:
        self.service = service
        self.attribute = attribute
        self.function = function
        self.name = mark.name
        self.idempotent = mark.idempotent
        self.timeout = mark.timeout

    def __repr__(self) -> str:
        return f"Method({self.service}.{self.name}, idempotent={self.idempotent}, timeout={self.timeout})"

    @cached_property
    def codec(self) -> Codec:
        """How the parameters and the result travel; TypeError for an annotation that cannot."""
        label = f"{self.service}.{self.name}"
        try:
            hints = typing.get_type_hints(self.function, include_extras=True)
        except NameError as error:
            raise TypeError(f"{label}: {error}: annotations must name what the contract's module can see") from error
        parameters = list(inspect.signature(self.function).parameters.values())[1:]
        described = {p.name: (hints.get(p.name, Any), p.default is p.empty) for p in parameters}
        positional = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
        return Codec(label, described, positional, hints.get("return", Any))

    def offered(self) -> frames.Method:
        """Return the method as a SERVE frame names it; its schema is 16 digits of a SHA-256."""
        from hashlib import sha256

        schema = sha256(self.codec.schema().encode()).hexdigest()[:16]
        return frames.Method(self.name, self.idempotent, round((self.timeout or 0) * 1000), schema)


class Contract:
    """What a service offers: its name, version and methods by their names on the wire."""

    def __init__(self, owner: type, service: str, version: str) -> None:
        self.owner = owner
        self.service = names.service_name(service)
        self.version = version
        self.methods: dict[str, Method] = {}
        for attribute, function, mark in _marked(owner):
            self._add(attribute, function, mark)

    def __repr__(self) -> str:
        return f"Contract({self.service} {self.version}: {', '.join(self.methods)})"

    def _add(self, attribute: str, function: Callable[..., Any], mark: Mark) -> None:
        if mark.name in self.methods:
            raise TypeError(f"{self.owner.__qualname__} has two methods named {mark.name!r} on the wire")
        method = Method(self.service, attribute, function, mark)
        mark.method = mark.method or method
        self.methods[mark.name] = method

    def handlers(self, implementation: object) -> dict[str, Callable[..., Any]]:
        """Return the bound handler of every method; TypeError listing those that are not implemented."""
        found = {name: getattr(implementation, method.attribute) for name, method in self.methods.items()}
        missing = [name for name, handler in found.items() if _is_stub(handler)]
        if missing:
            kind = type(implementation).__qualname__
            raise TypeError(
                f"{kind} does not implement {', '.join(missing)} of {self.service}: override each with an async def"
            )
        for name, handler in found.items():
            if not inspect.iscoroutinefunction(handler):
                raise TypeError(f"{handler.__qualname__} is a plain def: write async def, or put @blocking over it")
            self.methods[name].codec.accepts(handler, inspect.signature(handler).bind)
        return found


class Service:
    """Base of contracts: `class Orders(Service, name="orders", version="1.2.0")`.

    A subclass without a name implements the contract that it inherits. TypeError, when the class is made, for methods
    that cannot travel.
    """

    __contract__: ClassVar[Contract | None] = None

    def __init_subclass__(cls, *, name: str | None = None, version: str | None = None, **more: Any) -> None:
        super().__init_subclass__(**more)
        inherited = {found for base in cls.__bases__ if (found := getattr(base, "__contract__", None)) is not None}
        if len(inherited) > 1 or (inherited and name is not None):
            raise TypeError(
                f"{cls.__qualname__} would speak for several services, {sorted(c.service for c in inherited)}: "
                "a class is one contract or implements one; serve an object for each"
            )
        own = any(_mark_of(value) for value in vars(cls).values())
        if name is not None:
            cls.__contract__ = Contract(cls, name, version or "0.0.0")
        elif inherited and (own or version is not None):
            (parent,) = inherited
            cls.__contract__ = Contract(cls, parent.service, version or parent.version)
        elif own:
            raise TypeError(
                f'{cls.__qualname__} has @rpc methods and no name: write class {cls.__name__}(Service, name="...")'
            )


def contract_of(kind: type) -> Contract:
    """Return the contract of a Service class; TypeError when it has none."""
    contract: Contract | None = getattr(kind, "__contract__", None)
    if contract is None:
        raise TypeError(f'{kind.__qualname__} is no contract: write class {kind.__name__}(Service, name="...")')
    return contract


def method_of(function: Callable[..., Any]) -> Method:
    """Return the method that a reference like `Orders.get` means; TypeError when it is none."""
    mark = _mark_of(function)
    if mark is None or mark.method is None:
        shown = getattr(function, "__qualname__", repr(function))
        raise TypeError(f"{shown} is not an @rpc method of a contract: name the contract's own, like Orders.get")
    return mark.method


@overload
def rpc(function: _F, /) -> _F: ...
@overload
def rpc(*, idempotent: bool = False, timeout: float | None = None, name: str | None = None) -> Callable[[_F], _F]: ...
def rpc(
    function: _F | None = None, /, *, idempotent: bool = False, timeout: float | None = None, name: str | None = None
) -> _F | Callable[[_F], _F]:
    """Offer an `async def` method to callers; the function itself stays as it is.

    `idempotent`: running it twice does no harm, so a lost call may be sent again. `timeout`: seconds that a call has
    when its caller says nothing, at most 600. `name`: the method's name on the wire, the function's own by default.
    """
    if timeout is not None:
        check_timeout(timeout)

    def mark(target: _F) -> _F:
        _check(target)
        setattr(target, _MARK, Mark(names.method_name(name or target.__name__), idempotent, timeout))
        return target

    return mark if function is None else mark(function)


def blocking(function: Callable[_P, _R]) -> Callable[_P, Coroutine[Any, Any, _R]]:
    """Run a plain `def` handler in a pool of 32 threads; its context variables go with it.

    A thread cannot be interrupted: its slot is held until it returns. `current().cancelled` tells it that nobody waits.
    """

    @wraps(function)
    async def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        context = copy_context()
        thread: Future[_R] = _pool().submit(context.run, partial(_in_time, partial(function, *args, **kwargs)))
        return await _outlast(thread)

    setattr(run, _BLOCKING, True)
    return run


def is_blocking(handler: Callable[..., Any]) -> bool:
    """Tell whether a handler begins in a thread, and says so itself when it does."""
    return getattr(handler, _BLOCKING, False) is True


async def _outlast(thread: "Future[_R]") -> _R:
    """Wait for a thread's result; when cancelled, first wait for the thread unless it has not begun."""
    waiting = asyncio.wrap_future(thread)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        if not thread.cancel():
            await asyncio.wait([waiting])
            waiting.exception()
        raise


def _in_time(function: Callable[[], _R]) -> _R:
    # The pool may have been full for a while, and a call past its deadline must not run.
    context = answering.get()
    if context is not None:
        if context.remaining() <= 0.0:
            raise DeadlineExceeded("the time of the call was out before a thread was free", ran=Ran.NO)
        context.began = True
    return function()


_threads: list[ThreadPoolExecutor] = []


def _pool() -> ThreadPoolExecutor:
    if not _threads:
        _threads.append(ThreadPoolExecutor(BLOCKING_THREADS, thread_name_prefix="bus-mesh-blocking"))
    return _threads[0]


def _mark_of(value: object) -> Mark | None:
    found = getattr(value, _MARK, None)
    return found if isinstance(found, Mark) else None


def _marked(owner: type) -> Iterator[tuple[str, Callable[..., Any], Mark]]:
    """Give each marked function once, the most derived mark of its attribute, base classes first."""
    found = {key: value for kind in reversed(owner.__mro__) for key, value in vars(kind).items() if _mark_of(value)}
    for attribute, function in found.items():
        yield attribute, function, getattr(function, _MARK)


def _is_stub(handler: Callable[..., Any]) -> bool:
    """Tell whether a contract's method was left as it was: abstract, or nothing but `raise NotImplementedError`."""
    function = inspect.unwrap(getattr(handler, "__func__", handler))
    code = getattr(function, "__code__", None)
    return getattr(function, "__isabstractmethod__", False) or (
        code is not None and code.co_names == ("NotImplementedError",)
    )


def _check(function: Callable[..., Any]) -> None:
    """Refuse, with the reason, a function that cannot be called through the mesh."""
    shown = function.__qualname__
    if inspect.isasyncgenfunction(function) or not inspect.iscoroutinefunction(function):
        raise TypeError(f"{shown} must be an async def that returns one value: this version has no streams")
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{shown}: parameter {parameter} cannot travel by name: give each parameter its own name")
    for name, annotation in function.__annotations__.items():
        said = annotation if isinstance(annotation, str) else repr(annotation)
        if any(stream in said for stream in ("AsyncIterator", "AsyncIterable", "AsyncGenerator")):
            raise TypeError(
                f"{shown}: {name!r} is a stream ({said}): this version has none; return a list, or call again"
            )
