"""The commands of `busmesh`, and the one place where an exception becomes words and an exit code."""

import atexit
import gc
import sys

import typer

from bus_mesh import __version__
from bus_mesh.cli import (
    agent,
    bench,
    call,
    check,
    describe,
    get,
    mesh,
    nats,
    nodes,
    policy,
    policy_agent,
    receipt,
    service,
    show,
    stat,
    status,
    tap,
    token,
    up,
)
from bus_mesh.cli.options import As
from bus_mesh.cli.problem import explain
from bus_mesh.cli.show import Output

app = typer.Typer(
    name="busmesh",
    help="A service mesh whose wire is a message bus.\n\nResults go to stdout, everything else to stderr.",
    no_args_is_help=True,
    rich_markup_mode=None,  # Loading rich would double the time of every `--help`.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(up.up)
app.command()(call.call)
app.add_typer(get.app, name="get")
app.add_typer(describe.app, name="describe")
app.command()(status.status)
app.command()(stat.stat)
app.command()(stat.top)
app.command()(stat.edges)
app.command()(tap.tap)
app.command()(check.check)
app.command()(bench.bench)
app.command()(agent.agent)
app.command(context_settings={"ignore_unknown_options": True})(agent.run)
app.command()(policy_agent.policy_agent)
app.command()(mesh.init)
mesh.node.command("list")(nodes.list_nodes)
mesh.node.command("revoke")(nodes.revoke)
mesh.operator.command("revoke")(nodes.revoke_operator)
app.add_typer(mesh.node, name="node")
app.add_typer(mesh.operator, name="operator")
app.add_typer(service.service, name="service")
app.command()(service.drain)
app.command()(service.undrain)
app.add_typer(nats.nats, name="nats")
app.add_typer(token.token, name="token")
app.add_typer(policy.policy, name="policy")
app.add_typer(policy.access, name="access")
app.add_typer(receipt.receipt, name="receipt")


@app.command()
def version(output: As = Output.TEXT) -> None:
    """Print the version of bus-mesh."""
    show.result(output, {"version": __version__}, __version__)


def run() -> None:
    """Run `busmesh` with the arguments of this process, and exit."""
    # What is left at the end goes with the process: to look for cycles in it takes 0.1 s and more of a processor.
    atexit.register(gc.freeze)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        problem = explain(error)
        show.say(str(problem))
        sys.exit(problem.exit_code)


if __name__ == "__main__":
    run()
