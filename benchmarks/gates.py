"""`python -m benchmarks.gates [--rounds N] [--seconds S]`: what retries, circuits, limits and balancing cost a call.

First each gate by itself, on the way of a call that succeeds: `enter` and `leave` in a loop, the loop itself taken off,
the best of several runs. Then whole calls, 64 at once through two agents, with all that policy has on by default beside
the same with it off, in turn. What metrics cost is the two gates that measure, of the processor time of a whole call.
Exit 1 when a floor is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.stage import Stage
from bus_mesh.agent.inbound import Instance
from bus_mesh.agent.parts import Luck, Parts, Told
from bus_mesh.agent.path import inbound, outbound
from bus_mesh.balance.directory import Directory, Member
from bus_mesh.balance.pick import Picker
from bus_mesh.gates.gate import Flight, Gate
from bus_mesh.gates.gate import Path as Way
from bus_mesh.policy.access import Access
from bus_mesh.policy.bundle import PolicySet
from bus_mesh.policy.load import parse
from bus_mesh.protocol.call import Outcome
from bus_mesh.telemetry.metrics import Metrics

ON = """\
kind: Service
name: orders
access: {{allow: [{{from: [web], methods: ["*"]}}]}}
traffic:
  balance: {balance}
  rate: [{{per: caller, limit: 1000000/s, burst: 1000000}}]
  fault: {{abort: unavailable, percent: 0%, until: 2100-01-01T00:00:00Z}}
  mirror: {{to: orders-next, percent: 0%}}
