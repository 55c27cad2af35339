"""Changes of services, node after node, with their progress; and the list of what runs where.

for each node: asked (signed, by one request id) ──▶ a job there ──polled, line by line──▶ done, or failed: stop here
"""

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Final, NoReturn

from bus_mesh import clock
from bus_mesh.cli import show
from bus_mesh.cli.problem import FAILED, Problem
from bus_mesh.cli.show import Output
from bus_mesh.protocol.errors import Code, MeshError

if TYPE_CHECKING:
    from bus_mesh.cli.order import Orderer

__all__ = ["Change", "Failed", "listed", "look", "running"]

_MISTAKES: Final = (Code.NOT_FOUND, Code.INVALID_ARGUMENT)
LOOK_AGAIN: Final = 0.15
"""Seconds between looks at a job."""


class Failed(Exception):
    """A node did not do what it was asked; the message says why."""


class Change:
    """One change, of one node after the other. `words` is the command without its nodes."""

    def __init__(self, verb: str, arguments: dict[str, Any], words: str, request: str, output: Output) -> None:
        self._verb, self._arguments, self._words, self._output = verb, arguments, words, output
        self._request = request or secrets.token_hex(8)
        self._done: dict[str, str] = {}

    async def run(self, orderer: "Orderer", where: list[str] | None) -> int:
        """Have it done; return the exit code."""
        nodes = where if where is not None else await running(orderer, self._arguments["service"])
        for at, node in enumerate(nodes):
            try:
                self._done[node] = await self._one(orderer, node)
            except (Failed, MeshError, Problem) as error:
                self._fail(node, error, nodes[at:])
            self._say(node, self._done[node])
        if self._output is Output.JSON:
            show.json_line({"request": self._request, "done": self._done, "failed": None})
        return 0

    async def _one(self, orderer: "Orderer", node: str) -> str:
        """Return what a node did, with its progress told on the way."""
        begun = await orderer.ask(node, self._verb, self._arguments, request=self._request)
        cursor = 0
        while True:
            seen = await orderer.ask(node, "job", {"job": begun["job"], "cursor": cursor})
            for line in seen["lines"]:
                self._say(node, line)
            cursor = seen["cursor"]
            if seen["error"] is not None:
                raise Failed(seen["error"])
            if seen["over"]:
                return str(seen["done"])
            await asyncio.sleep(LOOK_AGAIN)

    def _say(self, node: str, line: str) -> None:
        if self._output is Output.JSON:
            show.json_line({"node": node, "line": line})
        else:
            show.line(f"{node}  {line}")

    def _fail(self, node: str, error: Exception, rest: list[str]) -> NoReturn:
        why = error.message if isinstance(error, MeshError) else str(getattr(error, "what", error))
        if self._output is Output.JSON:
            failed = {"node": node, "error": why, "not_done": rest}
            show.json_line({"request": self._request, "done": self._done, "failed": failed})
        done = "; ".join(f"{of} {said}" for of, said in self._done.items())
        left = f"; nothing was asked of {', '.join(rest[1:])}" if rest[1:] else ""
        raise Problem(
            why if node in why else f"{node}: {why}",
            (f"done before: {done}" if done else "nothing was done before") + left,
            self._next(error, rest),
            exit_code=FAILED,
        ) from None

    def _next(self, error: Exception, rest: list[str]) -> str:
        """Return the command that goes on from there, or that shows what there is."""
        from bus_mesh.cli.order import NoAnswer

        if isinstance(error, MeshError) and (error.wire_code or error.code) in _MISTAKES:
            return "busmesh service list"
        if isinstance(error, Problem) and not isinstance(error, NoAnswer):
            return error.then  # nothing was sent
        nodes = "".join(f" --node {one}" for one in rest) if "service" in self._arguments else ""
        # It may have arrived; what failed is to be tried anew, not told again.
        again = f" --request {self._request}" if isinstance(error, NoAnswer) else ""
        return f"busmesh {self._words}{nodes}{again}      # goes on from here"


async def look(orderer: "Orderer", nodes: list[str], verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what each node answers, all asked at once; a MeshError or Problem where one does not."""
    asking = (orderer.ask(node, verb, arguments) for node in nodes)
    return dict(zip(nodes, await asyncio.gather(*asking, return_exceptions=True), strict=True))


async def running(orderer: "Orderer", service: str) -> list[str]:
    """Return the nodes that run a service; raise Problem when none does, or when one that may does not answer."""
    from bus_mesh.cli.ask import closest

    nodes, known = [], set[str]()
    for node, said in (await look(orderer, await names(orderer), "services", {})).items():
        if isinstance(said, BaseException):
            raise said
        found = {row["service"] for row in said["services"]}
        known |= found
        nodes += [node] if service in found else []
    if not nodes:
        raise Problem(
            closest("service", service, sorted(known)), "no agent that answers runs it", "busmesh service list"
        )
    return nodes


async def names(orderer: "Orderer") -> list[str]:
    """Return the names of all nodes that answer."""
    return [row["node"] for row in await orderer.nodes()]


async def listed(orderer: "Orderer", service: str, where: list[str] | None, output: Output) -> int:
    """Print what runs where; return 1 when a node did not answer."""
    from bus_mesh.cli.service import COLUMNS

    failed = 0
    rows: list[dict[str, Any]] = []
    for node, said in (await look(orderer, where or await names(orderer), "services", {})).items():
        if isinstance(said, MeshError | Problem):
            failed = 1
            show.say(f"{node}: {said.what if isinstance(said, Problem) else said.message}")
        elif isinstance(said, BaseException):
            raise said
        else:
            rows += rows_of(said, service)
    if output is Output.JSON:
        for row in rows:
            show.json_line(row)
        return failed
    for line in show.table(COLUMNS, [_shown(row, clock.wall()) for row in rows]):
        show.line(line)
    return failed


def rows_of(said: dict[str, Any], service: str = "") -> list[dict[str, Any]]:
    """Return one row for each replica; one with phase `none` for a service that has no replica now."""
    rows: list[dict[str, Any]] = []
    for found in said["services"]:
        if service in ("", found["service"]):
            of = {"node": said["node"], "drained": said["drained"], "service": found["service"]}
            rows += [{**of, **replica} for replica in found["replicas"]]
            if not found["replicas"]:
                nothing = {"replica": None, "phase": "none", "pid": 0, "starts": 0, "status": None}
                rows.append({**of, **nothing, "message": "", "ready": False, "since": 0.0})
    return rows


def _shown(row: dict[str, Any], now: float) -> list[object]:
    since = show.age(int(max(0.0, now - row["since"]) * 1e6)) if row["since"] else ""
    ready = "drained" if row["ready"] and row["drained"] else "yes" if row["ready"] else "no"
    of = [row["node"], row["service"], row["replica"], row["phase"], ready]
    return [*of, row["pid"] or "", row["starts"], since, row["status"], row["message"][:200]]
