"""`busmesh tap`: the calls to a service, live, from all nodes."""

import asyncio
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bus_mesh.cli import complete, options, show
from bus_mesh.cli.options import App, As, By, Home, Socket
from bus_mesh.cli.show import Output

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

    from bus_mesh.cli.operator import Operator
    from bus_mesh.cli.order import Orderer

AGAIN: Final = 1.0
"""Seconds between two looks at who is there, and after a node did not answer."""
PATIENCE: Final = 4.0


def tap(
    service: Annotated[str, typer.Argument(help="Whose calls to show.", autocompletion=complete.services)],
    caller: Annotated[str, typer.Option("--from", help="Only calls of this service.")] = "",
    method: Annotated[str, typer.Option("--method", help="Only calls of this method.")] = "",
    code: Annotated[str, typer.Option("--code", help="Only calls that ended so, like UNAVAILABLE.")] = "",
    max_rps: Annotated[int, typer.Option("--max-rps", help="Calls a second at most; others are counted.")] = 100,
    payload: Annotated[bool, typer.Option("--payload", help="With payloads, where policy lets them be seen.")] = False,
    most: Annotated[int, typer.Option("--most", help="End after so many calls; 0: go on until stopped.")] = 0,
    output: As = Output.TEXT,
    operator: By = "operator",
    app: App = "cli",
    socket: Socket = None,
    home: Home = None,
) -> None:
    """Show calls as they end, each once, as its caller saw it; until it is stopped.

    No payload, unless with --payload and where policy says `tap: {payload: true}`.
    """
    from bus_mesh.cli.ask import with_mesh
    from bus_mesh.cli.operator import Operator
    from bus_mesh.protocol.names import callee_name

    max_rps = options.at_least(max_rps, 1, "--max-rps")
    wanted = {"service": callee_name(service), "from": caller, "method": method, "code": code.upper()}
    wanted_all = {**wanted, "max_rps": max_rps, "payload": payload}
    signer = Operator.read(options.home_of(home), operator)
    watch = _Watch(wanted_all, max_rps, most, output)
    with_mesh(app, socket, lambda mesh: watch.run(mesh, signer))


class _Watch:
    """One look at all nodes."""

    def __init__(self, wanted: dict[str, Any], max_rps: int, most: int, output: Output) -> None:
        self._wanted = {**wanted, "id": secrets.token_hex(8)}
        self._max_rps = max_rps
        self._most = most
        self._output = output
        self._shown = 0
        self._second, self._in_second = 0, 0
        self._over = asyncio.Event()
        self._failed: list[Exception] = []

    async def run(self, mesh: "Mesh", signer: "Operator") -> None:
        """Follow every node, those that come later too."""
        from bus_mesh.cli.order import Orderer

        orderer = await Orderer.open(mesh, signer)
        following: dict[str, asyncio.Task[None]] = {}
        try:
            while not self._over.is_set():
                for node in [row["node"] for row in await orderer.nodes() if row["state"] != "silent"]:
                    if node not in following or following[node].done():
                        following[node] = asyncio.create_task(self._follow(orderer, node))
                try:
                    await asyncio.wait_for(self._over.wait(), AGAIN)
                except TimeoutError:
                    continue
        finally:
            for task in following.values():
                task.cancel()
        if self._failed:
            raise self._failed[0]

    async def _follow(self, orderer: "Orderer", node: str) -> None:
        from bus_mesh.cli.problem import Problem
        from bus_mesh.protocol.errors import InvalidArgument, MeshError, PermissionDenied

        while True:
            try:
                answer = await orderer.ask(node, "tap", self._wanted, timeout=PATIENCE)
            except (InvalidArgument, PermissionDenied) as error:  # it would be no better elsewhere
                self._failed.append(error)
                self._over.set()
                return
            except (Problem, MeshError) as error:
                show.say(f"{node} shows nothing: {error.what if isinstance(error, Problem) else error.message}")
                return
            for seen in answer["calls"]:
                self._show(seen)
            if answer["dropped"]:
                show.say(f"{node} left out {answer['dropped']} calls: more than is shown in a second")

    def _show(self, seen: dict[str, Any]) -> None:
        if self._over.is_set():
            return
        second = int(asyncio.get_running_loop().time())
        if second != self._second:
            self._second, self._in_second = second, 0
        self._in_second += 1
        if self._in_second > self._max_rps:
            return
        if self._output is Output.JSON:
            show.json_line(readable(seen))
        else:
            show.line(show.fitted(text(readable(seen))))
        self._shown += 1
        if self._most and self._shown >= self._most:
            self._over.set()


def readable(seen: dict[str, Any]) -> dict[str, Any]:
    """Return a call with its payloads unpacked; cut ones stay bytes."""
    import msgpack

    found = dict(seen)
    for key in ("request", "answer"):
        if isinstance(found.get(key), bytes):
            try:
                found[key] = msgpack.unpackb(found[key], strict_map_key=False, max_ext_len=0)
            except Exception:  # cut at 4 KiB, or no MessagePack: shown as it is
                continue
    return found


def text(seen: dict[str, Any]) -> str:
    """Return one line for a call."""
    at = datetime.fromtimestamp(seen["at"], UTC).strftime("%H:%M:%S.%f")[:-3]
    code = seen["code"] if seen["code"] in ("OK", seen["reason"]) else f"{seen['code']}/{seen['reason']}"
    tries = f"  {seen['tries']} tries" if seen["tries"] > 1 else ""
    where = seen["instance"] or "nowhere"
    line = (
        f"{at}  {seen['from']} -> {seen['service']}/{seen['method']}  {where}  {code}  {seen['took_ms']:.1f}ms{tries}"
    )
    if "request" in seen:
        return f"{line}  {seen['request']!r} -> {seen['answer']!r}"
    return line
