"""`python -m benchmarks.views`: what looking costs: a thousand instances listed, and calls that are watched.

A real agent among light nodes (`benchmarks/announcers.py` says what they are). Each command is a fresh process, as a
user starts it. Exit 1 when a floor is missed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bus_mesh_sdk import Mesh

from benchmarks.policy import Measured
from benchmarks.stage import Stage

NODES, EACH = 50, 20
TIMES = 9
CROWD = 'kind: Service\nname: crowd\naccess: {allow: [{from: [bench], methods: ["*"]}]}\n'
AT_ONCE, SECONDS = 64, 2.0
ROUNDS = 9


def busmesh(stage: Stage, *words: str) -> tuple[float, str]:
    """Run a command and return the seconds that it took, and what it printed."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "bus_mesh.cli", *words, "--app", "bench", "--socket", stage.socket("node-a")]
    environment = {**os.environ, "BUSMESH_HOME": str(stage.home)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr}")
    return time.perf_counter() - began, done.stdout


def quiet(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command whose output nobody reads."""
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


async def listed(stage: Stage, found: Measured) -> None:
    """Measure `get services` and the agent's memory among a thousand instances."""
    (stage.home / "policy" / "crowd.yaml").write_text(CROWD)
    stage.processes["agent node-a"].send_signal(signal.SIGHUP)
    command = [sys.executable, "-m", "benchmarks.announcers", stage.url, str(stage.home), str(NODES), str(EACH)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as light:  # noqa: ASYNC220 - nothing else runs
        try:
            assert light.stdout is not None
            assert light.stdout.readline() == "ready\n", "the light nodes ended"
            async with Mesh.connect(app="bench", socket=Path(stage.socket("node-a"))) as mesh:
                try:  # so that the agent follows the service, and its directory holds all of them
                    await mesh.call("crowd", "get", {}, timeout=2.0)
                except Exception as error:
                    print(f"a call to nobody ended as it should: {type(error).__name__}")
                instances = await mesh.call("busmesh", "instances", {}, timeout=5.0)
            seconds = []
            for _ in range(TIMES):
                took, text = busmesh(stage, "get", "services")
                assert f"{NODES * EACH}" in text, text
                seconds.append(took)
            print(
                f"{len(instances)} instances; get services took {', '.join(f'{1000 * one:.0f}' for one in seconds)} ms"
            )
            found.add("get services, 1,000 instances", "<=", 300.0, statistics.median(seconds) * 1000, "ms")
            memory = stage.processes["agent node-a"].memory_info().rss / 2**20
            found.add("agent that knows 1,000 instances", "<=", 100.0, memory, "MiB")
        finally:
            light.terminate()


async def watched(stage: Stage, found: Measured) -> None:
    """Measure calls while nobody looks, while somebody taps another service, and while somebody taps this one.

    Compared within each round, and in another order each time: a machine slows down for seconds on end.
    """
    rates: dict[str, list[float]] = {"nobody": [], "idle": [], "busy": []}
    looks = [("nobody", ""), ("idle", "echo-direct"), ("busy", "echo")]
    for _ in range(ROUNDS):
        looks.append(looks.pop(0))
        for what, service in looks:
            tap = None
            if service:
                words = ["tap", service, "--app", "bench", "--socket", stage.socket("node-a"), "-o", "json"]
                environment = {**os.environ, "BUSMESH_HOME": str(stage.home)}
                command = [sys.executable, "-m", "bus_mesh.cli", *words]
                tap = quiet(command, environment)
                await asyncio.sleep(1.5)
            socket = stage.socket("node-a")
            load = await asyncio.to_thread(stage.client, "call", socket, "echo", str(AT_ONCE), str(SECONDS))
            rates[what].append(load["rate"])
            if tap is not None:
                tap.terminate()
                tap.wait(10)
                await asyncio.sleep(0.2)
    for what, told in rates.items():
        print(f"calls a second, {what}: {', '.join(f'{rate:.0f}' for rate in told)}")
    found.add("calls lost to a tap on another service", "<=", 0.03, _lost(rates, "idle"), "")
    found.add("calls lost to a tap on this one, 100 a second", "<=", 0.10, _lost(rates, "busy"), "")


def _lost(rates: dict[str, list[float]], what: str) -> float:
    """Return the share of calls that a look costs, the median of what it cost in each round."""
    return statistics.median(1 - looked / alone for looked, alone in zip(rates[what], rates["nobody"], strict=True))


async def main() -> int:
    found = Measured()
    with tempfile.TemporaryDirectory() as folder:
        async with Stage(Path(folder)) as stage:
            await watched(stage, found)
            await listed(stage, found)
    return 0 if found.judge() else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
