"""`python -m benchmarks.signed [--rounds N] [--seconds S]`: signed calls beside sealed ones, in queue mode.

The same echo through the same two agents, once sealed and once under `envelope: signed` with receipts kept at both
ends, a lone call and 64 at once, interleaved. Prints ratios; no floor is set.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.stage import Stage

AT_ONCE = (1, 64)
WAYS = {"sealed": "echo", "signed": "echo-signed"}
Measured = dict[tuple[str, int], list[dict[str, float]]]


async def measure(stage: Stage, rounds: int, seconds: float) -> Measured:
    """Run both ways each round, each time in the other order."""
    measured: Measured = {}
    ways = list(WAYS.items())
    for number in range(rounds):
        for at_once in AT_ONCE:
            ways.reverse()
            for way, service in ways:
                load = ("call", stage.socket("node-a"), service, str(at_once), str(seconds))
                measured.setdefault((way, at_once), []).append(await asyncio.to_thread(stage.client, *load))
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return measured


def show(measured: Measured) -> None:
    print(f"{'AT_ONCE':>7} {'FIGURE':<8} {'SEALED':>9} {'SIGNED':>9} {'SIGNED/SEALED':>14}")
    for at_once in AT_ONCE:
        for figure, shown in (("rate", "calls/s"), ("p50", "P50 ms"), ("p99", "P99 ms")):
            sealed, signed = ([row[figure] for row in measured[way, at_once]] for way in WAYS)
            ratio = statistics.median(mine / plain for mine, plain in zip(signed, sealed, strict=True))
            middles = statistics.median(sealed), statistics.median(signed)
            print(f"{at_once:>7} {shown:<8} {middles[0]:>9.2f} {middles[1]:>9.2f} {ratio:>14.2f}")


def kept(home: Path) -> float:
    """Return the MiB of receipts that both agents keep."""
    return sum(path.stat().st_size for path in home.glob("node-*/state/receipts/*")) / 2**20


async def main(rounds: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="busmesh-bench-") as folder:
        async with Stage(Path(folder)) as stage:
            measured = await measure(stage, rounds, seconds)
        mib = kept(Path(folder))
    show(measured)
    print(f"\nreceipts kept at both agents: {mib:.1f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    chosen = parser.parse_args()
    asyncio.run(main(chosen.rounds, chosen.seconds))
