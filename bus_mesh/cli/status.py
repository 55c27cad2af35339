"""`busmesh status`: every node at a glance, and how far policy has come on it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import typer

from bus_mesh.cli import options, show
from bus_mesh.cli.options import App, As, By, Home, Socket
from bus_mesh.cli.show import Output

if TYPE_CHECKING:
    from bus_mesh.cli.judgement import Facts

COLUMNS: Final = [
    "NODE",
    "VERSION",
    "SERVICES",
    "BUS",
    "RTT",
    "POLICY",
    "SYNC_AGE",
    "CERT_EXPIRES",
    "INFLIGHT",
    "STATE",
]


def status(
    output: As = Output.TEXT, operator: By = "operator", app: App = "cli", socket: Socket = None, home: Home = None
) -> None:
    """Show every node: bus, policy in force and when its agent last said so, certificate, calls, state.

    Without an operator's key only this node's agent tells of its bus and its calls. Exits 1 when an agent has refused
    the policy in force, or this one is not ready.
    """
    from bus_mesh.cli.ask import with_mesh
    from bus_mesh.cli.facts import gathered
    from bus_mesh.cli.operator import Operator
    from bus_mesh.cli.problem import Problem

    try:
        signer = Operator.read(options.home_of(home), operator)
    except Problem as problem:
        show.say(f"{problem.what}: what other nodes tell operators alone is not shown")
        signer = None
    found = with_mesh(app, socket, lambda mesh: gathered(mesh, signer, patience=0.0))
    if output is Output.JSON:
        show.json_line({"agent": found.agent, "policy": found.policy, "why": found.why_no_policy, "nodes": rows(found)})
    else:
        show.rows(COLUMNS, [cells(row, found.now_us) for row in rows(found)])
        if found.policy is None:
            show.say(f"the policy agent says nothing: {found.why_no_policy}")
    for node, why in sorted(found.silent.items()):
        show.say(f"{node} tells less than it could: {why}")
    if not healthy(found):
        raise typer.Exit(1)


def healthy(found: "Facts") -> bool:
    """Tell whether this agent can pass calls on and no agent has refused the policy in force."""
    policy = found.policy or {"number": 0, "acks": ()}
    refused = [ack for ack in policy["acks"] if ack["number"] == policy["number"] and not ack["applied"]]
    return found.agent["bus"] == "connected" and found.agent["policy_loaded"] and not refused


def rows(found: "Facts") -> list[dict[str, Any]]:
    """Return one row for each node that speaks, or has spoken to the policy agent; None for what is not known."""
    acks = {ack["node"]: ack for ack in (found.policy or {"acks": ()})["acks"]}
    nodes = {node["node"]: node for node in found.nodes}
    return [_row(name, nodes.get(name), acks.get(name), found) for name in sorted({*nodes, *acks})]


def _row(name: str, node: dict[str, Any] | None, ack: dict[str, Any] | None, found: "Facts") -> dict[str, Any]:
    own = found.agent if name == found.agent["node"] else None
    said = found.answers[name]["status"] if name in found.answers else own
    return {
        "node": name,
        "version": node["version"] if node else None,
        "services": sorted(node["services"]) if node else None,
        "bus": said["bus"] if said else None,
        "rtt_ms": said["rtt_ms"] if said else None,
        "policy": said["policy"] if said else ack["number"] if ack else None,
        "sync_age_us": ack["age_us"] if ack else None,
        "cert_expires_us": (node["cert_expires_us"] if node else 0) or None,
        "inflight": said["inflight"] + said["serving"] if said else None,
        "state": _state(node, ack, said, found.policy),
    }


def _state(node: dict[str, Any] | None, ack: dict[str, Any] | None, said: Mapping[str, Any] | None, policy: Any) -> str:
    """Return the worst that is known of a node, in a word or with its reason."""
    if said and said["revoked"]:
        return "revoked"
    if node is None:
        return "gone"
    if ack and not ack["applied"] and ack["number"] == policy["number"]:
        return f"refused policy {ack['number']}: {ack['reason']}"
    if node["state"] != "up" or not said or said["policy_state"] == "fresh":
        return str(node["state"])
    return f"policy {said['policy_state']}"


def cells(row: dict[str, Any], now_us: int) -> list[object]:
    """Return a row as it is shown."""
    ends, synced = row["cert_expires_us"], row["sync_age_us"]
    return [
        row["node"],
        row["version"],
        ",".join(row["services"] or ()),
        row["bus"],
        show.took(row["rtt_ms"] / 1000) if row["rtt_ms"] is not None else "",
        row["policy"],
        show.age(synced) if synced is not None else "",
        _left(ends - now_us) if ends is not None else "",
        row["inflight"],
        row["state"],
    ]


def _left(us: int) -> str:
    from bus_mesh.cli.judgement import span

    return span(us) if us > 0 else "ended"
