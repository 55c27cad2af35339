"""`python -m benchmarks.calls [--rounds N] [--seconds S]`: calls through two agents beside plain nats-py.

A closed loop of 1, 16, 64 and 256 calls at once with 128 bytes each way, in queue mode and direct, interleaved with
plain request/reply on the same server, so that a noisy machine disturbs all of them. Exit 1 when a floor is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks.stage import Stage

AT_ONCE = (1, 16, 64, 256)
LONE = (1,)
LONE_TURNS = 3  # a round: what a lone call takes wavers most, from one second to the next
WAYS = {"queue": "echo", "direct": "echo-direct"}
# What is measured, at how many at once, and what it may not miss: a ratio to plain nats-py of the same round.
FLOORS = (
    ("rate", 64, ">=", 0.5, 0.8),
    ("rate", 256, ">=", 0.7, 1.0),
    ("p50", 1, "<=", 2.6, 2.2),
    ("p99", 64, "<=", 2.5, 2.5),
)
MEMORY_MIB = 70.0
Measured = dict[tuple[str, int], list[dict[str, float]]]


def ratio(measured: Measured, way: str, at_once: int, figure: str) -> float:
    """Return the median over the rounds of this way's figure by that of plain nats-py in the same round."""
    pairs = zip(measured[way, at_once], measured["nats-py", at_once], strict=True)
    return statistics.median(mine[figure] / plain[figure] for mine, plain in pairs)


def median(rows: Iterable[dict[str, float]], figure: str) -> float:
    return statistics.median(row[figure] for row in rows)


async def measure(stage: Stage, rounds: int, seconds: float) -> tuple[Measured, dict[str, float]]:
    """Run every load each round, in every order in turn: who comes after whom must not matter."""
    measured: Measured = {}
    cpu: dict[str, list[float]] = {}
    loads = [("nats-py", ("plain_call", stage.url))]
    loads += [(way, ("call", stage.socket("node-a"), service)) for way, service in WAYS.items()]
    orders = itertools.cycle(itertools.permutations(loads))
    for number in range(rounds):
        for at_once in AT_ONCE + LONE * (LONE_TURNS - 1):
            for way, command in next(orders):
                before = stage.cpu()
                row = await asyncio.to_thread(stage.client, *command, str(at_once), str(seconds))
                measured.setdefault((way, at_once), []).append(row)
                if at_once == 64 and way in WAYS:
                    cpu.setdefault("client", []).append(row["cpu_us"])
                    for name, used in stage.cpu().items():
                        cpu.setdefault(name, []).append((used - before[name]) / row["calls"] * 1e6)
        next(orders)  # there are as many turns as orders: each would have its own in every round
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return measured, {name: statistics.median(used) for name, used in cpu.items()}


def show(measured: Measured) -> None:
    heads = ("AT_ONCE", "WAY", "CALLS/S", "RATIO", "P50_MS", "RATIO", "P99_MS", "RATIO")
    print("{:>7} {:<8} {:>8} {:>6} {:>7} {:>6} {:>7} {:>6}".format(*heads))
    for at_once in AT_ONCE:
        for way in ("nats-py", *WAYS):
            rows = measured[way, at_once]
            rate, relative = median(rows, "rate"), ratio(measured, way, at_once, "rate")
            parts = [f"{at_once:>7} {way:<8} {rate:>8.0f} {relative:>6.2f}"]
            for figure in ("p50", "p99"):
                parts.append(f"{median(rows, figure):>7.2f} {ratio(measured, way, at_once, figure):>6.2f}")
            print(*parts)


def judge(measured: Measured, memory: dict[str, float]) -> bool:
    """Print each floor with what was measured, and return whether all hold."""
    good = True
    print(f"\n{'FLOOR':<32} {'MEASURED':>8}  RESULT")
    for figure, at_once, sense, floor, aim in FLOORS:
        for way in WAYS:
            value = ratio(measured, way, at_once, figure)
            held = value >= floor if sense == ">=" else value <= floor
            aimed = value >= aim if sense == ">=" else value <= aim
            good &= held
            word = "passed, aim reached" if aimed else "passed" if held else "MISSED"
            print(f"{f'{figure} at {at_once}, {way}: {sense} {floor}x':<32} {value:>8.2f}  {word} (aim {aim}x)")
    for name, mib in memory.items():
        if name.startswith("agent"):
            held = mib <= MEMORY_MIB
            good &= held
            print(f"{f'memory of {name}: <= {MEMORY_MIB:g} MiB':<32} {mib:>8.1f}  {'passed' if held else 'MISSED'}")
    return good


async def main(rounds: int, seconds: float) -> int:
    with tempfile.TemporaryDirectory(prefix="busmesh-bench-") as folder:
        async with Stage(Path(folder)) as stage:
            measured, cpu = await measure(stage, rounds, seconds)
            memory = {name: process.memory_info().rss / 2**20 for name, process in stage.processes.items()}
    show(measured)
    print(f"\n{'PROCESS':<16} {'CPU_US/CALL at 64':>18} {'RSS_MIB':>8}")
    for name, used in cpu.items():
        print(f"{name:<16} {used:>18.1f} {memory.get(name, float('nan')):>8.1f}")
    return 0 if judge(measured, memory) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    chosen = parser.parse_args()
    sys.exit(asyncio.run(main(chosen.rounds, chosen.seconds)))
