"""`busmesh check`: what is wrong with this mesh, and what to type next."""

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bus_mesh.cli import options, show
from bus_mesh.cli.options import App, By, Home, Socket, Timeout

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

    from bus_mesh.cli.judgement import Checked

WAITED_IN_VAIN: Final = 124
PATIENCE: Final = 30.0
AGAIN: Final = 0.5
"""Seconds between two looks of --wait."""
_SIGNS: Final = {"good": "√", "doubtful": "‼", "wrong": "×"}


class Report(StrEnum):
    """How it is printed; `short` leaves out what is good."""

    TABLE = "table"
    SHORT = "short"
    JSON = "json"


def check(
    wait: Annotated[bool, typer.Option("--wait", help="Look again until nothing is wrong.")] = False,
    timeout: Timeout = None,
    output: Annotated[Report, typer.Option("-o", "--output", help="short leaves out what is good.")] = Report.TABLE,
    operator: By = "operator",
    app: App = "cli",
    socket: Socket = None,
    home: Home = None,
) -> None:
    """Look for what is wrong: agents, bus, clocks, certificates, policy, services; with a hint for each.

    Exits 1 when something is wrong (×), 0 when it is merely doubtful (‼); with --wait 124 when it stays wrong.
    """
    from bus_mesh.cli.ask import with_mesh
    from bus_mesh.cli.facts import gathered
    from bus_mesh.cli.judgement import Mark, judged
    from bus_mesh.cli.operator import Operator

    signer = Operator.read(options.home_of(home), operator)

    async def work(mesh: "Mesh") -> "list[Checked]":
        loop = asyncio.get_running_loop()
        end = loop.time() + (PATIENCE if timeout is None else timeout)
        while True:
            found = judged(await gathered(mesh, signer))
            if not wait or loop.time() >= end or all(one.mark is not Mark.WRONG for one in found):
                return found
            await asyncio.sleep(AGAIN)

    found = with_mesh(app, socket, work)
    if output is Report.JSON:
        show.json_line([one._asdict() for one in found])
    else:
        for text in lines(found, short=output is Report.SHORT):
            show.line(show.fitted(text))
    if any(one.mark is Mark.WRONG for one in found):
        raise typer.Exit(WAITED_IN_VAIN if wait else 1)


def lines(found: "list[Checked]", *, short: bool) -> list[str]:
    """Return what is shown: groups, a sign for each line, and below what is not good its reason and a hint."""
    told: list[str] = []
    group = ""
    for one in found:
        if short and one.mark == "good":
            continue
        if one.group != group:
            told += [*([""] if told else []), one.group]
            group = one.group
        told.append(f"  {_SIGNS[one.mark]} {one.what}")
        if one.why:
            told += [f"    {one.why}", f"    hint: {one.hint}"]
    return told
