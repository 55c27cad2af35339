"""`busmesh node list`, `node revoke` and `operator revoke`: who is of the mesh, and who is out for good."""

import asyncio
import random
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bus_mesh.cli import options, show
from bus_mesh.cli.options import App, As, By, Home, Socket, Timeout
from bus_mesh.cli.show import Output

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

    from bus_mesh.cli.apply import Applied
    from bus_mesh.cli.nats_home import NatsHome
    from bus_mesh.cli.operator import Operator

Waiting = Annotated[bool, typer.Option("--wait", help="Until every live agent has taken it in.")]
PATIENCE: Final = 30.0
"""Seconds that --wait waits when nobody says."""
CUT_SECONDS: Final = 10.0
"""How long the bus may take to be found, and to end a user."""


def list_nodes(app: App = "cli", socket: Socket = None, output: As = Output.TEXT) -> None:
    """List the nodes that the policy agent has heard, what each said last and when, and those that are revoked."""
    from bus_mesh.cli.ask import with_mesh
    from bus_mesh.cli.operator import control

    rows = rows_of(with_mesh(app, socket, lambda mesh: control(mesh, "acks", {})))
    if output is Output.JSON:
        for row in rows:
            show.json_line(row)
        return
    ages = ["" if row["age_us"] is None else show.age(row["age_us"]) for row in rows]
    shown = [(row["node"], row["state"], row["policy"], age) for row, age in zip(rows, ages, strict=True)]
    for text in show.table(["NODE", "STATE", "POLICY", "LAST_WORD"], shown):
        show.line(text)


def rows_of(said: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each node: `up`, `silent` for over 15 s, or `revoked`."""
    rows: list[dict[str, Any]] = []
    for ack in said["acks"]:
        state = "up" if ack["live"] else "silent"
        rows.append({"node": ack["node"], "state": state, "policy": ack["number"], "age_us": ack["age_us"]})
    rows += [{"node": node, "state": "revoked", "policy": None, "age_us": None} for node in said["revoked"]["nodes"]]
    return sorted(rows, key=lambda row: str(row["node"]))


def revoke(
    name: Annotated[str, typer.Argument(help="The name of the node.")],
    wait: Waiting = False,
    timeout: Timeout = None,
    operator: By = "operator",
    app: App = "cli",
    socket: Socket = None,
    home: Home = None,
    output: As = Output.TEXT,
) -> None:
    """Put a node out of the mesh, for good: every agent believes it no more, and its own serves and calls no more.

    Its name is not used again. Where the home holds the keys of the broker, its users of the bus are cut off as well.
    With --wait it exits 1 unless every live agent has taken it in.
    """
    from bus_mesh.cli.ask import with_mesh
    from bus_mesh.cli.operator import Operator

    signer, patience = Operator.read(options.home_of(home), operator), (timeout or PATIENCE) if wait else None
    said, found = with_mesh(app, socket, lambda mesh: _done(mesh, signer, "revoke", {"node": name}, patience))
    cut = _cut_off(options.home_of(home), name, said["users"])
    _tell(output, f"node {name} is out", said, found)
    if not cut:
        raise typer.Exit(1)


def revoke_operator(
    name: Annotated[str, typer.Argument(help="The name of the operator.")],
    wait: Waiting = False,
    timeout: Timeout = None,
    operator: By = "operator",
    app: App = "cli",
    socket: Socket = None,
    home: Home = None,
    output: As = Output.TEXT,
) -> None:
    """Take all rights from an operator, for good: no command that it signs is carried out any more."""
    from bus_mesh.cli.ask import with_mesh
    from bus_mesh.cli.operator import Operator

    signer, patience = Operator.read(options.home_of(home), operator), (timeout or PATIENCE) if wait else None
    done = with_mesh(app, socket, lambda mesh: _done(mesh, signer, "revoke_operator", {"name": name}, patience))
    _tell(output, f"operator {name} is out", *done)


async def _done(
    mesh: "Mesh", signer: "Operator", verb: str, arguments: dict[str, Any], patience: float | None
) -> "tuple[dict[str, Any], Applied | None]":
    """Have it done, and see how far it comes where there is the patience."""
    from bus_mesh.cli import apply as at

    said = await signer.command(mesh, verb, arguments)
    return said, await at.wait(mesh, said["number"], patience) if patience is not None else None


def _cut_off(home: Path, node: str, users: list[str]) -> bool:
    """Have the servers of the bus end what a node's users hold, where this home has the keys for that.

    False when it has, and they did not.
    """
    from bus_mesh.bus.contract import BusUnreachable
    from bus_mesh.cli.home import MeshHome
    from bus_mesh.cli.nats_home import NatsHome
    from bus_mesh.control.nats_account import PushRefused

    side = NatsHome(MeshHome(home))
    known = sorted({*users, *side.users(node)})
    if not side.exists:
        if known:
            show.say(f"not cut off at the bus, {home} holds no keys of the broker: its user ends with its certificate")
        return True
    if known:
        try:
            asyncio.run(_push(side, side.revoke(known)))
        except (BusUnreachable, PushRefused) as error:
            show.say(f"not cut off at the bus: {error}; the same command again once it can be reached")
            return False
        show.say(f"cut off at the bus: {len(known)} of its users")
    return True


async def _push(side: "NatsHome", token: str) -> None:
    from bus_mesh.bus.access import Access, trusting
    from bus_mesh.bus.nats_bus import NatsBus
    from bus_mesh.cli.nats_home import seconds
    from bus_mesh.control.nats_account import push_account

    pusher = side.authority.signer.pusher(now=seconds(), entropy=secrets.token_bytes)
    tls = trusting(side.ca.pair.certificate.decode())
    access = Access.with_user(lambda: pusher, tls=tls, tls_first=True)
    bus = NatsBus(side.address, name="busmesh node revoke", roll=random.SystemRandom().random, access=access)
    await bus.start()
    try:
        await bus.ready(CUT_SECONDS)
        await push_account(bus, token, inbox=secrets.token_hex(16), timeout=CUT_SECONDS)
    finally:
        await bus.close()


def _tell(output: Output, done: str, said: dict[str, Any], found: "Applied | None") -> None:
    row = {"number": said["number"], "changed": bool(said["changed"]), "reached": found and found._asdict()}
    show.result(output, row, f"{done}, by bundle {said['number']}" if said["changed"] else f"{done} already")
    if found is not None:
        show.applied(found)
        if not found.whole:
            raise typer.Exit(1)
