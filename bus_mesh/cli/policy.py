"""`busmesh policy …` and `busmesh access check`: what policy says, in files or in force, and how it is changed."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bus_mesh.cli import options, show
from bus_mesh.cli.options import App, As, By, Home, Socket, Timeout
from bus_mesh.cli.problem import usage
from bus_mesh.cli.show import Output

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

    from bus_mesh.cli.apply import Applied
    from bus_mesh.cli.operator import Operator

policy = typer.Typer(help="Look at policy, and change it.", no_args_is_help=True, rich_markup_mode=None)
access = typer.Typer(help="Ask who may call what.", no_args_is_help=True, rich_markup_mode=None)

Files = Annotated[Path, typer.Option("-f", "--file", help="A policy file, or a directory of them.")]
Waiting = Annotated[bool, typer.Option("--wait", help="Until every live agent has applied it.")]
CALLER = "cli"


@policy.command("check")
def check_policy(
    file: Files,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings too.")] = False,
    live: Annotated[bool, typer.Option("--live", help="Compare with what is served now, too; asks an agent.")] = False,
    app: App = CALLER,
    socket: Socket = None,
    output: As = Output.TEXT,
) -> None:
    """Check policy files: what is wrong, what agents of this version do not enforce, and what is hardly meant.

    Exits 1 when there is an error, with --strict also when there is a warning.
    """
    from bus_mesh import clock
    from bus_mesh.cli.apply import served
    from bus_mesh.cli.ask import with_mesh
    from bus_mesh.policy.check import Finding, Severity, check, check_served
    from bus_mesh.policy.problems import DocumentError
    from bus_mesh.policy_files import read_policy

    try:
        documents, later = read_policy(file)
    except DocumentError as error:
        found = [Finding("REFUSED", Severity.ERROR, _place(p.source, p.line), p.path, _said(p)) for p in error.problems]
    else:
        if not documents:
            raise usage(f"there is no policy document in {file}", "name a .yaml file of them, or their directory")
        found = [Finding("NOT_ENFORCED", Severity.ERROR, _place(p.source, p.line), p.path, _said(p)) for p in later]
        found += check(documents, datetime.fromtimestamp(clock.wall(), UTC))
        if live:
            found += check_served(documents, with_mesh(app, socket, served))
    for finding in found:
        if output is Output.JSON:
            show.json_line({**finding._asdict(), "severity": finding.severity.name.lower()})
        else:
            show.line(str(finding))
    worst = max((finding.severity for finding in found), default=Severity.INFO)
    counted = {severity: sum(finding.severity is severity for finding in found) for severity in Severity}
    show.say(f"{counted[Severity.ERROR]} errors, {counted[Severity.WARNING]} warnings in {file}")
    if worst is Severity.ERROR or (strict and worst is Severity.WARNING):
        raise typer.Exit(1)


@policy.command()
def apply(
    file: Files,
    wait: Waiting = False,
    timeout: Timeout = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove the documents that are not given.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    rollback_on_nack: Annotated[
        bool, typer.Option("--rollback-on-nack", help="Go back when an agent refuses it; waits.")
    ] = False,
    operator: By = "operator",
    app: App = CALLER,
    socket: Socket = None,
    home: Home = None,
    output: As = Output.TEXT,
) -> None:
    """Give documents to the mesh: they replace those of the same kind and name, and the rest stays.

    With --wait it exits 1 unless every live agent has applied them in --timeout (default 30s).
    """
    from bus_mesh.cli import apply as at
    from bus_mesh.cli.ask import with_mesh

    texts, signer = at.read(file), _operator(home, socket, operator)
    patience = 30.0 if timeout is None else timeout

    async def work(mesh: "Mesh") -> tuple[dict[str, Any], "Applied | None", dict[str, Any] | None]:
        said = await at.apply(mesh, signer, texts, prune=prune, dry=dry_run)
        if dry_run or not (wait or rollback_on_nack):
            return said, None, None
        found = await at.wait(mesh, said["number"], patience)
        if not (found.refused and rollback_on_nack and said["changed"]):
            return said, found, None
        back = {"number": said["before"], "expected": said["number"]}
        return said, found, await signer.command(mesh, "rollback", back)

    said, found, back = with_mesh(app, socket, work)
    _tell_change(output, said, found, "would be" if dry_run else "is", back["number"] if back is not None else None)
    for warning in said["warnings"]:
        show.say(warning)
    if found is not None:
        show.applied(found)
    if back is not None:
        show.say(f"went back: bundle {back['number']} has the content of {back['origin']}")
    if found is not None and not found.whole:
        raise typer.Exit(1)


@policy.command()
def rollback(
    number: Annotated[int, typer.Argument(help="The bundle to go back to [default: the one before].")] = 0,
    wait: Waiting = False,
    timeout: Timeout = None,
    operator: By = "operator",
    app: App = CALLER,
    socket: Socket = None,
    home: Home = None,
    output: As = Output.TEXT,
) -> None:
    """Put the content of an earlier bundle into force, under a new number."""
    from bus_mesh.cli import apply as at
    from bus_mesh.cli.ask import with_mesh

    signer = _operator(home, socket, operator)
    patience = 30.0 if timeout is None else timeout

    async def work(mesh: "Mesh") -> tuple[dict[str, Any], "Applied | None"]:
        said = await signer.command(mesh, "rollback", {"number": number, "expected": 0})
        return said, await at.wait(mesh, said["number"], patience) if wait else None

    said, found = with_mesh(app, socket, work)
    _tell_change(output, said, found, "is")
    show.say(f"it has the content of bundle {said['origin']}")
    if found is not None:
        show.applied(found)
        if not found.whole:
            raise typer.Exit(1)


@policy.command()
def diff(
    file: Annotated[Path | None, typer.Option("-f", "--file", help="Files to compare with what is in force.")] = None,
    bundles: Annotated[list[int] | None, typer.Argument(metavar="[A [B]]", help="Bundles to compare.")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="As if applied with --prune.")] = False,
    app: App = CALLER,
    socket: Socket = None,
    output: As = Output.TEXT,
) -> None:
    """Show what files, or another bundle, would change. Exits 1 when there is a difference.

    `diff -f PATH` compares with what is in force, `diff A` bundle A with it, `diff A B` bundles A and B.
    """
    from bus_mesh.cli import apply as at
    from bus_mesh.cli.ask import with_mesh
    from bus_mesh.policy.models import REVOKED

    chosen = bundles or []
    if bool(file) == bool(chosen) or len(chosen) > 2:
        what = "too much" if chosen else "nothing"
        raise usage(f"there is {what} to compare", "give -f PATH, or one or two numbers of bundles")
    given = at.read(file) if file else {}

    async def work(mesh: "Mesh") -> dict[str, str]:
        if file:
            before = (await at.bundle(mesh))["hashes"]
            names = sorted({*given, *(name for name in before if name != REVOKED)}) if prune else sorted(given)
            return await at.difference(mesh, before, given, names)
        old, new = [await at.bundle(mesh, number) for number in [*chosen, 0][:2]]
        changed = [n for n in {**old["hashes"], **new["hashes"]} if old["hashes"].get(n) != new["hashes"].get(n)]
        there = {name: hash for name, hash in new["hashes"].items() if name in changed}
        return await at.difference(mesh, old["hashes"], await at.contents(mesh, there), sorted(changed))

    found = with_mesh(app, socket, work)
    if output is Output.JSON:
        for name, text in found.items():
            show.json_line({"document": name, "diff": text})
    elif found:
        show.line("\n".join(found.values()))
    if found:
        raise typer.Exit(1)
    show.say("no difference")


@policy.command("get")
def get_policy(
    name: Annotated[str | None, typer.Argument(metavar="[KIND/NAME]", help="Only this document.")] = None,
    number: Annotated[int, typer.Option("--number", help="Of this bundle [default: the one in force].")] = 0,
    app: App = CALLER,
    socket: Socket = None,
    output: As = Output.TEXT,
) -> None:
    """Print the documents in force, or those of an earlier bundle, as YAML."""
    from bus_mesh.cli import apply as at
    from bus_mesh.cli.ask import with_mesh
    from bus_mesh.policy.yaml_lines import read

    async def work(mesh: "Mesh") -> dict[str, str]:
        hashes = (await at.bundle(mesh, number))["hashes"]
        if name is not None and name not in hashes:
            raise usage(f"there is no document {name!r}", f"there is {', '.join(sorted(hashes)) or 'none at all'}")
        return await at.contents(mesh, {n: hash for n, hash in hashes.items() if name in (None, n)})

    found = with_mesh(app, socket, work)
    if output is Output.JSON:
        for title, text in found.items():
            show.json_line({"document": title, "yaml": text, "content": read(text)[0].value})
        return
    show.line("---\n".join(found.values()).rstrip("\n"))


@policy.command()
def history(
    most: Annotated[int, typer.Option("--most", help="How many, the newest first.")] = 20,
    app: App = CALLER,
    socket: Socket = None,
    output: As = Output.TEXT,
) -> None:
    """List the bundles that are kept: who applied them, when, and what they changed."""
    from bus_mesh.cli.ask import with_mesh
    from bus_mesh.cli.operator import control

    rows = with_mesh(app, socket, lambda mesh: control(mesh, "history", {"most": options.at_least(most, 1, "--most")}))
    if output is Output.JSON:
        for row in rows:
            show.json_line(row)
        return
    heads = ["NUMBER", "WHEN", "BY", "DOCUMENTS", "CHANGED"]
    shown = [(r["number"], _when(r["made_us"]), r["made_by"], r["documents"], _changes(r)) for r in rows]
    for text in show.table(heads, shown):
        show.line(text)


@access.command("check")
def check_access(
    caller: Annotated[str, typer.Argument(help="The calling service.")],
    target: Annotated[str, typer.Argument(metavar="SVC/METHOD", help="What it calls.")],
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="Ask these files [default: what is in force at the agent].")
    ] = None,
    app: App = CALLER,
    socket: Socket = None,
    output: As = Output.TEXT,
) -> None:
    """Say whether CALLER may call SVC/METHOD, and by which rule. Exits 0 if so, 1 if not."""
    from bus_mesh.cli.ask import OWN_SERVICE, with_mesh
    from bus_mesh.policy.access import Access
    from bus_mesh.policy.bundle import PolicySet
    from bus_mesh.policy_files import read_policy
    from bus_mesh.protocol import names

    service, slash, method = target.partition("/")
    if not (slash and names.is_service(caller) and names.is_call(service, method)):
        raise usage(f"{caller} {target} names no call", "write it like: web orders/get")
    if file is not None:
        documents, _ = read_policy(file)
        allowed, rule, reported = Access(PolicySet.of(documents)).check(caller, service, method)
        number, where = 0, ""
    else:
        asked = {"caller": caller, "service": service, "method": method}
        said = with_mesh(app, socket, lambda mesh: mesh.call(OWN_SERVICE, "access", asked, timeout=5.0))
        allowed, rule, reported = said["allowed"], said["rule"], said["audited"]
        number, where = said["number"], f" of policy {said['number']}"
    audited = ", which mode: audit only reports" if reported else ""
    if output is Output.JSON:
        show.json_line({"allowed": allowed, "rule": rule, "audited": reported, "number": number})
    else:
        show.line(f"{'Allowed' if allowed else 'Denied'} by {rule}{where}{audited}")
    if not allowed:
        raise typer.Exit(1)


@access.command()
def audit(app: App = CALLER, socket: Socket = None, output: As = Output.TEXT) -> None:
    """List the calls that `mode: audit` let through at this node's agent, and that policy would refuse."""
    from bus_mesh.cli.ask import ask, with_mesh

    rows = with_mesh(app, socket, lambda mesh: ask(mesh, "audit"))
    if output is Output.JSON:
        show.json_line(rows)
        return
    shown = [(r["caller"], f"{r['service']}/{r['method']}", r["rule"], r["calls"]) for r in rows]
    for text in show.table(["CALLER", "CALLED", "WOULD_BE_DENIED_BY", "CALLS"], shown):
        show.line(text)


