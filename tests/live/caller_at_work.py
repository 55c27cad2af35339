"""A load of calls with deadlines, and the judgement of it against what services wrote down."""

import asyncio
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from bus_mesh_sdk import Mesh, MeshError, Ran
from mesh_world import NOISE

LATE = 0.1 + NOISE
"""Seconds past its deadline at which a call must have ended: 0.1 by contract, the rest for the machine."""
BETWEEN = 0.005
"""Seconds between readings of one clock that a test cannot make one: the load reads it before the SDK does, and the
service after the SDK has compared it with the deadline; a process may lose its processor there. What a stalled broker
holds back is late by far more."""


class Ended(NamedTuple):
    """One call as its caller saw it; times are monotonic seconds, `error` is "" for a success."""

    id: str
    idempotent: bool
    began: float
    until: float
    ended: float
    error: str
    ran: Ran


class Caller:
    """Makes so many calls a second until it is told to stop: half of them idempotent, with 1 to 2 s of time each.

    `more` is added to that time.
    """

    def __init__(self, mesh: Mesh, name: str, rate: float = 100.0, more: float = 0.0) -> None:
        self.calls: list[Ended] = []
        self._mesh = mesh
        self._name = name
        self._pause = 1 / rate
        self._more = more
        self._stop = asyncio.Event()
        self._random = random.Random(name)
        self._made = 0
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Make calls, evenly spread, and return when the last of them has ended."""
        due = time.monotonic()
        while not self._stop.is_set():
            self._running.add(task := asyncio.create_task(self._call(self._made)))
            task.add_done_callback(self._running.discard)
            self._made += 1
            due += self._pause
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        if self._running:
            await asyncio.wait(self._running)

    def stop(self) -> None:
        """Make no further call."""
        self._stop.set()

    async def enough(self, count: int, seconds: float = 30.0) -> None:
        """Return once so many more calls have succeeded."""
        wanted = self.succeeded + count
        async with asyncio.timeout(seconds):
            while self.succeeded < wanted:
                await asyncio.sleep(0.005)

    @property
    def succeeded(self) -> int:
        """How many calls have succeeded."""
        return sum(not call.error for call in self.calls)

    def first_after(self, at: float) -> Ended:
        """Return the success that ended first of the calls begun after `at`."""
        return min((call for call in self.calls if call.began >= at and not call.error), key=lambda call: call.ended)

    async def _call(self, number: int) -> None:
        id, idempotent = f"{self._name}-{number}", number % 2 == 0
        timeout, work = self._random.uniform(1.0, 2.0) + self._more, self._random.choice([0.0, 0.0, 0.05, 0.2])
        began = time.monotonic()
        until = began + timeout
        error, ran = "", Ran.YES
        params = {"id": id, "until": until, "work": work}
        try:
            await self._mesh.call("ledger", "read" if idempotent else "write", params, timeout=timeout)
        except MeshError as caught:
            error, ran = f"{caught.code.name}/{caught.wire_reason or caught.reason}", caught.ran
        self.calls.append(Ended(id, idempotent, began, until, time.monotonic(), error, ran))


class Verdict(NamedTuple):
    """What a load showed. Each list holds the calls that broke a promise, and must be empty."""

    calls: int
    errors: Counter[str]
    executions: int
    slowest: float
    hanging: list[Ended]
    late: list[dict[str, Any]]
    denied_and_ran: list[Ended]
    twice: list[Ended]
    vanished: list[Ended]

    @property
    def broken(self) -> dict[str, Any]:
        """Return the promises that were broken, with the first calls that show it."""
        named = self._asdict()
        return {name: named[name][:3] for name in self._fields[4:] if named[name]}

    def __str__(self) -> str:
        past = f"the last ended {self.slowest * 1000:+.0f} ms from its deadline"
        return f"{self.calls} calls, {self.executions} executions, failed {dict(self.errors)}, {past}"


def judge(calls: list[Ended], records: Path, first_way: float = 0.0) -> Verdict:
    """Hold what callers were told against what was executed.

    `first_way` is for callers whose agent was just started. An agent takes the fastest envelope of a sender for one
    that needed no time, since it knows nothing of the sender's clock; so what the very first one needed is not seen.
    """
    runs = [json.loads(line) for file in sorted(records.glob("*.record")) for line in file.read_text().splitlines()]
    ran = Counter(run["id"] for run in runs)
    return Verdict(
        calls=len(calls),
        errors=Counter(call.error for call in calls if call.error),
        executions=len(runs),
        slowest=max(call.ended - call.until for call in calls),
        hanging=[call for call in calls if call.ended > call.until + LATE],
        late=[run for run in runs if run["at"] > run["until"] + BETWEEN + first_way],
        denied_and_ran=[call for call in calls if call.ran is Ran.NO and ran[call.id]],
        twice=[call for call in calls if not call.idempotent and ran[call.id] > 1],
        vanished=[call for call in calls if not call.error and not ran[call.id]],
    )
