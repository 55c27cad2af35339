"""A mesh for an app's own tests: real agents and policy within one process, without a bus, a socket or waiting.

async def test_an_order_reserves_its_stock() -> None:
    async with MeshTest() as t:
        t.stub(Stock.reserve).returns(Receipt(id="r"))
        await t.serve(OrdersImpl(t.client(Stock, app="orders")))

        order = await t.call(Orders.create, NewOrder(sku="tea"))

        assert order.receipt == "r"
        assert t.calls(Stock.reserve)[0].params == {"sku": "tea", "qty": 1}
        assert t.calls(Stock.reserve)[0].caller == "orders"

Every call takes the real path: frames, envelopes, gates, policy. Time stands still but for `await t.advance(seconds)`.
"""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType, new_class
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, overload

from bus_mesh import __version__
from bus_mesh.protocol import names
from bus_mesh.protocol.errors import Unimplemented
from bus_mesh.protocol.frames import Hello, Kind
from bus_mesh.protocol.session import PROTOCOL_VERSION
from bus_mesh.testing import ManualClock, MemoryMesh
from bus_mesh_sdk._client import client_of
from bus_mesh_sdk._connection import Connection, Make
from bus_mesh_sdk._context import check_timeout, current
from bus_mesh_sdk._health import check_of, health
from bus_mesh_sdk._mesh import Mesh
from bus_mesh_sdk._service import Contract, Method, Service, contract_of, method_of
from bus_mesh_sdk._serving import Serving
from bus_mesh_sdk._stubs import Called, Fault, PlainStubs, Stub

