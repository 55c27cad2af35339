"""`busmesh agent` runs a node agent; `busmesh run` starts a process beside one."""

import os
from pathlib import Path
from typing import Annotated

import typer

from bus_mesh.cli.options import Socket
from bus_mesh.cli.problem import USAGE, Problem, usage
from bus_mesh.protocol import names


def agent(
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", metavar="NODE.YAML", help="The node's settings.", show_default=False),
    ] = None,
    join: Annotated[
        str | None,
        typer.Option("--join", metavar="TOKEN", help="Become the node of a token first; - reads it from stdin."),
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", metavar="DIR", help="With --join: where node.yaml and identity go.")
    ] = None,
) -> None:
    """Run the node agent.

    With --join the machine gets its identity first, if it has none yet. SIGHUP reads settings and policy again; SIGTERM
    drains and ends.
    """
    if join is not None:
        from bus_mesh.cli.join import joined

        config = joined(join, config, state)
    if config is None:
        raise usage("the agent has no settings", "it reads them from a file", "busmesh agent -c NODE.YAML")
    from bus_mesh.agent.run import run_agent
    from bus_mesh.config import load_node

    raise typer.Exit(run_agent(load_node(config), config))


def run(
    command: Annotated[list[str], typer.Argument(metavar="-- CMD", help="The command, after --.")],
    app: Annotated[str, typer.Option("--app", help="The service that the process speaks as.")],
    socket: Socket = None,
) -> None:
    """Run a process beside an agent.

    It finds the agent's socket and its own name in the environment.
    """
    from bus_mesh_sdk._where import socket_path

    environment = {
        **os.environ,
        "BUSMESH_SOCKET": socket_path(socket.absolute() if socket else None),
        "BUSMESH_APP": names.service_name(app),
    }
    try:
        os.execvpe(command[0], command, environment)
    except FileNotFoundError:
        raise Problem(f"no such command: {command[0]}", "it is not on PATH", exit_code=USAGE) from None
