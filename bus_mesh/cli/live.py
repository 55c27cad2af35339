"""The table of `busmesh up` that stays live on a terminal: services at work, nodes, and the policy in force."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from bus_mesh.cli import show, stat
from bus_mesh.cli.ask import ask
from bus_mesh.cli.problem import Problem
from bus_mesh.cli.views import Views
from bus_mesh.protocol.errors import MeshError

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

    from bus_mesh.cli.operator import Operator

EVERY: Final = 1.0
"""Seconds between two looks."""


async def watch(socket: Path, app: str, operator: "Operator") -> NoReturn:
    """Draw the table again and again, in place; an agent that is away is waited for."""
    from bus_mesh_sdk import Mesh

    drawn = 0
    while True:
        try:
            async with Mesh.connect(app=app, socket=socket) as mesh:
                views = await Views.open(mesh, operator)
                while True:
                    await asyncio.sleep(EVERY)
                    drawn = draw(await lines(mesh, views), drawn)
        except (MeshError, Problem, OSError) as error:
            why = error.what if isinstance(error, Problem) else str(error)
            drawn = draw([f"the first agent does not answer: {why}"], drawn)
            await asyncio.sleep(EVERY)


async def lines(mesh: "Mesh", views: Views) -> list[str]:
    """Return the table as it is now."""
    seen = await views.look()
    instances: list[dict[str, Any]] = await ask(mesh, "instances")
    printed = stat.stats(seen, instances, None, wide=False)
    own = await ask(mesh, "status")
    nodes = ", ".join(f"{node['node']} {node['state']}" for node in views.nodes)
    said = f"nodes   {nodes}; policy bundle {own['policy']}, {own['policy_state']}"
    silent = [f"{node} is not in this: {why}" for node, why in seen.silent.items()]
    return [*show.table(printed.columns, printed.rows), said, *silent]


def draw(fresh: Iterable[str], drawn: int) -> int:
    """Print lines in place of the `drawn` ones above, and return how many there are now."""
    told = [show.fitted(line) for line in fresh]
    up = f"\x1b[{drawn}F\x1b[J" if drawn else ""
    print(up + "\n".join(told), flush=True)
    return len(told)
