"""`busmesh describe`: one thing as this node's agent has it, all of it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bus_mesh.cli import ask, complete, options, show
from bus_mesh.cli.options import App, As, By, Home, Socket
from bus_mesh.cli.problem import Problem, usage
from bus_mesh.cli.show import Output
from bus_mesh.protocol import names

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

    from bus_mesh.cli.operator import Operator

app = typer.Typer(
    help="Show all that is known of a service, a node or a method.", no_args_is_help=True, rich_markup_mode=None
)

INSTANCES = ("INSTANCE", "NODE", "VERSION", "STATE", "CIRCUIT", "INFLIGHT", "LOAD", "LATENCY")
PARTS = ("METHOD", "PART", "VALUE", "FROM")


@app.callback()
def describe() -> None:
    """Show all that is known of a service, a node or a method."""


@app.command()
def service(
    name: Annotated[str, typer.Argument(metavar="SVC", help="The service.", autocompletion=complete.services)],
    speak_as: App = "cli",
    socket: Socket = None,
    output: As = Output.TEXT,
) -> None:
    """Show the policy in force for a service, and its instances as this agent sees them.

    CIRCUIT, INFLIGHT (direct calls) and LATENCY are this agent's own: it knows them of services that its apps call.
    """
    if not (names.is_service(name) or names.is_plain(name)):
        raise usage(f"{name!r:.80} is not a service name", "", "busmesh get services")
    asked = {"service": name}
    found = ask.with_mesh(speak_as, socket, lambda mesh: mesh.call(ask.OWN_SERVICE, "service", asked, timeout=5.0))
    if found["policy"] is None and not found["instances"]:
        raise Problem(ask.closest("service", name, found["others"]), "no policy names it, and nobody serves it")
    if output is Output.JSON:
        show.json_line({key: said for key, said in found.items() if key != "others"})
        return
    for line in lines(found):
        show.line(line)


@app.command()
def node(
    name: Annotated[str, typer.Argument(metavar="NODE", help="The node.", autocompletion=complete.nodes)],
    speak_as: App = "cli",
    socket: Socket = None,
    output: As = Output.TEXT,
    operator: By = "operator",
    home: Home = None,
) -> None:
    """Show how a node's agent is, as it says itself to operators who may observe, and what it serves."""
    from bus_mesh.cli.operator import Operator
    from bus_mesh.cli.order import Orderer

    if not names.is_node(name):
        raise usage(f"{name!r:.80} is not a node name", "", "busmesh get nodes")
    signer = Operator.read(options.home_of(home), operator)

    async def work(mesh: "Mesh") -> dict[str, Any]:
        orderer = await Orderer.open(mesh, signer)
        answer = await orderer.ask(name, "stats", {})
        rows = await ask.ask(mesh, "instances")
        found = {"status": answer["status"], "denied": answer["denied"], "dropped": answer["envelope_failures"]}
        return {"node": name, **found, "instances": [row for row in rows if row["node"] == name]}

    found = ask.with_mesh(speak_as, socket, work)
    if output is Output.JSON:
        show.json_line(found)
        return
    for line in node_lines(found):
        show.line(show.fitted(line))


@app.command()
def method(
    name: Annotated[str, typer.Argument(metavar="SVC/METHOD", help="The method.")],
    speak_as: App = "cli",
    socket: Socket = None,
    output: As = Output.TEXT,
    operator: By = "operator",
    home: Home = None,
) -> None:
    """Show what a method takes and gives, as JSON schemas, from an instance that serves it."""
    from bus_mesh.cli.operator import Operator

    service, _, short = name.partition("/")
    if not names.is_service(service) or not names.is_method(short):
        raise usage(f"{name!r:.160} is not a method", "it is written SVC/METHOD", "busmesh get methods")
    signer = Operator.read(options.home_of(home), operator)
    found = ask.with_mesh(speak_as, socket, lambda mesh: _method(mesh, signer, service, short))
    if output is Output.JSON:
        show.json_line(found)
        return
    again = "idempotent" if found["idempotent"] else "not idempotent"
    show.line(f"method      {service}/{short}, {again}")
    show.line(f"timeout     {found['timeout_ms'] / 1000:g}s" if found["timeout_ms"] else "timeout     none of its own")
    show.line(f"schema      {found['schema']}, from {found['node']}")
    show.line("")
    show.yaml_block({key: found[key] for key in ("parameters", "result")})


