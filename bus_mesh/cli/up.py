"""`busmesh up`: a whole mesh on this machine, for development."""

from pathlib import Path
from typing import Annotated

import typer

from bus_mesh.cli import options
from bus_mesh.cli.options import As, Home
from bus_mesh.cli.show import Output


def up(
    demo: Annotated[bool, typer.Option("--demo", help="Run the small shop: orders, stock and web.")] = False,
    load: Annotated[float, typer.Option("--load", help="Calls a second that web makes; 0 for none.")] = 20.0,
    serve: Annotated[str, typer.Option("--serve", help="More services that its nodes may host, with commas.")] = "",
    call_as: Annotated[str, typer.Option("--call-as", help="More services that they may speak for.")] = "",
    policy: Annotated[
        list[Path] | None,
        typer.Option("--policy", help="Policy (a file or folder) to copy into its home; may be repeated."),
    ] = None,
    home: Home = None,
    output: As = Output.TEXT,
) -> None:
    """Run a whole mesh on this machine.

    A bus, two node agents and, with --demo, a shop with a gentle load; Ctrl-C or SIGTERM stops all of it. The bus
    listens on loopback and takes nobody but these agents. All keys lie in the home: it is for development.
    """
    import asyncio

    from bus_mesh.cli.development import Development
    from bus_mesh.cli.plan import Wanted

    wanted = Wanted(demo, load, options.names(serve), options.names(call_as), policy or [])
    raise typer.Exit(asyncio.run(Development(options.home_of(home), wanted, output).run()))