def _operator(home: Path | None, socket: Path | None, name: str) -> "Operator":
    from bus_mesh.cli.operator import Operator

    return Operator.read(options.home_of(home), name)


def _tell_change(
    output: Output, said: dict[str, Any], found: "Applied | None", word: str, back: int | None = None
) -> None:
    """Print the bundle that was made, or would be; with -o json also how far it came, and what it went back by."""
    number = said["number"] if word == "is" or not said["changed"] else said["before"] + 1
    text = f"{word} in force: {_changes(said)}" if said["changed"] else "is in force: nothing changed"
    told = {"in_force": word == "is", "changed": said["changed"], "warnings": said.get("warnings", [])}
    row = {"number": number, **told, "reached": found and found._asdict(), "went_back_by": back}
    show.result(output, row, f"bundle {number} {text}")


def _changes(said: dict[str, Any]) -> str:
    told = f"rollback to {said['origin']}: " if said.get("origin") else ""
    named = [f"{name} {what}" for name, what in said["changed"].items()]
    more = said.get("changes", len(named)) - len(named)
    return told + (", ".join([*named, *([f"and {more} more"] if more else [])]) or "nothing")


def _when(made_us: int) -> str:
    return datetime.fromtimestamp(made_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _place(source: str, line: int) -> str:
    return f"{source}:{line}" if line else source


def _said(problem: object) -> str:
    message, hint = getattr(problem, "message", ""), getattr(problem, "hint", "")
    return f"{message} ({hint})" if hint else message
