"""`busmesh bench`: how fast calls are, and which instances answer them."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bus_mesh.cli import ask, show
from bus_mesh.cli.call import Method, Parameters, Service, read
from bus_mesh.cli.options import App, As, Socket, Timeout, at_least
from bus_mesh.cli.problem import FAILED
from bus_mesh.cli.show import Output
from bus_mesh.protocol.errors import MeshError

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

PERCENTILES: Final = (50, 90, 95, 99)


class Tally:
    """What came of a number of calls."""

    def __init__(self) -> None:
        self.instances: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.seconds = 0.0

    def __repr__(self) -> str:
        return f"Tally(ok={len(self.latencies)}, failed={self.failures.total()})"

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as they are printed: rate in calls a second, latencies in milliseconds."""
        ok = sorted(self.latencies)
        latency = {f"p{at}": _ms(percentile(ok, at)) for at in PERCENTILES}
        return {
            "calls": len(ok) + self.failures.total(),
            "ok": len(ok),
            "failed": dict(self.failures),
            "seconds": round(self.seconds, 3),
            "rate": round((len(ok) + self.failures.total()) / self.seconds, 1) if self.seconds else 0.0,
            "latency_ms": latency | {"max": _ms(ok[-1] if ok else 0.0)},
            "instances": dict(sorted(self.instances.items())),
        }


def percentile(ordered: Sequence[float], at: int) -> float:
    """Return the value that `at` percent of the ordered values do not exceed; 0.0 of none."""
    return ordered[max(0, -(-len(ordered) * at // 100) - 1)] if ordered else 0.0


def bench(
    service: Service,
    method: Method,
    parameters: Parameters = "{}",
    calls: Annotated[int, typer.Option("--calls", help="Calls to make.")] = 1000,
    at_once: Annotated[int, typer.Option("--at-once", help="Calls under way at any time.")] = 16,
    app: App = "cli",
    socket: Socket = None,
    timeout: Timeout = None,
    output: As = Output.TEXT,
) -> None:
    """Make many calls and measure them.

    Prints their rate, their latencies, and how many each instance answered; exits with 1 if any failed.
    """
    given = read(parameters)
    at_least(calls, 1, "--calls")
    at_least(at_once, 1, "--at-once")

    async def work(mesh: "Mesh") -> Tally:
        return await measure(mesh, service, method, given, calls=calls, at_once=at_once, timeout=timeout)

    tally = ask.with_mesh(app, socket, work)
    found = tally.as_dict()
    if output is Output.JSON:
        show.json_line(found)
    else:
        _print(found)
    if tally.failures:
        raise typer.Exit(FAILED)


async def measure(
    mesh: "Mesh",
    service: str,
    method: str,
    given: dict[str, Any],
    *,
    calls: int,
    at_once: int,
    timeout: float | None,
) -> Tally:
    """Make `calls` calls, `at_once` at a time, and return what came of them."""
    tally, left, loop = Tally(), iter(range(calls)), asyncio.get_running_loop()

    async def one_after_another(turns: Iterator[int]) -> None:
        for _ in turns:
            began = loop.time()
            try:
                _, instance = await mesh.call_with_instance(service, method, given, timeout=timeout)
            except MeshError as error:
                tally.failures[f"{(error.wire_code or error.code).name}/{error.wire_reason or error.reason}"] += 1
            else:
                tally.latencies.append(loop.time() - began)
                tally.instances[instance] += 1

    start = loop.time()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, calls)):
            group.create_task(one_after_another(left))
    tally.seconds = loop.time() - start
    return tally


def _print(found: dict[str, Any]) -> None:
    latency = found["latency_ms"]
    columns = ["CALLS", "OK", "FAILED", "RATE", *(f"{name.upper()}_MS" for name in latency)]
    row = [found["calls"], found["ok"], sum(found["failed"].values()), found["rate"], *latency.values()]
    for text in show.table(columns, [row]):
        show.line(text)
    for title, counts in (("INSTANCE", found["instances"]), ("ERROR", found["failed"])):
        if counts:
            show.line("")
            for text in show.table([title, "CALLS"], counts.items()):
                show.line(text)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
