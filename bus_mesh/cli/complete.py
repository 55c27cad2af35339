"""What a shell completes beside commands and options: names that the agent knows, or quietly nothing."""

import asyncio
import contextlib
from typing import Any, Final

PATIENCE: Final = 0.2
"""Seconds that a shell is kept waiting at most."""


def services(incomplete: str) -> list[str]:
    """Return the services whose names begin so."""
    return [name for name in sorted(row["service"] for row in _ask("services")) if name.startswith(incomplete)]


def nodes(incomplete: str) -> list[str]:
    """Return the nodes whose names begin so."""
    return [name for name in sorted(row["node"] for row in _ask("nodes")) if name.startswith(incomplete)]


def _ask(what: str) -> list[dict[str, Any]]:
    with contextlib.suppress(Exception):  # whatever is wrong, a shell that waits for a name is not where to say it
        return asyncio.run(_answer(what))
    return []


async def _answer(what: str) -> list[dict[str, Any]]:
    from bus_mesh_sdk import Mesh

    async with asyncio.timeout(PATIENCE), Mesh.connect(app="cli", patience=PATIENCE) as mesh:
        found: list[dict[str, Any]] = await mesh.call("busmesh", what, {}, timeout=PATIENCE)
        return found
