"""`busmesh service logs`: what services printed, on every node, and what they print: asked for again and again."""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from bus_mesh.cli import show
from bus_mesh.cli.problem import Problem
from bus_mesh.cli.rolling import look, running
from bus_mesh.cli.show import Output
from bus_mesh.protocol.errors import MeshError

if TYPE_CHECKING:
    from bus_mesh.cli.order import Orderer

__all__ = ["Logs", "parted"]

LOOK_AGAIN: Final = 0.4
"""Seconds between looks at what came."""


class Logs:
    """The logs of one service; `asked` says of which, and how many lines to begin with."""

    def __init__(self, orderer: "Orderer", asked: dict[str, Any], output: Output) -> None:
        self._orderer, self._asked, self._output = orderer, asked, output
        self._silent: set[str] = set()

    async def show(self, where: list[str] | None, follow: bool) -> int:
        """Print the last lines, and what comes as long as `follow`; return 1 when a node did not answer."""
        nodes = where or await running(self._orderer, self._asked["service"])
        cursors = self._print(await look(self._orderer, nodes, "logs", self._asked))
        while follow and cursors:
            await asyncio.sleep(LOOK_AGAIN)
            asking = (self._more(node, cursors[node]) for node in cursors)
            cursors |= self._print(dict(zip(cursors, await asyncio.gather(*asking), strict=True)))
        return 1 if self._silent else 0

    async def _more(self, node: str, cursors: Any) -> Any:
        try:
            return await self._orderer.ask(node, "logs", {**self._asked, "cursors": cursors})
        except (MeshError, Problem) as error:
            return error

    def _print(self, answers: dict[str, Any]) -> dict[str, Any]:
        """Print what nodes said, in the order of its time; return where each goes on."""
        lines: list[tuple[str, str, int, str]] = []
        following = {}
        for node, said in answers.items():
            if isinstance(said, MeshError | Problem):
                if node not in self._silent:
                    show.say(f"{node}: {said.what if isinstance(said, Problem) else said.message}")
                self._silent.add(node)
            elif isinstance(said, BaseException):
                raise said
            else:
                self._silent.discard(node)
                following[node] = said["cursors"]
                for replica, line in said["lines"]:
                    time, text = parted(line)
                    lines.append((time, node, replica, text))
        for time, node, replica, text in sorted(lines, key=lambda one: one[0]):
            if self._output is Output.JSON:
                show.json_line({"time": time, "node": node, "replica": replica, "line": text})
            else:
                show.line(f"{time} {node}[{replica}] {text}")
        return following


def parted(line: str) -> tuple[str, str]:
    """Return the time that a line begins with, and the line; no time where it goes on from another file."""
    return (line[:24], line[25:]) if line[23:25] == "Z " else ("", line)
