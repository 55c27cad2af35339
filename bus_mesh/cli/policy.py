"""`busmesh policy check` and `busmesh access check`: what a policy says, asked of its files."""

from pathlib import Path
from typing import Annotated

import typer

from bus_mesh.cli import show
from bus_mesh.cli.options import As
from bus_mesh.cli.problem import usage
from bus_mesh.cli.show import Output

policy = typer.Typer(help="Look at policy.", no_args_is_help=True, rich_markup_mode=None)
access = typer.Typer(help="Ask who may call what.", no_args_is_help=True, rich_markup_mode=None)

Files = Annotated[Path, typer.Option("-f", "--file", help="A policy file, or a directory of them.")]


@policy.command("check")
def check_policy(
    file: Files,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings too.")] = False,
    output: As = Output.TEXT,
) -> None:
    """Check policy files: what is wrong, what agents of this version do not enforce, and what is hardly meant.

    Exits 1 when there is an error, with --strict also when there is a warning.
    """
    from datetime import UTC, datetime

    from bus_mesh import clock
    from bus_mesh.config import read_policy
    from bus_mesh.policy.check import Finding, Severity, check
    from bus_mesh.policy.problems import DocumentError

    try:
        documents, later = read_policy(file)
    except DocumentError as error:
        found = [Finding("REFUSED", Severity.ERROR, _place(p.source, p.line), p.path, _said(p)) for p in error.problems]
    else:
        if not documents:
            raise usage(f"there is no policy document in {file}", "name a .yaml file of them, or their directory")
        found = [Finding("NOT_ENFORCED", Severity.ERROR, _place(p.source, p.line), p.path, _said(p)) for p in later]
        found += check(documents, datetime.fromtimestamp(clock.wall(), UTC))
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


@access.command("check")
def check_access(
    caller: Annotated[str, typer.Argument(help="The calling service.")],
    target: Annotated[str, typer.Argument(metavar="SVC/METHOD", help="What it calls.")],
    file: Files,
) -> None:
    """Say whether policy files let CALLER call SVC/METHOD, and by which rule. Exits 0 if so, 1 if not."""
    from bus_mesh.config import read_policy
    from bus_mesh.policy.access import Access
    from bus_mesh.policy.bundle import PolicySet
    from bus_mesh.protocol import names

    service, slash, method = target.partition("/")
    if not (slash and names.is_service(caller) and names.is_service(service) and names.is_method(method)):
        raise usage(f"{caller} {target} names no call", "write it like: web orders/get")
    documents, _ = read_policy(file)
    verdict = Access(PolicySet.of(documents)).check(caller, service, method)
    audited = ", which mode: audit only reports" if verdict.audited else ""
    show.line(f"{'Allowed' if verdict.allowed else 'Denied'} by {verdict.rule}{audited}")
    if not verdict.allowed:
        raise typer.Exit(1)


def _place(source: str, line: int) -> str:
    return f"{source}:{line}" if line else source


def _said(problem: object) -> str:
    message, hint = getattr(problem, "message", ""), getattr(problem, "hint", "")
    return f"{message} ({hint})" if hint else message
