"""`busmesh call`: one call, its result on stdout."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bus_mesh.cli import ask, show
from bus_mesh.cli.options import App, As, Socket, Timeout
from bus_mesh.cli.problem import Problem, explain, usage
from bus_mesh.cli.show import Output
from bus_mesh.protocol.errors import Code, MeshError

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

Service = Annotated[str, typer.Argument(metavar="SVC", help="The service.")]
Method = Annotated[str, typer.Argument(metavar="METHOD", help="Its method.")]
Parameters = Annotated[
    str, typer.Argument(metavar="[JSON|@FILE|-]", help="Parameters as a JSON object; @FILE reads a file, - stdin.")
]

_MAY_BE_A_WRONG_NAME = {Code.UNAVAILABLE, Code.UNIMPLEMENTED, Code.NOT_FOUND, Code.PERMISSION_DENIED}


def call(
    service: Service,
    method: Method,
    parameters: Parameters = "{}",
    app: App = "cli",
    socket: Socket = None,
    timeout: Timeout = None,
    output: As = Output.TEXT,
) -> None:
    """Call a method and print its result.

    A failed call exits with 64 plus its gRPC code.
    """
    given = read(parameters)

    async def work(mesh: "Mesh") -> Any:
        try:
            return await mesh.call(service, method, given, timeout=timeout)
        except MeshError as error:
            raise await _explained(mesh, service, method, error) from None

    result = ask.with_mesh(app, socket, work)
    if output is Output.JSON:
        show.json_line(result)
    else:
        show.json_block(result)


def read(parameters: str) -> dict[str, Any]:
    """Return the parameters that an argument holds, names a file of, or leaves to stdin."""
    if parameters == "-":
        text, source = sys.stdin.read(), "stdin"
    elif parameters.startswith("@"):
        text, source = Path(parameters[1:]).read_text(encoding="utf-8"), parameters[1:]
    else:
        text, source = parameters, "the parameters"
    try:
        value = json.loads(text)
    except ValueError as error:
        raise usage(f"{source}: not JSON", str(error), """an object in quotes, like '{"id": "1"}'""") from None
    if not isinstance(value, dict):
        raise usage(
            f"{source}: a JSON {type(value).__name__} where an object is needed",
            "parameters travel by name",
            """'{"name": value}'""",
        )
    return value


async def _explained(mesh: "Mesh", service: str, method: str, error: MeshError) -> Problem:
    problem = explain(error)
    if (error.wire_code or error.code) in _MAY_BE_A_WRONG_NAME:
        problem.why = await ask.suggestion(mesh, service, method) or problem.why
    return problem