"""
OURS = frozenset(("Mirror", "Inject", "Retry", "Balance", "Breaker", "Rate", "Limit"))
GATE_US = 1.0
PICK_US = 3.0
RATE = 0.9
METRICS = 0.05
LOOPS, RUNS = 20_000, 9


def draw(n: int) -> int:
    """Return 0 to n - 1, as an agent draws it."""
    return int(random.random() * n)


class Announced(NamedTuple):
    id: str
    version: str = "1.0.0"
    labels: dict[str, str] = {}  # noqa: RUF012 - never changed
    state: str = "up"
    load: int = 0


class Offer(NamedTuple):
    service: str
    instances: tuple[Announced, ...]
    methods: tuple[()] = ()


def directory(instances: int) -> Directory[str]:
    known: Directory[str] = Directory(draw)
    known.follow("orders")
    known.update("n", "b", "peer", [Offer("orders", tuple(Announced(f"i{n}") for n in range(instances)))], 1e9, 0.0)
    return known


def best_us(work: Callable[[int], None]) -> float:
    """Return the µs of processor time of one turn of the quickest of several runs."""
    took = []
    for _ in range(RUNS):
        began = time.process_time()
        work(LOOPS)
        took.append((time.process_time() - began) / LOOPS * 1e6)
    return min(took)


def gate_us(gate: Gate, call: Flight, outcome: Outcome, target: Any) -> float:
    """Return what a gate adds to a call that succeeds."""
    enter = gate.enter if type(gate).enter is not Gate.enter else None
    leave = gate.leave if type(gate).leave is not Gate.leave and not gate.failures_only else None

    def work(loops: int) -> None:
        now = 100.0
        for _ in range(loops):
            now += 1e-5
            call.target = target
            if enter is not None:
                enter(call, now)
            if leave is not None:
                leave(call, outcome, now)

    def nothing(loops: int) -> None:
        now = 100.0
        for _ in range(loops):
            now += 1e-5
            call.target = target
            if enter is not None:
                pass
            if leave is not None:
                pass

    return best_us(work) - best_us(nothing)


def table() -> list[tuple[str, str, float]]:
    """Return (side, gate, µs) of every gate that there is."""
    metrics = Metrics()
    known = directory(3)
    view = known.view("orders")
    assert view is not None
    told = Told(metrics.count)
    luck = Luck(draw, random.random, random.random)
    parts: Parts[str] = Parts(
        lambda side, *names: metrics.client.child(*names), known, lambda service: None, luck, time.time, told
    )
    rows = []
    for balance in ("queue", "least_request"):
        policy = PolicySet.of(parse(ON.format(balance=balance), "policy"))
        path = outbound(parts, Access(policy), policy, {}, "orders", "get")
        call, outcome = flight(path), Outcome("i0", b"")
        member = known.member("orders", "i0")
        outcome.member = member
        for gate in path.gates:
            name = type(gate).__name__
            if balance == "queue" or name in ("Balance", "Breaker"):
                direct = balance != "queue" and name == "Breaker"
                us = gate_us(gate, call, outcome, member if direct else view)
                rows.append(("outbound", f"{name} ({balance})" if name in ("Balance", "Breaker") else name, us))
    path = inbound(parts, Access(policy), policy, "orders", "get")
    instance = Instance("i0", "orders", "1", {}, {}, None)  # type: ignore[arg-type]  # no session is asked
    rows += [("inbound", type(gate).__name__, gate_us(gate, flight(path), outcome, instance)) for gate in path.gates]
    return rows


def flight(path: Way) -> Flight:
    call = Flight(path, None, 1, "orders", "get", "web", None, b"", 100.0, 1e9)
    call.tried_at = 100.0
    return call


def pick_us(instances: int = 1000) -> float:
    """Return what choosing one of so many instances by least_request takes."""
    members: list[Member[str]] = list(directory(instances).view("orders").ready)  # type: ignore[union-attr]
    for member in members:
        member.latency.observe(random.random(), 100.0)
    pick = Picker.least_request(draw).pick

    def work(loops: int) -> None:
        for _ in range(loops):
            pick(members, ())

    return best_us(work)


async def rates(rounds: int, seconds: float) -> tuple[dict[str, list[float]], float]:
    """Return calls per second of each round, with everything on and with everything off.

    And the µs of processor time, of all processes, that a call takes with everything off.
    """
    found: dict[str, list[float]] = {"echo": [], "echo-bare": []}
    spent = []
    with tempfile.TemporaryDirectory(prefix="busmesh-bench-") as folder:
        async with Stage(Path(folder)) as stage:
            for number in range(rounds):
                for service in list(found)[:: 1 if number % 2 else -1]:
                    before = sum(stage.cpu().values())
                    row = await asyncio.to_thread(
                        stage.client, "call", stage.socket("node-a"), service, "64", str(seconds)
                    )
                    found[service].append(row["rate"])
                    if service == "echo-bare":
                        spent.append((sum(stage.cpu().values()) - before) / row["calls"] * 1e6 + row["cpu_us"])
    return found, statistics.median(spent)


def main(rounds: int, seconds: float) -> int:
    good = True
    print(f"{'SIDE':<9} {'GATE':<24} {'US':>6}  RESULT")
    rows = table()
    for side, name, us in rows:
        ours = name.partition(" ")[0] in OURS
        held = us <= GATE_US + PICK_US * (name == "Balance (least_request)")  # with a choice of an instance in it
        good &= held or not ours
        print(f"{side:<9} {name:<24} {us:>6.2f}  {('passed' if held else 'MISSED') if ours else ''}".rstrip())
    us = pick_us()
    good &= us <= PICK_US
    print(f"\nleast_request among 1,000 instances: {us:.2f} us a choice (<= {PICK_US:g}): {_word(us <= PICK_US)}")
    found, whole = asyncio.run(rates(rounds, seconds))
    ratio = statistics.median(on / off for on, off in zip(found["echo"], found["echo-bare"], strict=True))
    on, off = (statistics.median(found[name]) for name in ("echo", "echo-bare"))
    good &= ratio >= RATE
    print(f"64 at once: {on:.0f} calls/s with it on, {off:.0f} off: {ratio:.3f} (>= {RATE:g}): {_word(ratio >= RATE)}")
    metrics = sum(us for _, name, us in rows if name == "Measure")
    part = metrics / whole
    good &= part <= METRICS
    word = _word(part <= METRICS)
    print(f"metrics: {metrics:.2f} of the {whole:.0f} us of a call, {part:.1%} (<= {METRICS:.0%}): {word}")
    return 0 if good else 1


def _word(held: bool) -> str:
    return "passed" if held else "MISSED"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.5)
    chosen = parser.parse_args()
    sys.exit(main(chosen.rounds, chosen.seconds))
