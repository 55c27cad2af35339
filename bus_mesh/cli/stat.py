"""`busmesh stat`, `top` and `edges`: rates, success and latencies of the whole mesh, as they are now."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from bus_mesh.cli import complete, options, show
from bus_mesh.cli.options import App, By, Home, Socket
from bus_mesh.cli.show import TableOutput
from bus_mesh.protocol.names import is_plain

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

    from bus_mesh.cli.views import Seen
    from bus_mesh.telemetry.statistics import Key, Row

As = Annotated[TableOutput, typer.Option("-o", "--output", help="wide has more columns.")]
Only = Annotated[
    str | None,
    typer.Argument(help="Only this service.", show_default=False, autocompletion=complete.services),
]
Window = Annotated[float, typer.Option("--window", parser=options.seconds, metavar="TIME", help="Between two looks.")]
Watch = Annotated[bool, typer.Option("-w", "--watch", help="Again and again, until it is stopped.")]
_SECOND = "1s"


class Printed(NamedTuple):
    """A table, and the same as it goes into JSON."""

    columns: Sequence[str]
    rows: list[Sequence[object]]
    json: list[dict[str, Any]]


def stat(
    service: Only = None,
    window: Window = _SECOND,  # type: ignore[assignment]  # typer parses it
    watch: Watch = False,
    output: As = TableOutput.TABLE,
    operator: By = "operator",
    app: App = "cli",
    socket: Socket = None,
    home: Home = None,
) -> None:
    """Show each service: instances ready, success, calls a second and latencies, as callers see them.

    With -o wide also what success is where calls are answered (ACTUAL: without what retries make good), and how many
    calls were retried, timed out and denied.
    """
    wide = output is TableOutput.WIDE
    _show(
        _with(socket, app, home, operator),
        lambda seen, there: stats(seen, there, service, wide=wide),
        window,
        watch,
        output,
    )


def top(
    window: Window = _SECOND,  # type: ignore[assignment]  # typer parses it
    most: Annotated[int, typer.Option("--most", help="How many rows.")] = 20,
    once: Annotated[bool, typer.Option("--once", help="One look, not again and again.")] = False,
    output: As = TableOutput.TABLE,
    operator: By = "operator",
    app: App = "cli",
    socket: Socket = None,
    home: Home = None,
) -> None:
    """Show who calls what most, again and again until it is stopped."""
    most = options.at_least(most, 1, "--most")
    _show(_with(socket, app, home, operator), lambda seen, there: busiest(seen, most), window, not once, output)


def edges(
    window: Window = _SECOND,  # type: ignore[assignment]  # typer parses it
    watch: Watch = False,
    output: As = TableOutput.TABLE,
    operator: By = "operator",
    app: App = "cli",
    socket: Socket = None,
    home: Home = None,
) -> None:
    """Show who calls whom, how that goes, and whether it is sealed."""
    _show(_with(socket, app, home, operator), lambda seen, there: between_services(seen), window, watch, output)


def stats(seen: "Seen", there: list[dict[str, Any]], only: str | None, *, wide: bool) -> Printed:
    """Return a row for each service; `there` are the rows of all instances."""
    from bus_mesh.telemetry.statistics import CLIENT, SERVER, rows

    def by(side: str) -> "Callable[[Key], tuple[str, ...] | None]":
        return lambda key: (key.service,) if key.side == side else None

    callers = {row.name[0]: row for row in rows(seen.parts, seen.bounds, by(CLIENT))}
    served = {row.name[0]: row for row in rows(seen.parts, seen.bounds, by(SERVER))}
    names = sorted({one["service"] for one in there} | set(callers) | set(served))
    found = []
    for name in names:
        if only in (None, name):
            states = [one["state"] for one in there if one["service"] == name]
            inflight = seen.inflight.get(("client", name), 0)
            found.append(_stat(name, states, inflight, callers.get(name), served.get(name)))
    columns = ["NAME", "READY", "SUCCESS", "RPS", "P50", "P95", "P99", "INFLIGHT"]
    if wide:
        columns[2:3] = ["EFFECTIVE", "ACTUAL"]
        columns += ["RETRIES", "TIMEOUTS", "DENIED"]
    return Printed(columns, [_cells(one, wide=wide) for one in found], found)


def _stat(name: str, states: list[str], inflight: int, seen: "Row | None", served: "Row | None") -> dict[str, Any]:
    codes = seen.codes if seen is not None else {}
    return {
        "service": name,
        "ready": states.count("up"),
        "instances": len(states),
        "success": seen.success if seen is not None else None,
        "actual": served.success if served is not None else None,
        "rps": round(seen.rps, 3) if seen is not None else 0.0,
        **_latencies(seen),
        "inflight": inflight,
        "retries": seen.retries if seen is not None else 0,
        "timeouts": codes.get("DEADLINE_EXCEEDED", 0),
        "denied": codes.get("PERMISSION_DENIED", 0),
    }


def _latencies(row: "Row | None") -> dict[str, float | None]:
    if row is None:
        return {"p50_s": None, "p95_s": None, "p99_s": None}
    return {"p50_s": row.p50, "p95_s": row.p95, "p99_s": row.p99}


def _cells(one: dict[str, Any], *, wide: bool) -> list[object]:
    shares = [show.share(one["success"]), *([show.share(one["actual"])] if wide else [])]
    latencies = [show.took(one[key]) for key in ("p50_s", "p95_s", "p99_s")]
    row = [one["service"], f"{one['ready']}/{one['instances']}", *shares, f"{one['rps']:.1f}", *latencies]
    return [*row, one["inflight"], *([one["retries"], one["timeouts"], one["denied"]] if wide else [])]


def busiest(seen: "Seen", most: int) -> Printed:
    """Return who calls what, those with most calls a second first."""
    from bus_mesh.telemetry.statistics import CLIENT, rows

    found = rows(seen.parts, seen.bounds, lambda key: key[1:4] if key.side == CLIENT else None)
    found = sorted(found, key=lambda row: -row.calls)[:most]
    json: list[dict[str, Any]] = [
        {
            **dict(zip(("service", "method", "from"), row.name, strict=True)),
            "success": row.success,
            "rps": round(row.rps, 3),
            **_latencies(row),
        }
        for row in found
    ]
    shown: list[Sequence[object]] = [
        (
            one["from"],
            f"{one['service']}/{one['method']}",
            f"{one['rps']:.1f}",
            show.share(one["success"]),
            *(show.took(one[key]) for key in ("p50_s", "p95_s", "p99_s")),
        )
        for one in json
    ]
    return Printed(["FROM", "CALLS", "RPS", "SUCCESS", "P50", "P95", "P99"], shown, json)


def between_services(seen: "Seen") -> Printed:
    """Return who calls whom. Plain clients of NATS are the only callers whose calls are not sealed."""
    from bus_mesh.telemetry.statistics import CLIENT, SERVER, rows

    def by(key: "Key") -> tuple[str, ...] | None:
        plain = key.caller == "anonymous"
        return (key.caller, key.service) if key.side == (SERVER if plain else CLIENT) else None

    json: list[dict[str, Any]] = [
        {
            "from": row.name[0],
            "to": row.name[1],
            "success": row.success,
            "rps": round(row.rps, 3),
            **_latencies(row),
            "secured": row.name[0] != "anonymous" and not is_plain(row.name[1]),
        }
        for row in rows(seen.parts, seen.bounds, by)
    ]
    shown: list[Sequence[object]] = [
        (
            one["from"],
            one["to"],
            show.share(one["success"]),
            f"{one['rps']:.1f}",
            show.took(one["p99_s"]),
            "sealed" if one["secured"] else "no",
        )
        for one in json
    ]
    return Printed(["FROM", "TO", "SUCCESS", "RPS", "P99", "SECURED"], shown, json)


_Session = tuple[str, Path | None, Any]


def _with(socket: Path | None, app: str, home: Path | None, operator: str) -> _Session:
    from bus_mesh.cli.operator import Operator

    return app, socket, Operator.read(options.home_of(home), operator)


def _show(
    session: _Session,
    table: "Callable[[Seen, list[dict[str, Any]]], Printed]",
    window: float,
    again: bool,
    output: TableOutput,
) -> None:
    """Look twice, print what happened meanwhile, and so on where it is to go on."""
    from bus_mesh import clock
    from bus_mesh.cli.ask import ask, with_mesh
    from bus_mesh.cli.views import Views

    app, socket, operator = session

    async def work(mesh: "Mesh") -> None:
        views = await Views.open(mesh, operator)
        silent: dict[str, str] = {}
        while True:
            await asyncio.sleep(window)
            seen = await views.look()
            printed = table(seen, await ask(mesh, "instances"))
            if output is TableOutput.YAML:
                show.yaml_block(printed.json)
            elif output is TableOutput.JSON:
                show.json_line({"at": clock.wall_us() / 1e6, "rows": printed.json} if again else printed.json)
            else:
                if again:
                    show.clear()
                show.rows(printed.columns, printed.rows)
            for node, why in seen.silent.items():
                if silent.get(node) != why:
                    show.say(f"{node} is not in this: {why}")
            silent = seen.silent
            if not again:
                return

    with_mesh(app, socket, work)
