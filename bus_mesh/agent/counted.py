"""What an agent answers to operators who ask for its statistics: all that it has counted since it started.

Asked for twice, the difference is what happened meanwhile. Nothing is counted for this that is not counted anyway.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bus_mesh.identity.certificate import May
from bus_mesh.telemetry.metrics import BUCKETS, Series

if TYPE_CHECKING:
    from bus_mesh.agent.node import Node

STATS = "stats"


def answer_stats(node: "Node", wall_us: Callable[[], int]) -> None:
    """Have a node answer `stats` to operators who may observe."""

    async def stats(arguments: dict[str, Any]) -> object:
        return counted(node, wall_us())

    node.orders.on(STATS, May.OBSERVE, stats)


def counted(node: "Node", wall_us: int) -> dict[str, object]:
    """Return all that a node has counted, its clocks, and how it is."""
    metrics = node.metrics
    sides = {"client": metrics.client, "server": metrics.server}
    return {
        "node": node.own.node,
        "boot": node.keyring.boot,
        "at": node.now(),
        "wall_us": wall_us,
        "bounds": BUCKETS,
        "cells": [row for side, series in sides.items() for row in _cells(side, series)],
        "inflight": [
            (side, service, count) for side, series in sides.items() for service, count in _inflight(series).items()
        ],
        "denied": dict(metrics.denied.values),
        "envelope_failures": dict(metrics.envelope_failures.values),
        "status": node.status(),
    }


def _cells(side: str, series: Series) -> list[tuple[object, ...]]:
    retries = series.retries()
    rows: list[tuple[object, ...]] = []
    for labels, code, cell in series.cells():
        # Retries belong to no code: they stand once, with the first one.
        rows.append((side, *labels, code, (*cell, retries.pop(labels, 0))))
    return rows


def _inflight(series: Series) -> dict[str, int]:
    found: dict[str, int] = {}
    for (service, _), count in series.inflight().items():
        found[service] = found.get(service, 0) + count
    return found
