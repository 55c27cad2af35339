"""What several commands find out of the whole mesh: every agent, the policy agent, and what nodes announce."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bus_mesh.cli.judgement import Facts

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

    from bus_mesh.cli.operator import Operator
    from bus_mesh.cli.order import Orderer

__all__ = ["gathered", "unbelieved"]


async def gathered(mesh: "Mesh", signer: "Operator | None", *, patience: float | None = None) -> Facts:
    """Return what is found; nodes answer an operator alone, so without one nobody is asked.

    An agent that has just started may need `patience` seconds to hear of a policy agent.
    """
    from bus_mesh import clock
    from bus_mesh.cli.ask import ask
    from bus_mesh.cli.operator import HEARD_SECONDS, control
    from bus_mesh.cli.order import Orderer
    from bus_mesh.cli.problem import Problem
    from bus_mesh.cli.views import PATIENCE
    from bus_mesh.protocol.errors import MeshError

    answers: dict[str, dict[str, Any]] = {}
    ahead: dict[str, int] = {}
    silent: dict[str, str] = {}
    orderer = await Orderer.open(mesh, signer) if signer is not None else None
    nodes: list[dict[str, Any]] = await (orderer.nodes() if orderer is not None else ask(mesh, "nodes"))

    async def one(node: str, asking: "Orderer") -> None:
        asked = clock.wall_us()
        try:
            answers[node] = await asking.ask(node, "stats", {}, timeout=PATIENCE)
        except (Problem, MeshError) as error:
            silent[node] = error.what if isinstance(error, Problem) else error.message
            return
        ahead[node] = answers[node]["wall_us"] - (asked + clock.wall_us()) // 2

    if orderer is not None:
        await asyncio.gather(*(one(node["node"], orderer) for node in nodes))
    policy, why = None, ""
    try:
        policy = await control(mesh, "acks", {}, HEARD_SECONDS if patience is None else patience, PATIENCE)
    except (Problem, MeshError) as error:
        why = error.what if isinstance(error, Problem) else error.message
    own, instances = await ask(mesh, "status"), await ask(mesh, "instances")
    said = {name: answer["status"] for name, answer in answers.items()} | {own["node"]: own}
    off, ended = unbelieved({name: status.get("misfits", ()) for name, status in said.items()}, ahead)
    ahead |= off
    return Facts(clock.wall_us(), own, nodes, instances, answers, ahead, ended, silent, policy, why)


def unbelieved(
    told: Mapping[str, Sequence[Mapping[str, Any]]], ahead: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return of nodes that others do not believe how far their clocks are ahead, and how long ago certificates ended.

    `told` is what each node says of its misfits, by its own clock, and `ahead` how far that is ahead of ours. Of who
    has answered us something else is known. All in microseconds.
    """
    off: dict[str, int] = {}
    ended: dict[str, int] = {}
    for teller, misfits in told.items():
        for one in misfits:
            node, by = one["node"], one["by_us"]
            if node in ahead or node in told:
                continue
            if one["reason"] == "EXPIRED":
                ended[node] = by - ahead.get(teller, 0)
            else:
                off[node] = by + ahead.get(teller, 0)
    return {node: by for node, by in off.items() if node not in ended}, ended