__all__ = ["Called", "MeshTest", "Stub"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S", bound=Service)
_Key = tuple[str, str]
_Handler = Callable[..., Coroutine[Any, Any, Any]]

_PATIENCE = 10.0
_OPEN = """\
kind: Service
name: {service}
access: {{allow: [{{name: everything-is-allowed-in-this-test, from: ["*"], methods: ["*"]}}]}}
"""


class _Caller:
    """Carries out the calls of one app's clients; the app joins the mesh with its first call."""

    def __init__(self, test: "MeshTest", app: str) -> None:
        self._test = test
        self._app = app

    def __repr__(self) -> str:
        return f"{self._app} in {self._test!r}"

    async def invoke(
        self, method: Method, args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout: float | None
    ) -> Any:
        """Call `method` as this app."""
        mesh = await self._test.mesh(self._app)
        return await mesh.invoke(method, args, kwargs, timeout)


class MeshTest:
    """A whole mesh for one test: `async with MeshTest() as t:`.

    Each app has a machine of its own, with a real agent, keys and certificate; the bus between them is in memory. The
    loop's time stands still inside: `asyncio.sleep` and deadlines wait for `await t.advance(...)`. Only `serve`, what
    comes first after `stub`, and the end of the block let as much time pass as they need (0.25 s and more). Everything
    is allowed until `t.policy(...)` is called. `app` is who `t.call` and clients are when they are told nothing else.
    """

    def __init__(self, app: str = "test") -> None:
        self.app = names.service_name(app)
        self._clock: ManualClock | None = None
        self._mesh: MemoryMesh | None = None
        self._sessions: dict[str, Mesh] = {}
        self._servers: list[Mesh] = []
        self._lock = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._stubs: dict[_Key, Stub[Any]] = {}
        self._faults: dict[_Key, Fault] = {}
        self._calls: dict[_Key, list[Called]] = {}
        self._unserved: dict[str, Contract] = {}
        self._plain = PlainStubs(self._calls)
        self._known: set[str] = set()
        self._everything_allowed = True

    def __repr__(self) -> str:
        state = "not open" if self._mesh is None else ", ".join(sorted(self._mesh.nodes)) or "empty"
        return f"MeshTest({state})"

    async def __aenter__(self) -> Self:
        if self._clock is not None:
            raise RuntimeError("this MeshTest is open or was closed: use another")
        self._clock = ManualClock().__enter__()
        self._mesh = MemoryMesh(self._clock)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        clock, self._known = self._time, set()
        try:
            await clock.through(self._leave())
        finally:
            clock.__exit__(kind, error, trace)
            self._mesh = None

    # What a test does.

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, and 11 ms more as deadlines are rounded up to 10 ms; what falls due happens."""
        async with self._lock:
            await self._serve_stubs()
        await self._time.advance(seconds)

    async def serve(
        self,
        implementation: Service,
        *,
        app: str | None = None,
        labels: Mapping[str, str] | None = None,
        version: str | None = None,
        concurrency: int = 64,
        queue: int = 1024,
    ) -> Serving:
        """Offer a service from a machine of its own and return once it can be called; every call of it is noted.

        `app` is who its process is, by default the service's name. The rest is as with `Mesh.serve`. Serving
        twice makes two instances.
        """
        contract = contract_of(type(implementation))
        handlers = contract.handlers(implementation)
        more = {"labels": labels, "version": version, "concurrency": concurrency, "queue": queue}
        check = check_of(implementation, contract)
        return await self._time.through(self._serve(contract, handlers, app or contract.service, more, check))

    @overload
    def stub(self, method: Callable[Concatenate[Any, _P], Coroutine[Any, Any, _R]], /) -> Stub[_R]: ...
    @overload
    def stub(self, service: str, endpoint: str, /) -> Stub[Any]: ...
    def stub(self, target: Any, endpoint: str = "", /) -> Stub[Any]:
        """Have a method answer what the test says: `t.stub(Stock.reserve).returns(...)` or `.raises(...)`.

        A service that nobody serves is served for it, before the next call; its other methods are UNIMPLEMENTED.
        `t.stub("micro:NAME", "ENDPOINT")` does so for a plain service of NATS, which answers a JSON value.
        """
        if isinstance(target, str):
            self._know(target)
            return self._plain.add(target, endpoint)
        found = method_of(target)
        contract = _owner_of(found)
        self._know(found.service)
        if found.service not in self._served():
            self._unserved[found.service] = contract
        stub = self._stubs[found.service, found.name] = Stub[Any](f"{found.service}.{found.name}")
        return stub

    def fault(
        self, method: Callable[..., Coroutine[Any, Any, Any]], *, delay: float = 0.0, error: BaseException | None = None
    ) -> None:
        """Have a method wait `delay` seconds of `advance`, then fail with `error` or do its work; neither: heal it."""
        found = method_of(method)
        self._faults[found.service, found.name] = Fault(delay, error)

    @overload
    def calls(self, method: Callable[..., Coroutine[Any, Any, Any]], /) -> list[Called]: ...
    @overload
    def calls(self, service: str, endpoint: str, /) -> list[Called]: ...
    def calls(self, target: Any, endpoint: str = "", /) -> list[Called]:
        """Return the calls that a method got so far, oldest first; what was refused on the way is not among them.

        `t.calls("micro:NAME", "ENDPOINT")`: those of a plain service of NATS.
        """
        if isinstance(target, str):
            return list(self._calls.get((target, endpoint), ()))
        found = method_of(target)
        return list(self._calls.get((found.service, found.name), ()))

    def client(self, contract: type[_S], *, app: str | None = None, timeout: float | None = None) -> _S:
        """Return a client as `Mesh.client` does, which speaks as `app`. It may be made before anything is served."""
        self._know(contract_of(contract).service)
        caller = _Caller(self, names.service_name(app or self.app))
        return client_of(contract, caller, None if timeout is None else check_timeout(timeout))

    @overload
    def call(
        self, method: Callable[Concatenate[Any, _P], Coroutine[Any, Any, _R]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Coroutine[Any, Any, _R]: ...
    @overload
    def call(
        self,
        service: str,
        method: str,
        params: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> Coroutine[Any, Any, Any]: ...
    def call(self, target: Any, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Call as `Mesh.call` does, by reference or by name, as this test's `app`."""
        self._know(target if isinstance(target, str) else method_of(target).service)
        return self._call(target, args, kwargs)

    async def mesh(self, app: str | None = None) -> Mesh:
        """Return the open session of an app, for code that takes a `Mesh`. It is closed with the test."""
        async with self._lock:
            await self._serve_stubs()
            found = self._sessions.get(app or self.app)
            return found if found is not None else await self._open(app or self.app, ())

    def policy(self, text: str) -> None:
        """Put YAML policy documents into force everywhere, instead of all before; what they do not allow is denied.

        PolicyError lists everything that is wrong in them.
        """
        self._network.enforce(text)
        self._everything_allowed = False

    # Inside.

    @property
    def _time(self) -> ManualClock:
        if self._clock is None:
            raise RuntimeError("this MeshTest is not open: write `async with MeshTest() as t:`")
        return self._clock

    @property
    def _network(self) -> MemoryMesh:
        if self._mesh is None:
            raise RuntimeError("this MeshTest is not open: write `async with MeshTest() as t:`")
        return self._mesh

    def _know(self, service: str) -> None:
        """Allow everything to one more service, while no policy was given."""
        network = self._network
        if service not in self._known and (names.is_service(service) or names.is_plain(service)):
            self._known.add(service)
            if self._everything_allowed:
                network.enforce("---\n".join(_OPEN.format(service=name) for name in sorted(self._known)))

    def _served(self) -> set[str]:
        return {service for node in self._network.nodes.values() for service in node.own.certificate.serve}

    async def _call(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        mesh = await self.mesh()
        return await mesh.call(target, *args, **kwargs)

    async def _open(self, app: str, serve: tuple[str, ...]) -> Mesh:
        """Start a machine for `app` and connect to its agent."""
        network = self._network
        node = await network.start(f"node-{next(self._numbers)}", serve=serve, call_as=[app])

        async def reach(make: Make, path: str) -> Connection:
            return network.connect(node, make(network.clock.time))

        hello = Hello(Kind.HELLO.value, PROTOCOL_VERSION, app, f"python {__version__}", None)
        mesh = await Mesh(f"{node.own.node} in memory", hello, _PATIENCE, reach)
        self._sessions.setdefault(app, mesh)
        self._servers.append(mesh)
        return mesh

    async def _serve(
        self,
        contract: Contract,
        handlers: Mapping[str, _Handler],
        app: str,
        more: Mapping[str, Any],
        check: _Handler | None = None,
    ) -> Serving:
        self._unserved.pop(contract.service, None)
        self._know(contract.service)
        mesh = await self._open(names.service_name(app), (contract.service,))
        return await mesh.serve(self._double(contract, handlers, check), **more)

    async def _serve_stubs(self) -> None:
        """Serve what has stubs and nobody to serve it."""
        await self._plain.start(self._network.serve_plain)
        while self._unserved:
            _, contract = self._unserved.popitem()
            await self._time.through(self._serve(contract, {}, contract.service, {}))

    async def _leave(self) -> None:
        for mesh in reversed(self._servers):
            await mesh.close()
        await self._network.close()

    def _double(self, contract: Contract, handlers: Mapping[str, _Handler], check: _Handler | None) -> Service:
        """Return an implementation of `contract` that notes each call, then does as it is told or as `handlers` do."""
        body = {
            method.attribute: self._handler(method, handlers.get(name)) for name, method in contract.methods.items()
        }
        if check is not None:
            body["_well"] = _asking(check)
        kind = new_class(contract.owner.__name__, (contract.owner,), exec_body=lambda namespace: namespace.update(body))
        double: Service = object.__new__(kind)
        return double

    def _handler(self, method: Method, handler: _Handler | None) -> _Handler:
        key, label = (method.service, method.name), f"{method.service}.{method.name}"

        async def handle(self_: Any, /, **params: Any) -> Any:
            context = current()
            self._calls.setdefault(key, []).append(Called(params, context.caller, context.metadata))
            fault = self._faults.get(key, Fault(0.0, None))
            if fault.delay:
                await asyncio.sleep(fault.delay)
            if fault.error is not None:
                raise fault.error.with_traceback(None)
            if key in self._stubs:
                return self._stubs[key].answer()
            if handler is None:
                raise Unimplemented(f"{label} has no stub: give it one with t.stub(...).returns(...) or .raises(...)")
            return await handler(**params)

        return handle


def _asking(check: _Handler) -> _Handler:
    @health
    async def well(self_: Any) -> None:
        await check()

    return well


def _owner_of(method: Method) -> Contract:
    """Return the contract that a method stands in."""
    kinds: list[type[Service]] = [Service]
    while kinds:
        kind = kinds.pop()
        contract = kind.__contract__
        if contract is not None and contract.methods.get(method.name) is method:
            return contract
        kinds += kind.__subclasses__()
    raise TypeError(f"{method!r} is of no contract that is still there")
