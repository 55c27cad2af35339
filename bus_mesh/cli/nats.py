"""`busmesh nats config`: a broker that lets in whom the mesh admitted, and nobody else."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bus_mesh.cli import options, show
from bus_mesh.cli.options import As, Home
from bus_mesh.cli.problem import Problem, usage
from bus_mesh.cli.show import Output

if TYPE_CHECKING:
    from bus_mesh.cli.nats_home import NatsHome
    from bus_mesh.control.nats_config import ServerSettings

nats = typer.Typer(help="Set up the broker.", no_args_is_help=True, rich_markup_mode=None)

Listen = Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where the server takes clients.")]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", metavar="HOST", help="What clients call it; may be repeated.", show_default=False),
]
_ANYWHERE = ("0.0.0.0", "::")
_LOOPBACK = ("localhost", "127.0.0.1")


@nats.callback()
def _group() -> None:
    """Set up the broker."""


@nats.command()
def config(
    out: Annotated[Path, typer.Option("--out", help="The folder for the server's files; it is made when missing.")],
    home: Home = None,
    listen: Listen = "127.0.0.1:4222",
    name: Names = None,
    monitor: Annotated[str, typer.Option("--monitor", metavar="HOST:PORT", help="Statistics, or off.")] = "off",
    output: As = Output.TEXT,
) -> None:
    """Write the configuration of a nats-server with TLS and a user for each node.

    The first time also makes the keys of the broker in the mesh's home. Writing again keeps all keys and renews the
    server's certificate, which is good for a year.
    """
    from bus_mesh.cli.home import MeshHome
    from bus_mesh.cli.nats_home import NatsHome
    from bus_mesh.control.nats_config import CONFIGURATION, ServerSettings

    at, statistics = _address(listen, "--listen"), None if monitor == "off" else _address(monitor, "--monitor")
    known_as = list(name or ())
    if not known_as and at[0] in _ANYWHERE:
        raise usage(
            f"--listen {listen} takes clients from anywhere, and nothing says what they call this server",
            "its certificate must hold the name or address that they connect to",
            "--name bus.example.com, once for each",
        )
    side = NatsHome(MeshHome(options.home_of(home)))
    folder = out.absolute()
    _refuse_taken(folder, side.home.mesh)
    hosts = list(dict.fromkeys([*known_as, *(() if at[0] in _ANYWHERE else (at[0],)), *_LOOPBACK]))
    _write(side, folder, hosts, ServerSettings(*at, statistics))
    side.note_address(f"tls://{_bracketed(hosts[0])}:{at[1]}")
    show.say(f"wrote {folder}: the server's certificate is good for a year")
    show.say(f"next: cd {folder} && nats-server -c {CONFIGURATION}")
    show.say(f"next: busmesh node add node-a --serve orders --home {side.home.path}   # brings a user of the bus")
    file = str(folder / CONFIGURATION)
    show.result(output, {"configuration": file, "address": side.address}, file)


@nats.command()
def client(
    name: Annotated[str, typer.Argument(help="What to call it; its inboxes begin _INBOX.NAME.")],
    out: Annotated[Path, typer.Option("--out", help="The file for its credentials; it must not be there.")],
    call: Annotated[
        list[str] | None,
        typer.Option("--call", metavar="SERVICE", help="What it may call; may be repeated.", show_default=False),
    ] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option("--ask", metavar="SUBJECT", help="What it may ask outside of the mesh.", show_default=False),
    ] = None,
    answer: Annotated[
        list[str] | None,
        typer.Option("--answer", metavar="SUBJECT", help="What it may serve outside of it.", show_default=False),
    ] = None,
    home: Home = None,
    output: As = Output.TEXT,
) -> None:
    """Write a user of the bus for a plain client or service of NATS, good for 30 days.

    It discovers services. --call has it call services of the mesh, which policy must expose (`expose: micro`) and the
    caller `anonymous` be allowed. --ask and --answer are of services outside of the mesh: for whoever calls them, a
    node whose apps do included (`micro:` in its node.yaml), and for who serves them. Each may be repeated.
    """
    from bus_mesh.cli.home import MeshHome
    from bus_mesh.cli.nats_home import NatsHome
    from bus_mesh.protocol.errors import InvalidName

    side = NatsHome(MeshHome(options.home_of(home)))
    if out.exists():
        raise Problem(f"{out} is there already", "credentials are never overwritten", "--out ANOTHER/FILE")
    try:
        side.client(name, out, call=call or (), ask=ask or (), answer=answer or ())
    except ValueError as error:
        raise usage(str(error), "a subject outside of the mesh, or a pattern", "--ask 'minmax.*'") from None
    except InvalidName as error:
        raise usage(
            error.message, "it becomes a part of subjects", "busmesh nats client reports --call orders"
        ) from None
    show.say(f"next: connect with these credentials, {side.path / 'ca.pem'}, and the inbox prefix _INBOX.{name}")
    show.result(output, {"client": name, "credentials": str(out), "inbox": f"_INBOX.{name}"}, str(out))


def _write(side: "NatsHome", folder: Path, hosts: list[str], settings: "ServerSettings") -> None:
    from bus_mesh.control.nats_tls import BadHost

    side.make()
    try:
        side.write_server(folder, hosts, settings)
    except BadHost as error:
        raise usage(str(error), "it goes into the server's certificate", "--name bus.example.com") from None


def _refuse_taken(folder: Path, mesh: str) -> None:
    """Refuse a folder that holds files of another server, or of another mesh's."""
    from bus_mesh.cli.nats_home import CA_FILE
    from bus_mesh.control.nats_config import CERTIFICATE, CONFIGURATION, KEY, written_for

    file = folder / CONFIGURATION
    if file.exists() and written_for(file.read_text(errors="replace"), mesh):
        return
    taken = [name for name in (CONFIGURATION, CERTIFICATE, KEY, CA_FILE) if (folder / name).exists()]
    if taken:
        raise Problem(
            f"{folder} already holds a file {taken[0]}",
            f"it was not written here for the mesh {mesh}, and is not overwritten",
            "--out ANOTHER/DIRECTORY, or move it away",
        )


def _address(text: str, option: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and '"' not in host and host.isprintable() and port.isascii() and port.isdigit()):
        raise usage(f"{option} is {text}", "it must be a host and a port", f"{option} 127.0.0.1:4222")
    if not 0 < int(port) < 65536:
        raise usage(f"{option} names port {port}", "a port is 1 to 65535", f"{option} {host}:4222")
    return host, int(port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
