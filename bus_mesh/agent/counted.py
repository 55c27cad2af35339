"""What an agent answers to operators who observe: its live calls, and all that it has counted since it started.

Asked for counts twice, the difference is what happened meanwhile. Nothing is counted for this that is not anyway.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bus_mesh.agent.compiler import Compiler
from bus_mesh.agent.looks import Looks
from bus_mesh.agent.schemas import Schemas
from bus_mesh.identity.certificate import May
from bus_mesh.telemetry.metrics import BUCKETS, Series

if TYPE_CHECKING:
    from bus_mesh.agent.node import Node


def answer_observers(node: "Node", compiler: Compiler, wall_us: Callable[[], int]) -> Looks:
    """Have a node answer operators who may observe: `stats`, `schema`, and `tap`, whose looks are returned."""

    async def stats(arguments: dict[str, Any]) -> object:
        return counted(node, wall_us())

    def may_show(service: str, method: str) -> bool:
        return compiler.policy.tapped(service, method)

    looks = Looks(node.now, lambda: wall_us() / 1e6, node.outbound.recompile, may_show)
    compiler.parts.watched = lambda service: looks.show if looks.watched(service) else None
    node.every_second.append(looks.expire)
    node.orders.on("stats", May.OBSERVE, stats)
    node.orders.on("tap", May.OBSERVE, looks.poll)
    schemas = Schemas(node.hosting.instances, node.now)
    node.inbound.stray += (schemas.answered,)
    node.orders.on("schema", May.OBSERVE, schemas.told)
    return looks


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
