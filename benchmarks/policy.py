"""`python -m benchmarks.policy`: how fast a change of policy is everywhere, and what ten thousand rules cost.

A real policy agent, two real agents with calls between them, and 100 light agents (`benchmarks/followers.py` says what
they are) on one bus. The light ones are there for changes of one service only: ten thousand rules are compiled by every
agent, which a hundred of them on one machine do one after the other. Exit 1 when a floor is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bus_mesh_sdk import Mesh

from benchmarks.stage import POLICY, Stage
from bus_mesh.cli import apply as at
from bus_mesh.cli.operator import Operator, control
from bus_mesh.policy.access import Access
from bus_mesh.policy.bundle import PolicySet
from bus_mesh.policy.load import parse
from bus_mesh.policy.yaml_lines import texts

LIGHT = 100
REAL = 2
PROCESSES = 2
SERVICES, RULES = 1000, 10
PATIENCE = 60.0


def rules(services: int = SERVICES, each: int = RULES) -> dict[str, str]:
    """Return so many services with so many rules each: `kind/name` to YAML."""
    found = {}
    for number in range(services):
        allow = [f'    - {{from: [caller-{number}-{rule}], methods: [get, "list*"]}}' for rule in range(each)]
        found[f"Service/s{number}"] = f"kind: Service\nname: s{number}\naccess:\n  allow:\n" + "\n".join(allow) + "\n"
    return found


def small() -> dict[str, str]:
    """Return the documents of the echo services alone."""
    return {f"{read.kind}/{read.name}": text for text in texts(POLICY) for read in parse(text, "echo")}


class Measured:
    """What was found, with its floors."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, float, float, str]] = []

    def add(self, what: str, sense: str, limit: float, value: float, unit: str) -> None:
        self.rows.append((what, sense, limit, value, unit))

    def judge(self) -> bool:
        """Print each floor with what was measured, and return whether all hold."""
        good = True
        print(f"{'FLOOR':<58} {'MEASURED':>10}  RESULT")
        for what, sense, limit, value, unit in self.rows:
            held = value <= limit
            good &= held
            print(f"{f'{what}: {sense} {limit:g} {unit}':<58} {value:>10.3f}  {'passed' if held else 'MISSED'}")
        return good


async def applied(mesh: Mesh, operator: Operator, documents: dict[str, str], nodes: int, **how: bool) -> dict[str, Any]:
    """Apply documents and return when they were made, and when the last of so many nodes had them, in µs."""
    began = time.perf_counter()
    said = await at.apply(mesh, operator, documents, **how)
    answered = time.perf_counter() - began
    made_us = (await at.bundle(mesh))["made_us"]
    while True:
        acks = [ack for ack in (await control(mesh, "acks", {}))["acks"] if ack["number"] >= said["number"]]
        if len(acks) >= nodes:
            break
        if time.perf_counter() - began > PATIENCE:
            raise SystemExit(f"{len(acks)} of {nodes} agents had bundle {said['number']} after {PATIENCE:.0f} s")
        await asyncio.sleep(0.02)
    if not all(ack["applied"] for ack in acks):
        raise SystemExit(f"refused: {acks}")
    return {"answered": answered, "everywhere": (max(ack["at_us"] for ack in acks) - made_us) / 1e6}


async def convergence(mesh: Mesh, operator: Operator, changes: int, measured: Measured) -> None:
    """Change one service again and again; note the time from its number to the last acknowledgement."""
    took = []
    for number in range(changes):
        text = f"kind: Service\nname: changing\ntraffic: {{timeout: {number + 1}ms}}\n"
        found = await applied(mesh, operator, {"Service/changing": text}, LIGHT + REAL)
        took.append(found["everywhere"])
    took.sort()
    what = f"{changes} changes of one service at {LIGHT} light and {REAL} real agents"
    print(f"{what}, seconds to the last acknowledgement:")
    print(f"  P50 {statistics.median(took):.3f}  P99 {took[int(len(took) * 0.99) - 1]:.3f}  longest {took[-1]:.3f}\n")
    measured.add("change to last acknowledgement, P99", "<=", 1.0, took[int(len(took) * 0.99) - 1], "s")


def compiled(measured: Measured) -> None:
    """Parse and compile ten thousand rules as an agent does beside its loop, and swap as it does in it."""
    documents = rules()
    began = time.perf_counter()
    read = [document for name, text in documents.items() for document in parse(text, name)]
    policy = PolicySet.of(read, 1)
    access = Access(policy)
    took = time.perf_counter() - began
    began = time.perf_counter()
    access.check("caller-7-3", "s7", "get")
    swap = time.perf_counter() - began
    print(f"{SERVICES} services, {SERVICES * RULES} rules: parsed and compiled in {took:.2f} s\n")
    measured.add("10,000 rules parsed, checked and compiled", "<=", 2.0, took, "s")
    measured.add("first verdict of a policy just put into force", "<=", 0.1, swap, "s")


async def calls(stage: Stage, mesh: Mesh, operator: Operator, rounds: int, seconds: float, measured: Measured) -> None:
    """Measure calls under one rule and under ten thousand, in turn."""
    large = {**small(), **rules()}
    ratios, answered, everywhere = [], [], []
    for number in range(rounds):
        rates = {}
        for name, documents in (("small", small()), ("large", large))[:: 1 if number % 2 else -1]:
            found = await applied(mesh, operator, documents, REAL, prune=True)
            if name == "large":
                answered.append(found["answered"])
                everywhere.append(found["everywhere"])
            row = await asyncio.to_thread(stage.client, "call", stage.socket("node-a"), "echo", "64", str(seconds))
            rates[name] = row["rate"]
        ratios.append(rates["small"] / rates["large"])
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    print(
        f"a bundle of {len(large)} documents: answered by the policy agent in {statistics.median(answered):.2f} s (the "
        f"first {answered[0]:.2f}), in force at both agents after {statistics.median(everywhere):.2f} s\n"
    )
    measured.add("such a bundle given to the policy agent, the first time", "<=", 2.0, answered[0], "s")
    measured.add("time of a call, 10,000 rules to 1, 64 at once", "<=", 1.05, statistics.median(ratios), "x")


async def main(changes: int, rounds: int, seconds: float) -> int:
    measured = Measured()
    with tempfile.TemporaryDirectory(prefix="busmesh-bench-") as folder:
        home = Path(folder)
        async with Stage(home, control=True) as stage:
            each = LIGHT // PROCESSES
            places = [(stage.url, str(home), str(part * each), str(each)) for part in range(PROCESSES)]
            light = [stage.module("benchmarks.followers", *place) for place in places]
            operator = Operator.read(home)
            async with Mesh.connect(app="bench", socket=stage.socket("node-a")) as mesh:
                await convergence(mesh, operator, changes, measured)
                for process in light:
                    process.terminate()
                await calls(stage, mesh, operator, rounds, seconds, measured)
    compiled(measured)
    return 0 if measured.judge() else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    chosen = parser.parse_args()
    sys.exit(asyncio.run(main(chosen.changes, chosen.rounds, chosen.seconds)))
