"""`busmesh token create`: one line that admits one node, once."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bus_mesh.cli import options, show
from bus_mesh.cli.options import App, As, By, Home, Socket
from bus_mesh.cli.show import Output

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

token = typer.Typer(help="Admit nodes by token.", no_args_is_help=True, rich_markup_mode=None)


@token.callback()
def begin() -> None:
    """Admit nodes by token."""


@token.command()
def create(
    name: Annotated[str, typer.Argument(help="The name of the node.")],
    serve: Annotated[str, typer.Option("--serve", help="Services that it may host, with commas.")] = "",
    call_as: Annotated[str, typer.Option("--call-as", help="Services that it may speak for, with commas.")] = "",
    ttl: Annotated[
        float, typer.Option("--ttl", parser=options.seconds, metavar="TIME", help="How long it is good for, to 1h.")
    ] = "10m",  # type: ignore[assignment]  # typer hands the default to the parser too
    bus: Annotated[
        str, typer.Option("--bus", help="Where the node finds the bus, with commas [default: as the policy agent].")
    ] = "",
    operator: By = "operator",
    app: App = "cli",
    socket: Socket = None,
    home: Home = None,
    output: As = Output.TEXT,
) -> None:
    """Print a token: on the new machine, `busmesh agent --join TOKEN --state DIR` makes it this node.

    Whoever has it may become the node, once: hand it on by a safe way.
    """
    from bus_mesh.cli.ask import with_mesh
    from bus_mesh.cli.operator import Operator

    signer = Operator.read(options.home_of(home), operator)
    granted = {"serve": options.names(serve), "call_as": options.names(call_as)}
    asked: dict[str, Any] = {"node": name, **granted, "ttl": float(ttl), "urls": options.names(bus)}

    async def work(mesh: "Mesh") -> dict[str, Any]:
        said: dict[str, Any] = await signer.command(mesh, "token", asked)
        return said

    made = with_mesh(app, socket, work)
    show.say(f"admits {name} once, within {ttl:g} s: busmesh agent --join TOKEN --state DIR, or --join - to read it")
    show.result(output, {"node": name, "token": made["token"], "ttl_s": float(ttl)}, made["token"])
