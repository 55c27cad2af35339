"""When a development mesh is up: each agent has policy, and knows every instance that was asked for."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from bus_mesh.agent.restart import Phase
from bus_mesh.agent.supervise import Standing
from bus_mesh.cli import screen
from bus_mesh.cli.ask import ask
from bus_mesh.cli.plan import CALLER, Node
from bus_mesh.cli.problem import Problem
from bus_mesh.protocol.errors import MeshError

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

PATIENCE: Final = 30.0
"""Seconds until a mesh that is not up is given up."""
LOOK_AGAIN: Final = 0.03
"""Seconds between two looks."""


class Readiness:
    """What is waited for, and what of it is lacking."""

    def __init__(
        self, nodes: Sequence[Node], wanted: Mapping[tuple[str, str], int], standings: Callable[[], list[Standing]]
    ) -> None:
        self._nodes, self._wanted, self._standings = nodes, wanted, standings
        self._logs = nodes[0].folder.parent / "logs"
        self.lacking: dict[str, str] = {node.name: "its agent has not opened its socket" for node in nodes}

    def __repr__(self) -> str:
        return f"Readiness(lacking={self.lacking})"

    async def wait(self) -> None:
        """Return once both agents know all instances; raise Problem when one dies, or what is lacking after 30 s."""
        try:
            async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch())
                await asyncio.gather(*(self._node(node) for node in self._nodes))
                watching.cancel()
        except TimeoutError:
            raise Problem(
                "the mesh did not come up in 30 s", "; ".join(self.lacking.values()), f"logs: {self._logs}"
            ) from None
        except ExceptionGroup as group_of_problems:
            raise group_of_problems.exceptions[0] from None

    async def _watch(self) -> None:
        while True:
            for standing in self._standings():
                if standing.phase in (Phase.PAUSED, Phase.CRASH_LOOP):
                    log = self._logs / f"{standing.service}.log"
                    what = f"the agent {standing.service} ended while it started ({screen.ended(standing)})"
                    raise Problem(what, screen.last_words(log), f"its log is {log}")
            await asyncio.sleep(LOOK_AGAIN)

    async def _node(self, node: Node) -> None:
        from bus_mesh_sdk import Mesh

        while not node.socket.exists():  # noqa: ASYNC110 - nothing tells when a file appears
            await asyncio.sleep(LOOK_AGAIN)
        async with Mesh.connect(app=CALLER, socket=node.socket) as mesh:
            while not await self._knows_all(mesh, node):  # noqa: ASYNC110 - nor when an agent has learnt of another
                await asyncio.sleep(LOOK_AGAIN)

    async def _knows_all(self, mesh: "Mesh", node: Node) -> bool:
        try:
            if not (await ask(mesh, "status"))["policy_loaded"]:
                self.lacking[node.name] = f"{node.name} has no policy yet"
                return False
            missing = lacking(self._wanted, await ask(mesh, "instances"))
        except MeshError as error:
            self.lacking[node.name] = f"{node.name} says {error}"
            return False
        self.lacking[node.name] = f"{node.name} lacks {missing}"
        return not missing


def lacking(wanted: Mapping[tuple[str, str], int], found: Sequence[Mapping[str, Any]]) -> str:
    """Return which instances are not up yet, in words; empty when all are."""
    there = Counter((one["service"], one["node"]) for one in found if one["state"] == "up")
    short = {place: count - there[place] for place, count in wanted.items() if there[place] < count}
    return ", ".join(f"{count} of {service} on {node}" for (service, node), count in sorted(short.items()))
