"""Work that operators asked for and that takes a while: it goes on whoever watches, and says how far it is.

    begun ──lines of progress──▶ done: what was done, or what went wrong

Who asked looks at it with a cursor, as often as they like. What nobody looks at any more is forgotten in its turn.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from bus_mesh.protocol.errors import MeshError, NotFound, Ran
from bus_mesh.telemetry.log import get_logger

__all__ = ["Jobs", "Work"]

KEPT: Final = 64
"""Jobs that can be looked at; the oldest that is done goes first."""
MOST_LINES: Final = 1024

Tell = Callable[[str], None]
Work = Callable[[Tell], Awaitable[str]]
"""Does something, tells lines meanwhile, and returns what was done; raises MeshError when it could not be."""


class _Job:
    def __init__(self, verb: str) -> None:
        self.verb = verb
        self.lines: list[str] = []
        self.done: str | None = None
        self.error: str | None = None

    @property
    def over(self) -> bool:
        return self.done is not None or self.error is not None

    def tell(self, line: str) -> None:
        if len(self.lines) < MOST_LINES:
            self.lines.append(line)


class Jobs:
    """What goes on, and what lately did. `spawn` runs what ends with the agent."""

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._spawn = spawn
        self._jobs: OrderedDict[int, _Job] = OrderedDict()
        self._count = 0
        self._log = get_logger("jobs")

    def __repr__(self) -> str:
        return f"Jobs(going={sum(not job.over for job in self._jobs.values())}, kept={len(self._jobs)})"

    def begin(self, verb: str, work: Work) -> int:
        """Begin to work; return the number to look at it by."""
        self._count += 1
        job = self._jobs[self._count] = _Job(verb)
        over = [number for number, kept in self._jobs.items() if kept.over]
        for number in over[: max(0, len(self._jobs) - KEPT)]:
            del self._jobs[number]
        self._spawn(self._run(job, work))
        return self._count

    def look(self, number: int, cursor: int) -> dict[str, Any]:
        """Return the lines from `cursor` on, the next cursor, and what came of it once it is over."""
        job = self._jobs.get(number)
        if job is None:
            raise NotFound(f"there is no job {number} here: it is long over, or the agent was started anew", ran=Ran.NO)
        lines = job.lines[max(0, cursor) :]
        return {"lines": lines, "cursor": len(job.lines), "over": job.over, "done": job.done, "error": job.error}

    async def _run(self, job: _Job, work: Work) -> None:
        try:
            job.done = await work(job.tell)
        except MeshError as error:
            job.error = error.message
        except asyncio.CancelledError:
            job.error = "the agent ended"
            raise
        except Exception as error:
            self._log.error("job failed", verb=job.verb, exc_info=error)
            job.error = f"{job.verb} failed; the agent's log says why"
        self._log.info("job over", verb=job.verb, done=job.done, error=job.error)
