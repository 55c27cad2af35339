"""`busmesh service`, `drain` and `undrain`: the services that agents run, and nodes that are to take no calls.

Each command is signed for every node that it asks. This process is the only coordinator: it asks one node after the
other and stops at the first that fails.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from bus_mesh.cli import options
from bus_mesh.cli.options import App, As, By, Home, Socket
from bus_mesh.cli.problem import usage
from bus_mesh.cli.show import Output

if TYPE_CHECKING:
    from bus_mesh.cli.order import Orderer

service = typer.Typer(
    help="Look at the services that agents run; start, stop, restart and scale them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Name = Annotated[str, typer.Argument(metavar="SVC", help="The service, as `services:` in node.yaml names it.")]
OnNodes = Annotated[list[str] | None, typer.Option("--node", metavar="NODE", help="On this node; may be given again.")]
OnAll = Annotated[bool, typer.Option("--all", help="On every node that runs it, one after the other.")]
Request = Annotated[
    str, typer.Option("--request", metavar="ID", help="Of a command given before: what it did is not done again.")
]
Replica = Annotated[int | None, typer.Option("--replica", metavar="N", help="Of one replica only.")]
COLUMNS = ("NODE", "SERVICE", "REPLICA", "PHASE", "READY", "PID", "STARTS", "SINCE", "EXIT", "MESSAGE")


class Asking(NamedTuple):
    """Who asks, from where, and how results are printed."""

    operator: str
    app: str
    socket: Path | None
    home: Path | None
    output: Output

    def run(self, work: "Callable[[Orderer], Awaitable[int]]") -> None:
        """Do some work as an operator, and exit with what it returns."""
        from bus_mesh.cli.ask import with_mesh
        from bus_mesh.cli.operator import Operator
        from bus_mesh.cli.order import Orderer

        signer = Operator.read(options.home_of(self.home), self.operator)

        async def ask(mesh: Any) -> int:
            return await work(await Orderer.open(mesh, signer))

        if code := with_mesh(self.app, self.socket, ask):
            raise typer.Exit(code)


@service.command("list")
def list_services(
    name: Annotated[str, typer.Argument(metavar="[SVC]", help="Only this service.")] = "",
    node: OnNodes = None,
    operator: By = "operator",
    app: App = "cli",
    socket: Socket = None,
    home: Home = None,
    output: As = Output.TEXT,
) -> None:
    """List the processes that agents run: where each stands, since when, and what is wrong with it."""
    from bus_mesh.cli import rolling

    Asking(operator, app, socket, home, output).run(lambda orderer: rolling.listed(orderer, name, node, output))


@service.command()
def start(
    name: Name,
    node: OnNodes = None,
    everywhere: OnAll = False,
    request: Request = "",
    operator: By = "operator",
    app: App = "cli",
    socket: Socket = None,
    home: Home = None,
    output: As = Output.TEXT,
) -> None:
    """Start what is stopped of a service, and wait until it is ready."""
    _change(Asking(operator, app, socket, home, output), "start", name, {}, _where(node, everywhere), request)


@service.command()
def stop(
    name: Name,
    node: OnNodes = None,
    everywhere: OnAll = False,
    request: Request = "",
    operator: By = "operator",
    app: App = "cli",
    socket: Socket = None,
    home: Home = None,
    output: As = Output.TEXT,
) -> None:
    """Drain and stop a service, until it is started or its agent is."""
    _change(Asking(operator, app, socket, home, output), "stop", name, {}, _where(node, everywhere), request)


@service.command()
def restart(
    name: Name,
    node: OnNodes = None,
    everywhere: OnAll = False,
    replica: Replica = None,
    request: Request = "",
    operator: By = "operator",
    app: App = "cli",
    socket: Socket = None,
    home: Home = None,
    output: As = Output.TEXT,
) -> None:
    """Replace a service process by process, without a lost call: each successor is ready before the old one leaves.

    Node after node; at the first failure it stops, leaves what runs as it is, and says how to go on.
    """
    arguments = {} if replica is None else {"replica": replica}
    asking = Asking(operator, app, socket, home, output)
    _change(asking, "restart", name, arguments, _where(node, everywhere), request)


@service.command()
def scale(
    name: Name,
    replicas: Annotated[int, typer.Argument(help="How many processes each of the nodes is to run, 0 to 64.")],
    node: OnNodes = None,
    everywhere: OnAll = False,
    request: Request = "",
    operator: By = "operator",
    app: App = "cli",
    socket: Socket = None,
    home: Home = None,
    output: As = Output.TEXT,
) -> None:
    """Have so many processes of a service run on a node, until its agent is started anew."""
    asking = Asking(operator, app, socket, home, output)
    _change(asking, "scale", name, {"replicas": replicas}, _where(node, everywhere), request)


@service.command()
def logs(
    name: Name,
    node: OnNodes = None,
    replica: Replica = None,
    lines: Annotated[int, typer.Option("-n", "--lines", help="So many of the last lines of each replica.")] = 100,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="And what comes, until it is interrupted.")] = False,
    operator: By = "operator",
    app: App = "cli",
    socket: Socket = None,
    home: Home = None,
    output: As = Output.TEXT,
) -> None:
    """Print what a service has printed, on every node that runs it."""
    from bus_mesh.cli.service_logs import Logs

    asked = {"service": name, "lines": options.at_least(lines, 0, "--lines")}
    asked |= {} if replica is None else {"replica": replica}
    asking = Asking(operator, app, socket, home, output)
    asking.run(lambda orderer: Logs(orderer, asked, output).show(node, follow))


def drain(
    node: Annotated[str, typer.Argument(help="The node.")],
    request: Request = "",
    operator: By = "operator",
    app: App = "cli",
    socket: Socket = None,
    home: Home = None,
    output: As = Output.TEXT,
) -> None:
    """Have a node take no calls: its instances leave their groups, its processes and its agent stay."""
    _turn(Asking(operator, app, socket, home, output), "drain", node, request)


def undrain(
    node: Annotated[str, typer.Argument(help="The node.")],
    request: Request = "",
    operator: By = "operator",
    app: App = "cli",
    socket: Socket = None,
    home: Home = None,
    output: As = Output.TEXT,
) -> None:
    """Have a node that was drained take calls again."""
    _turn(Asking(operator, app, socket, home, output), "undrain", node, request)


def _where(node: list[str] | None, everywhere: bool) -> list[str] | None:
    """Return the nodes that were named, None for all that run it."""
    if bool(node) == everywhere:
        raise usage("say where: --node NODE, or --all", "", "busmesh service list shows what runs where")
    return node or None


def _change(
    asking: Asking, verb: str, name: str, arguments: dict[str, Any], where: list[str] | None, request: str
) -> None:
    from bus_mesh.cli.rolling import Change

    words = f"service {verb} {name}" + "".join(f" {value}" for key, value in arguments.items() if key == "replicas")
    words += f" --replica {arguments['replica']}" if "replica" in arguments else ""
    change = Change(verb, {"service": name, **arguments}, words, request, asking.output)
    asking.run(lambda orderer: change.run(orderer, where))


def _turn(asking: Asking, verb: str, node: str, request: str) -> None:
    from bus_mesh.cli.rolling import Change

    change = Change(verb, {}, f"{verb} {node}", request, asking.output)
    asking.run(lambda orderer: change.run(orderer, [node]))


__all__ = ["Asking", "drain", "service", "undrain"]
