"""What the commands ask an agent: one session, and the reserved service `busmesh` that every agent hosts."""

import asyncio
import difflib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bus_mesh.protocol.errors import MeshError
from bus_mesh.protocol.names import is_plain

if TYPE_CHECKING:
    from bus_mesh_sdk import Mesh

T = TypeVar("T")
AGENT_PATIENCE: Final = 2.0
"""Seconds that a command waits for an agent that is not there."""
OWN_SERVICE: Final = "busmesh"


def with_mesh(app: str, socket: Path | None, work: "Callable[[Mesh], Awaitable[T]]") -> T:
    """Run `work` in one session that speaks as `app`, and return what it returns."""
    return asyncio.run(_with_mesh(app, socket, work))


async def _with_mesh(app: str, socket: Path | None, work: "Callable[[Mesh], Awaitable[T]]") -> T:
    from bus_mesh_sdk import Mesh

    async with Mesh.connect(app=app, socket=socket, patience=AGENT_PATIENCE) as mesh:
        return await work(mesh)


async def ask(mesh: "Mesh", what: str) -> Any:
    """Return what the agent says to `nodes`, `services`, `instances` or `status`."""
    return await mesh.call(OWN_SERVICE, what, {}, timeout=5.0)


async def suggestion(mesh: "Mesh", service: str, method: str) -> str:
    """Return the question `did you mean …?` for a service or method that nobody offers, or nothing."""
    if service == OWN_SERVICE or is_plain(service):  # neither is announced
        return ""
    try:
        offered = {found["service"]: [m["name"] for m in found["methods"]] for found in await ask(mesh, "services")}
    except MeshError:
        return ""
    if service not in offered:
        return closest("service", service, list(offered))
    if method not in offered[service]:
        return closest(f"method of {service}", method, offered[service])
    return ""


def closest(kind: str, said: str, known: list[str]) -> str:
    """Return that there is no such thing, and the question `did you mean …?` or what there is."""
    near = difflib.get_close_matches(said, known, n=1, cutoff=0.5)
    if near:
        return f"there is no {kind} {said!r}: did you mean {near[0]}?"
    listed = ", ".join(sorted(known)[:12]) or "none at all"
    return f"there is no {kind} {said!r}; there is {listed}"
