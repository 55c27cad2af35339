"""The mesh as an app sees it: connect, serve, call, leave."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, overload

from bus_mesh import __version__
from bus_mesh.protocol import names
from bus_mesh.protocol.errors import InvalidArgument, Ran
from bus_mesh.protocol.frames import Head, Hello, Kind
from bus_mesh.protocol.session import PROTOCOL_VERSION
from bus_mesh_sdk import _where
from bus_mesh_sdk._client import client_of
from bus_mesh_sdk._codec import request_of, value_of
from bus_mesh_sdk._connection import Reach, by_socket
from bus_mesh_sdk._context import check_timeout
from bus_mesh_sdk._link import Link
from bus_mesh_sdk._service import Method, Service, contract_of, method_of
from bus_mesh_sdk._serving import Serving

_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S", bound=Service)


class Mesh:
    """One app's session with its machine's agent; `async with Mesh.connect(app="web") as mesh:` opens and closes it.

    It survives a restart of the agent: it connects again and serves again what it served.
    """

    def __init__(self, path: str, hello: Hello, patience: float, reach: Reach = by_socket) -> None:
        self._path = path
        self._hello = hello
        self._patience = patience
        self._reach = reach
        self._opened: Link | None = None
        self._closing: asyncio.Task[None] | None = None
        self._wanted: asyncio.Event = asyncio.Event()

    def __repr__(self) -> str:
        return f"Mesh({self._hello.app} by {self._path}{'' if self._opened else ', not open'})"

    @classmethod
    def connect(
        cls,
        *,
        app: str | None = None,
        socket: str | os.PathLike[str] | None = None,
        token: str | None = None,
        patience: float = 10.0,
    ) -> Self:
        """Prepare a session that speaks as `app`; `async with` or `await` opens it.

        Without `app`, $BUSMESH_APP. Without `socket`, $BUSMESH_SOCKET, else a running `busmesh up`, else
        /run/busmesh/agent.sock. Without `token`, what the agent that started this process handed over. Opening waits
        `patience` seconds for an agent that is not up yet, then raises AgentAway; PermissionDenied when the agent does
        not let this user speak as `app`; InvalidArgument for a name or path that cannot be.
        """
        sdk = f"python {__version__}"
        hello = Hello(Kind.HELLO.value, PROTOCOL_VERSION, _where.app_name(app), sdk, _where.token(token))
        return cls(_where.socket_path(socket), hello, patience)

    async def __aenter__(self) -> Self:
        if self._opened is not None:
            raise RuntimeError("this Mesh is open or was closed: a session is used once, connect another")
        self._opened = Link(self._path, self._hello, reach=self._reach)
        await self._opened.open(self._patience)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __await__(self) -> Generator[Any, Any, Self]:
        return self.__aenter__().__await__()

    @property
    def app(self) -> str:
        """The app that this session speaks as."""
        return self._hello.app

    @property
    def node(self) -> str:
        """The node of the agent, or an empty string while there is none."""
        way = self._link.flights.connection
        return way.node if way is not None else ""

    async def serve(
        self,
        implementation: Service,
        *,
        labels: Mapping[str, str] | None = None,
        version: str | None = None,
        concurrency: int = 64,
        queue: int = 1024,
    ) -> Serving:
        """Offer a service and return once callers can find it.

        At most `concurrency` handlers run at once, `queue` calls wait for one, and a call beyond that is refused with
        RESOURCE_EXHAUSTED. `labels` are text to text; `version` goes before the contract's. TypeError when a method is
        not implemented; PermissionDenied when this app may not serve it.
        """
        link = self._link
        if concurrency < 1 or queue < 0:
            raise InvalidArgument(f"concurrency={concurrency}, queue={queue}: at least 1 and 0", ran=Ran.NO)
        contract = contract_of(type(implementation))
        serving = Serving(
            implementation,
            contract,
            version=version or contract.version,
            labels=labels or {},
            concurrency=concurrency,
            queue=queue,
            loop=link.loop,
            wheel=link.wheel,
            take_back=link.withdraw,
        )
        await link.serve(serving)
        return serving

    def client(self, contract: type[_S], *, timeout: float | None = None) -> _S:
        """Return an object of the contract's class whose methods call the service.

        `timeout` (seconds) goes before the contract's own, and `options(timeout=...)` before both.
        """
        return client_of(contract, self, None if timeout is None else check_timeout(timeout))

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
        """Call by reference, `call(Orders.get, "1")`, typed; or by name, `call("orders", "get", {"id": "1"})`.

        By name, the result is what MessagePack holds: a model is a dict. `timeout` in seconds, 5 by default.
        `idempotent` says that the call may be sent again when it is lost. Raises the MeshError that ended the call.
        """
        if isinstance(target, str):
            return self._by_name(target, *args, **kwargs)
        return self.invoke(method_of(target), args, kwargs, None)

    async def call_with_instance(
        self, service: str, method: str, params: Mapping[str, Any] | None = None, /, *, timeout: float | None = None
    ) -> tuple[Any, str]:
        """Call by name and return the result together with the id of the instance that answered, for load tests."""
        head, payload = await self._ask(service, method, params, timeout, named=True)
        instance = head.get("instance") if head else None
        return value_of(f"{service}.{method}", payload), instance if isinstance(instance, str) else ""

    def invoke(
        self, method: Method, args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout: float | None
    ) -> Coroutine[Any, Any, Any]:
        """Call a contract's method; clients do."""
        codec = method.codec
        payload = codec.request(args, kwargs)
        return self._link.call(
            method.service, method.name, payload, timeout, method.timeout, method.idempotent, codec.result
        )

    async def wait_closed(self) -> None:
        """Return once this session has left the mesh: after SIGTERM, SIGINT or `close()`.

        In the main thread, signals are taken while this waits, and given back after. A first signal lets running calls
        finish; a second one stops them.
        """
        with _Signals(asyncio.get_running_loop(), self._signalled):
            await self._wanted.wait()
            await self.close()

    async def close(self) -> None:
        """Leave: take back what is served, let running calls finish (30 s at most), then hang up. Twice is harmless."""
        self._wanted.set()
        if self._opened is None:
            return
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._opened.close())
        await asyncio.shield(self._closing)

    @property
    def _link(self) -> Link:
        if self._opened is None:
            raise RuntimeError("this Mesh is not open: write `async with Mesh.connect(...) as mesh`")
        return self._opened

    async def _by_name(
        self,
        service: str,
        method: str,
        params: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> Any:
        _, payload = await self._ask(service, method, params, timeout, idempotent=idempotent)
        return value_of(f"{service}.{method}", payload)

    async def _ask(
        self,
        service: str,
        method: str,
        params: Mapping[str, Any] | None,
        timeout: float | None,
        *,
        idempotent: bool = False,
        named: bool = False,
    ) -> tuple[Head | None, bytes]:
        label = names.called(service, method)
        explicit = None if timeout is None else check_timeout(timeout)
        payload = request_of(label, params)
        return await self._link.call(service, method, payload, None, None, idempotent, _both, explicit, named)

    def _signalled(self) -> None:
        if self._wanted.is_set() and self._opened is not None:
            self._opened.hurry()
        self._wanted.set()


def _both(head: Head | None, payload: bytes) -> tuple[Head | None, bytes]:
    return head, payload


class _Signals:
    """SIGTERM and SIGINT taken by the loop while a block runs; nothing outside of the main thread, which alone may."""

    def __init__(self, loop: asyncio.AbstractEventLoop, take: Callable[[], None]) -> None:
        self._loop = loop
        self._take = take
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.getsignal(number)
                self._loop.add_signal_handler(number, self._take)

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            self._loop.remove_signal_handler(number)
            signal.signal(number, before)
