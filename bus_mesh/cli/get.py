"""`busmesh get`: what the agent knows of the mesh, as tables."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from bus_mesh.cli import ask, show
from bus_mesh.cli.options import App, Socket
from bus_mesh.cli.show import TableOutput

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

app = typer.Typer(
    help="List nodes, services, instances, methods or policies.", no_args_is_help=True, rich_markup_mode=None
)

As = Annotated[TableOutput, typer.Option("-o", "--output", help="wide has more columns.")]
Watch = Annotated[bool, typer.Option("-w", "--watch", help="Again and again, until it is stopped.")]
AGAIN: Final = 1.0
"""Seconds between two looks of --watch."""


class Column(NamedTuple):
    """One column of a table. Its name is an interface: scripts read it."""

    name: str
    cell: Callable[[dict[str, Any]], object]
    wide: bool = False


def _names(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda found: ",".join(found[key])


def _text(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda found: found[key]


def _labels(found: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(found["labels"].items()))


def _methods(found: dict[str, Any]) -> str:
    return ",".join(sorted(method["name"] for method in found["methods"]))


def _ends(found: dict[str, Any]) -> str:
    if not found["cert_expires_us"]:
        return ""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(found["cert_expires_us"] / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


NODES: Final = (
    Column("NODE", _text("node")),
    Column("STATE", _text("state")),
    Column("VERSION", _text("version")),
    Column("SERVICES", _names("services")),
    Column("AGE", lambda found: f"{found['age_ms'] / 1000:.1f}s"),
    Column("BOOT", _text("boot"), wide=True),
    Column("CERT_EXPIRES", _ends, wide=True),
)
SERVICES: Final = (
    Column("SERVICE", _text("service")),
    Column("INSTANCES", _text("instances")),
    Column("NODES", _names("nodes")),
    Column("METHODS", _methods, wide=True),
)
INSTANCES: Final = (
    Column("INSTANCE", _text("instance")),
    Column("SERVICE", _text("service")),
    Column("NODE", _text("node")),
    Column("VERSION", _text("version")),
    Column("STATE", _text("state")),
    Column("LOAD", _text("load"), wide=True),
    Column("LABELS", _labels, wide=True),
)
METHODS: Final = (
    Column("METHOD", lambda found: f"{found['service']}/{found['name']}"),
    Column("IDEMPOTENT", lambda found: "yes" if found["idempotent"] else "no"),
    Column("TIMEOUT", lambda found: f"{found['timeout_ms'] / 1000:g}s" if found["timeout_ms"] else ""),
    Column("SCHEMA", _text("schema"), wide=True),
)
POLICIES: Final = (
    Column("DOCUMENT", _text("document")),
    Column("BUNDLE", _text("bundle")),
    Column("HASH", lambda found: found["hash"][:12]),
)


@app.command()
def nodes(socket: Socket = None, speak_as: App = "cli", output: As = TableOutput.TABLE, watch: Watch = False) -> None:
    """List the nodes of the mesh."""
    _print("nodes", NODES, socket, speak_as, output, watch)


@app.command()
def services(
    socket: Socket = None, speak_as: App = "cli", output: As = TableOutput.TABLE, watch: Watch = False
) -> None:
    """List the services of the mesh."""
    _print("services", SERVICES, socket, speak_as, output, watch)


@app.command()
def instances(
    socket: Socket = None, speak_as: App = "cli", output: As = TableOutput.TABLE, watch: Watch = False
) -> None:
    """List the instances of all services."""
    _print("instances", INSTANCES, socket, speak_as, output, watch)


@app.command()
def methods(socket: Socket = None, speak_as: App = "cli", output: As = TableOutput.TABLE, watch: Watch = False) -> None:
    """List the methods of all services, as their contracts have them."""
    _print("methods", METHODS, socket, speak_as, output, watch)


@app.command()
def policies(socket: Socket = None, speak_as: App = "cli", output: As = TableOutput.TABLE) -> None:
    """List the policy documents in force."""
    from bus_mesh.cli.apply import bundle

    found = ask.with_mesh(speak_as, socket, bundle)
    rows = [{"document": name, "bundle": found["number"], "hash": hash} for name, hash in found["hashes"].items()]
    _show(POLICIES, rows, output)


def _print(
    what: str, columns: Sequence[Column], socket: Path | None, speak_as: str, output: TableOutput, watch: bool
) -> None:
    async def work(mesh: "Mesh") -> None:
        while True:
            found = await _rows(mesh, what)
            if watch:
                show.clear()
            _show(columns, found, output)
            if not watch:
                return
            await asyncio.sleep(AGAIN)

    ask.with_mesh(speak_as, socket, work)


async def _rows(mesh: "Mesh", what: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await ask.ask(mesh, "services" if what == "methods" else what)
    if what != "methods":
        return found
    return [{"service": one["service"], **method} for one in found for method in one["methods"]]


def _show(columns: Sequence[Column], found: Sequence[dict[str, Any]], output: TableOutput) -> None:
    if output is TableOutput.JSON:
        show.json_line(found)
    elif output is TableOutput.YAML:
        show.yaml_block(found)
    else:
        for row in lines(columns, found, wide=output is TableOutput.WIDE):
            show.line(show.fitted(row))


def lines(columns: Sequence[Column], found: Sequence[dict[str, Any]], *, wide: bool) -> list[str]:
    """Return the lines of a table of what an agent said, sorted by its first column."""
    shown = [column for column in columns if wide or not column.wide]
    rows = sorted([[column.cell(item) for column in shown] for item in found], key=lambda row: str(row[0]))
    return show.table([column.name for column in shown], rows)