async def _method(mesh: "Mesh", signer: "Operator", service: str, name: str) -> dict[str, Any]:
    """Return a method as it is announced, with the schemas that the first node which answers tells."""
    from bus_mesh.cli.order import Orderer
    from bus_mesh.protocol.errors import MeshError

    rows = {row["service"]: row for row in await ask.ask(mesh, "services")}
    if service not in rows:
        raise Problem(ask.closest("service", service, list(rows)), "nobody announces it", "busmesh get services")
    methods = {method["name"]: method for method in rows[service]["methods"]}
    if name not in methods:
        known = ask.closest(f"method of {service}", name, list(methods))
        raise Problem(known, "nobody announces it", "busmesh get methods")
    orderer = await Orderer.open(mesh, signer)
    why: list[str] = []
    for node in rows[service]["nodes"]:
        try:
            told = await orderer.ask(node, "schema", {"service": service, "method": name})
        except (Problem, MeshError) as error:
            why.append(f"{node}: {error.what if isinstance(error, Problem) else error.message}")
            continue
        return {"service": service, **methods[name], "node": node, **told}
    raise Problem(f"nobody tells what {service}/{name} takes", "; ".join(why), "busmesh get instances")


def node_lines(found: Mapping[str, Any]) -> list[str]:
    """Return what is shown of a node, as lines."""
    said = found["status"]
    state = "revoked" if said["revoked"] else "draining" if said["draining"] else "up"
    life = datetime.fromtimestamp(said["cert_expires_us"] / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    told = [
        f"node         {found['node']} of mesh {said['mesh']}, {state}, bus-mesh {said['version']}",
        f"bus          {said['bus']}, {said['rtt_ms']:g} ms to the broker and back",
        f"policy       bundle {said['policy']}, {said['policy_state']}",
        f"certificate  until {life}",
        f"calls        {said['inflight']} on their way, {said['serving']} being answered, {said['sessions']} sessions",
    ]
    for what in ("denied", "dropped"):
        counts = ", ".join(f"{count} {name}" for name, count in sorted(found[what].items()))
        told.append(f"{what:<12} {counts or 'nothing'}")
    rows = [(row["instance"], row["service"], row["version"], row["state"], row["load"]) for row in found["instances"]]
    return [*told, "", *show.table(("INSTANCE", "SERVICE", "VERSION", "STATE", "LOAD"), rows)]


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return what is shown of a service, as lines."""
    said, rows = found["policy"], found["instances"]
    told = [f"service  {found['service']}, as {found['node']} has it", *_policy(found)]
    if said is not None:
        told += ["", *show.table(PARTS, _parts(said))]
    if names.is_plain(found["service"]):
        return [*told, "", "outside of the mesh: the broker knows who answers, and nobody seals what is said"]
    if not found["followed"]:
        told += [
            "",
            f"no app of {found['node']} calls it: circuits, calls in flight and latency are known where one does",
        ]
    if not rows:
        return [*told, "", "nobody serves it now"]
    return [*told, "", *show.table(INSTANCES, map(_instance, rows))]


def _policy(found: Mapping[str, Any]) -> list[str]:
    said = found["policy"]
    in_force = f"policy   bundle {found['number']} in force here, {found['policy_state']}"
    if said is None:
        return [in_force, "access   it has no document: every call to it is denied"]
    access = said["access"]
    mode = "" if access["mode"] == "enforce" else ", and what they refuse is only reported"
    rules = f"{_count(access['allow'], 'rule')} to allow, {_count(access['deny'], 'rule')} to deny"
    return [in_force, f"access   {access['mode']}: {rules}{mode}"]


def _parts(said: Mapping[str, Any]) -> list[Sequence[str]]:
    """Return the rows of what holds for all methods, and below what differs for one."""
    by_method = {"*": said["traffic"], **said["methods"]}
    return [
        (method, part, _words(part, told["value"]), told["from"])
        for method, parts in by_method.items()
        for part, told in parts.items()
    ]


def _words(part: str, value: Any) -> str:
    """Return a part as its author would write it."""
    if value is None:
        return "the contract's, else 5s" if part == "timeout" else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        if part == "limit" and "concurrency" not in value:
            value = {"concurrency": "as served, 64 at least", **value}
        return ", ".join(f"{key}: {_words(key, said)}" for key, said in value.items())
    if isinstance(value, list):
        return "; ".join(_words(part, one) for one in value)
    number = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{number}%" if part in ("percent", "spill_below") else number


def _instance(row: Mapping[str, Any]) -> Sequence[object]:
    latency = None if row["latency_ms"] is None else f"{row['latency_ms']:.3g}ms"
    words = (_circuits(row), row["inflight"], row["load"], latency)
    return row["instance"], row["node"], row["version"], row["state"], *words


def _circuits(row: Mapping[str, Any]) -> str:
    """Return how its circuits stand: that of the service, and those of single methods that are not closed."""
    special = [f"{name} {_circuit(of)}" for name, of in row["circuits"].items() if of["circuit"] != "closed"]
    return ", ".join([*([_circuit(row)] if row["circuit"] else []), *special])


def _circuit(of: Mapping[str, Any]) -> str:
    if of["circuit"] != "open":
        return str(of["circuit"])
    return f"open {of['probe_in_ms'] / 1000:.1f}s" if of["probe_in_ms"] else "open, probe due"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
