"""The mesh for blocking code: the same calls, from any thread, over a session that a thread of its own keeps."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextvars import copy_context
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, overload

from bus_mesh_sdk._mesh import Mesh

__all__ = ["SyncMesh"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class SyncMesh:
    """One app's session for blocking code; `with SyncMesh.connect(app="job") as mesh:` opens and closes it.

    Safe to use from any number of threads at once. `options(...)` holds here as well. For code that runs inside an
    event loop there is `Mesh`: this one would block that loop.
    """

    def __init__(
        self, app: str | None, socket: str | os.PathLike[str] | None, token: str | None, patience: float
    ) -> None:
        self._arguments = {"app": app, "socket": socket, "token": token, "patience": patience}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._mesh: Mesh | None = None

    def __repr__(self) -> str:
        return f"SyncMesh({self._mesh or 'not open'})"

    @classmethod
    def connect(
        cls,
        *,
        app: str | None = None,
        socket: str | os.PathLike[str] | None = None,
        token: str | None = None,
        patience: float = 10.0,
    ) -> Self:
        """Prepare a session that speaks as `app`; `with` opens it. Defaults and errors are those of `Mesh.connect`."""
        return cls(app, socket, token, patience)

    def __enter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("this SyncMesh is open or was closed: a session is used once, connect another")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bus-mesh", daemon=True)
        self._thread.start()
        try:
            self._mesh = self._run(self._open())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @overload
    def call(
        self, method: Callable[Concatenate[Any, _P], Coroutine[Any, Any, _R]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> _R: ...
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
    ) -> Any: ...
    def call(self, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call by reference, `call(Orders.get, "1")`, typed; or by name, `call("orders", "get", {"id": "1"})`.

        Blocks this thread until the result is there. By name, the result is what MessagePack holds. `timeout` in
        seconds, 5 by default. Raises the MeshError that ended the call.
        """
        if self._mesh is None:
            raise RuntimeError("this SyncMesh is not open: write `with SyncMesh.connect(...) as mesh`")
        return self._run(self._mesh.call(target, *args, **kwargs))

    def close(self) -> None:
        """Leave the mesh and end the thread. Twice is harmless."""
        if self._loop is None or self._thread is None or not self._thread.is_alive():
            return
        if self._mesh is not None:
            self._run(self._mesh.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> Mesh:
        return await Mesh.connect(**self._arguments)  # type: ignore[arg-type]  # one dict of all four

    def _run(self, work: Coroutine[Any, Any, _R]) -> _R:
        """Run `work` in the session's thread, with the context variables of this one, and return its result."""
        loop = self._loop
        assert loop is not None
        if threading.current_thread() is self._thread or loop.is_closed():
            work.close()
            raise RuntimeError("this SyncMesh is closed, or was called from its own thread")
        result: Future[_R] = Future()
        loop.call_soon_threadsafe(_follow, work, result, context=copy_context())
        try:
            return result.result()
        except BaseException:
            result.cancel()  # Ctrl-C while waiting: the call is given up, and its agent told
            raise


def _follow(work: Coroutine[Any, Any, _R], result: "Future[_R]") -> None:
    task = asyncio.ensure_future(work)

    def ended(task: "asyncio.Task[_R]") -> None:
        if result.cancelled():
            return
        if task.cancelled():
            result.cancel()
        elif (error := task.exception()) is not None:
            result.set_exception(error)
        else:
            result.set_result(task.result())

    def given_up(result: "Future[_R]") -> None:
        if result.cancelled():
            task.get_loop().call_soon_threadsafe(task.cancel)

    task.add_done_callback(ended)
    result.add_done_callback(given_up)
