"""`busmesh status`: this node's agent, and how far policy has come on all of them."""

from typing import TYPE_CHECKING, Any

import typer

from bus_mesh.cli import show
from bus_mesh.cli.options import App, As, Socket
from bus_mesh.cli.problem import Problem
from bus_mesh.cli.show import Output

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh


def status(app: App = "cli", socket: Socket = None, output: As = Output.TEXT) -> None:
    """Show this agent, the policy in force, and what each agent said of it last, and when.

    Exits 1 when an agent has refused the policy in force, or this one is not ready.
    """
    from bus_mesh.cli.ask import ask, with_mesh
    from bus_mesh.cli.operator import control
    from bus_mesh.protocol.errors import MeshError

    async def work(mesh: "Mesh") -> dict[str, Any]:
        said: dict[str, Any] = {"agent": await ask(mesh, "status"), "policy": None, "why": ""}
        try:
            said["policy"] = await control(mesh, "acks", {}, patience=0.0)
        except (MeshError, Problem) as error:
            said["why"] = str(error)
        return said

    found = with_mesh(app, socket, work)
    if output is Output.JSON:
        show.json_line(found)
    else:
        for line in lines(found):
            show.line(line)
    if not healthy(found):
        raise typer.Exit(1)


def healthy(found: dict[str, Any]) -> bool:
    """Tell whether this agent can pass calls on and no agent has refused the policy in force."""
    agent = found["agent"]
    policy = found["policy"] or {"number": 0, "acks": ()}
    refused = [ack for ack in policy["acks"] if ack["number"] == policy["number"] and not ack["applied"]]
    return agent["bus"] == "connected" and agent["policy_loaded"] and not refused


def lines(found: dict[str, Any]) -> list[str]:
    """Return what is shown, as lines."""
    agent, policy = found["agent"], found["policy"]
    told = [
        f"node     {agent['node']} of mesh {agent['mesh']}, bus-mesh {agent['version']}",
        f"bus      {agent['bus']}, {agent['rtt_ms']:g} ms to the broker and back",
        f"policy   bundle {agent['policy']} in force here, {agent['policy_state']}",
        f"calls    {agent['inflight']} on their way, {agent['serving']} being answered, {agent['sessions']} sessions",
    ]
    if policy is None:
        return [*told, "", f"the policy agent says nothing: {found['why']}"]
    rows = []
    for ack in policy["acks"]:
        state = "applied" if ack["applied"] else f"refused: {ack['reason']}"
        rows.append((ack["node"], ack["number"], state, show.age(ack["age_us"])))
    return [*told, "", *show.table(["NODE", "POLICY", "STATE", "LAST_WORD"], rows)]
