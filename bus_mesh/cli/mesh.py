"""`busmesh init`, `node add` and `operator add`: make a mesh, admit nodes, and say who may give commands."""

from pathlib import Path
from typing import Annotated, Final

import typer

from bus_mesh.cli import options, show
from bus_mesh.cli.options import As, Home
from bus_mesh.cli.problem import usage
from bus_mesh.cli.show import Output

node = typer.Typer(help="Admit nodes, list them, put them out.", no_args_is_help=True, rich_markup_mode=None)
operator = typer.Typer(help="Say who may give commands.", no_args_is_help=True, rich_markup_mode=None)

_STARTER: Final = """\
# A node of the mesh {mesh}. Paths are relative to this file. Start it: busmesh agent -c {path}
mesh: {mesh}
node: {node}
bus: {bus}
identity: identity
socket: agent.sock
http: 127.0.0.1:9465
state: state
policy_dir: policy
# Who may speak as what; without an entry only this agent's own user and root may.
apps: {{}}
#  web: {{user: web}}
# Processes that the agent runs itself.
services: {{}}
#  orders: {{command: [python, -m, orders], replicas: 2}}
"""
_OPEN_BUS: Final = '{url: "nats://127.0.0.1:4222"}'
_BUS: Final = '{{url: "{url}", credentials: identity/bus.creds, tls: {{ca: identity/ca.pem, first: true}}}}'


def init(
    mesh: Annotated[str, typer.Option("--mesh", help="The name of the mesh: all its subjects start mesh.NAME.")],
    home: Home = None,
    output: As = Output.TEXT,
) -> None:
    """Make the keys of a new mesh.

    They are root, issuer, policy signer and first operator, delegated for a year.
    """
    from bus_mesh.cli.home import MeshHome

    made = MeshHome(options.home_of(home))
    made.init(mesh)
    show.say(f"made the mesh {mesh} in {made.path}: delegations are good for a year")
    show.say(f"next: move {made.path / 'root.key'} to a safe place that is not this machine")
    show.say(f"next: busmesh node add node-a --serve orders --call-as web --home {made.path}")
    show.result(output, {"mesh": mesh, "home": str(made.path)}, str(made.path))


@node.command()
def add(
    name: Annotated[str, typer.Argument(help="The name of the node.")],
    serve: Annotated[str, typer.Option("--serve", help="Services that it may host, with commas.")] = "",
    call_as: Annotated[str, typer.Option("--call-as", help="Services that it may speak for, with commas.")] = "",
    policy_agent: Annotated[
        bool, typer.Option("--policy-agent", help="Its user of the bus may speak on the control subject.")
    ] = False,
    home: Home = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write [default: HOME/NAME].", show_default=False)
    ] = None,
    output: As = Output.TEXT,
) -> None:
    """Admit a node: write its identity (good for 30 days) and a node.yaml to start from.

    Where `busmesh nats config` has set up a broker, the identity also holds a user of the bus and the CA to know it by.
    """
    from bus_mesh.cli.home import MeshHome, private_folder, write_new
    from bus_mesh.cli.nats_home import NatsHome

    mesh_home = MeshHome(options.home_of(home))
    folder, broker, bus = (out or mesh_home.path / name).absolute(), NatsHome(mesh_home), _OPEN_BUS
    granted = options.names(serve), options.names(call_as)
    if policy_agent and any(granted):
        raise usage("a policy agent serves nothing and speaks for nobody", then="leave out --serve and --call-as")
    # Made before anything is written: a node is admitted with its user, or not at all.
    user = broker.user(name, *granted, policy_agent=policy_agent) if broker.exists else None
    mesh_home.admit(name, *granted, folder / "identity")
    if user is not None:
        broker.equip(name, user, folder / "identity")
        bus = _BUS.format(url=broker.address)
    private_folder(folder / "policy")
    config = folder / "node.yaml"
    if not config.exists():
        write_new(config, _STARTER.format(mesh=mesh_home.mesh, node=name, path=config, bus=bus).encode())
    show.say(f"admitted {name} for 30 days: {folder}")
    show.say(f"next: set the bus in {config}, put policy into {folder / 'policy'}, then busmesh agent -c {config}")
    show.result(output, {"node": name, "config": str(config)}, str(config))


@operator.command("add")
def add_operator(
    name: Annotated[str, typer.Argument(help="The name of the operator.")],
    may: Annotated[str, typer.Option("--may", help="policy, services, observe, admit; with commas.")],
    home: Home = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder for key and certificate [default: HOME].", show_default=False)
    ] = None,
    output: As = Output.TEXT,
) -> None:
    """Certify an operator for 90 days: write NAME.key (0600) and NAME.chain, for --operator NAME."""
    from bus_mesh.cli.home import MeshHome

    mesh_home = MeshHome(options.home_of(home))
    folder = (out or mesh_home.path).absolute()
    mesh_home.appoint(name, options.names(may), folder)
    show.say(f"{name} may {may} for 90 days")
    show.say(f"next: busmesh policy apply -f PATH --operator {name} --home {folder}")
    key = str(folder / f"{name}.key")
    show.result(output, {"operator": name, "key": key}, key)
