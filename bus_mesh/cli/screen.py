"""What `busmesh up` shows when it is ready: where things listen, what runs, and what to try."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bus_mesh.agent.supervise import Standing
from bus_mesh.cli import plan, show
from bus_mesh.cli.plan import Wanted


def first(running: dict[str, Any], wanted: Wanted) -> Iterator[str]:
    """Say where things listen, what runs, and what to try."""
    home = running["home"]
    yield f"bus     {running['bus']}  TLS; takes the mesh's own agents and nobody else"
    for name, node in running["nodes"].items():
        yield f"{name}  {node['socket']}  {node['http']}/metrics  pid {node['pid']}"
    yield f"policy  {running['policy']['http']}/metrics  pid {running['policy']['pid']}"
    yield f"home    {home}  holds every key of this mesh: for development only"
    yield ""
    rows = _services(plan.instances(wanted))
    if rows:
        yield from show.table(["SERVICE", "INSTANCES", "NODES"], rows)
        yield ""
    yield "try, in another terminal:"
    yield f"  export BUSMESH_HOME={home}"
    yield from _to_try(running, wanted)
    yield ""
    yield "READY"


def _to_try(running: dict[str, Any], wanted: Wanted) -> Sequence[str]:
    if not wanted.demo:
        return ("  busmesh get nodes", "  busmesh up --help")
    pid = list(running["nodes"].values())[-1]["pid"]
    return (
        """  busmesh call orders create '{"order": {"sku": "tea", "qty": 2}}'""",
        """  busmesh bench orders get '{"id": "1"}' --calls 2000      calls go to the instances of both nodes""",
        f"  kill -9 {pid}; busmesh get instances      an agent dies: calls go on, and it comes back",
    )


def _services(instances: Mapping[tuple[str, str], int]) -> list[tuple[str, int, str]]:
    names = sorted({service for service, _ in instances})
    return [
        (
            name,
            sum(count for (service, _), count in instances.items() if service == name),
            ",".join(node for service, node in instances if service == name),
        )
        for name in names
    ]


def ended(standing: Standing) -> str:
    """Return how a process ended, in words."""
    if standing.message:
        return standing.message
    status = standing.status or 0
    return f"signal {-status}" if status < 0 else f"status {status}"


def last_words(log: Path, most: int = 4) -> str:
    """Return the last lines of a log, or that it is empty."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    said = [line[:300] for line in lines if line.strip()]
    return "\n       ".join(said[-most:]) or "it said nothing"
