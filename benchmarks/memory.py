"""`python -m benchmarks.memory [--calls N]`: what two agents hold while a million calls go through them, 64 at once.

Exit 1 when one of them holds over 70 MiB, or 2 MiB more at the end than after the first tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from benchmarks.stage import Stage

PARTS = 10
AT_ONCE = "64"
MOST_MIB, GROWTH_MIB = 70.0, 2.0


async def main(calls: int) -> int:
    held: dict[str, list[float]] = {}
    done = 0
    with tempfile.TemporaryDirectory(prefix="busmesh-bench-") as folder:
        async with Stage(Path(folder)) as stage:
            agents = {name: process for name, process in stage.processes.items() if name.startswith("agent")}
            print(f"{'CALLS':>9}  " + "  ".join(f"{name} MiB" for name in agents))
            while done < calls:
                row = await asyncio.to_thread(stage.client, "call", stage.socket("node-a"), "echo", AT_ONCE, "4")
                done += int(row["calls"])
                if done * PARTS < calls * (len(held.get("agent node-a", ())) + 1):
                    continue
                for name, process in agents.items():
                    held.setdefault(name, []).append(process.memory_info().rss / 2**20)
                print(f"{done:>9}  " + "  ".join(f"{mib[-1]:>{len(name) + 4}.1f}" for name, mib in held.items()))
    good = all(mib[-1] <= MOST_MIB and mib[-1] - mib[0] <= GROWTH_MIB for mib in held.values())
    print(
        "passed"
        if good
        else f"MISSED: over {MOST_MIB:g} MiB, or over {GROWTH_MIB:g} MiB more than after the first tenth"
    )
    return 0 if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    sys.exit(asyncio.run(main(parser.parse_args().calls)))
