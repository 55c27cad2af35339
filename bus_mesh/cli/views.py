"""What several commands see of the whole mesh: every agent asked at once, twice for what happens meanwhile."""

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from bus_mesh.cli.order import Orderer
from bus_mesh.cli.problem import Problem
from bus_mesh.protocol.errors import MeshError
from bus_mesh.telemetry.statistics import Cells, Look, between

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

    from bus_mesh.cli.operator import Operator

PATIENCE = 3.0
"""Seconds that one agent has to answer; those that do not are named, and the others shown."""


class Seen(NamedTuple):
    """What happened between two looks: the parts of all nodes, bounds of buckets, calls in flight, who was silent."""

    parts: list[tuple[Cells, float]]
    bounds: tuple[float, ...]
    inflight: dict[tuple[str, str], int]
    silent: dict[str, str]


class Views:
    """Looks at all agents again and again."""

    def __init__(self, orderer: Orderer) -> None:
        self._orderer = orderer
        self._before: dict[str, Look] = {}
        self.nodes: list[dict[str, Any]] = []

    @classmethod
    async def open(cls, mesh: "Mesh", operator: "Operator") -> Self:
        """Take a first look."""
        views = cls(await Orderer.open(mesh, operator))
        await views.look()
        return views

    async def answers(self) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Return what each agent answers to `stats`, and why others did not."""
        self.nodes = await self._orderer.nodes()
        names = [node["node"] for node in self.nodes]
        asking = (self._orderer.ask(name, "stats", {}, timeout=PATIENCE) for name in names)
        found = dict(zip(names, await asyncio.gather(*asking, return_exceptions=True), strict=True))
        silent: dict[str, str] = {}
        for name, answer in found.items():
            if isinstance(answer, Problem | MeshError):
                silent[name] = answer.what if isinstance(answer, Problem) else answer.message
            elif isinstance(answer, BaseException):
                raise answer
        return {name: answer for name, answer in found.items() if isinstance(answer, dict)}, silent

    async def look(self) -> Seen:
        """Return what has happened since the look before."""
        answers, silent = await self.answers()
        looks = {name: Look.read(answer) for name, answer in answers.items()}
        parts = [between(self._before.get(name), look) for name, look in looks.items()]
        self._before.update(looks)
        bounds = next((look.bounds for look in looks.values()), ())
        inflight: dict[tuple[str, str], int] = {}
        for look in looks.values():
            for key, count in look.inflight.items():
                inflight[key] = inflight.get(key, 0) + count
        return Seen(parts, bounds, inflight, silent)
