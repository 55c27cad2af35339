"""What the mesh knows of a process that this agent started: does it serve, and has it nothing left to answer?

A process is known by its id and those of its descendants: a shell that starts the app is one with it.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from bus_mesh.agent.hosting import Hosting
from bus_mesh.agent.inbound import Instance
from bus_mesh.agent.local import Door
from bus_mesh.agent.session import LocalSession

__all__ = ["ALONE", "NodePresence", "Presence", "descends", "parent_of"]

_ANCESTORS_AT_MOST: Final = 64
_READY: Final = ("up", "drained")


class Presence(Protocol):
    """How processes stand to the mesh."""

    def serves(self, pid: int) -> bool:
        """Whether a process serves something, and callers may choose it."""

    async def retire(self, pid: int, patience: float) -> int:
        """Have nothing new come to a process; return how many calls it still has after `patience` seconds."""


class _Alone:
    """Processes that have nothing to do with a mesh: those that run count as ready."""

    def serves(self, pid: int) -> bool:
        return pid > 0

    async def retire(self, pid: int, patience: float) -> int:
        return 0


ALONE: Final[Presence] = _Alone()


class NodePresence:
    """Processes as one agent sees them."""

    def __init__(self, door: Door, hosting: Hosting) -> None:
        self._door = door
        self._hosting = hosting
        # Looked up once for each session: with 64 replicas that start, it is asked for thousands of times a second.
        self._lines: WeakKeyDictionary[LocalSession, frozenset[int]] = WeakKeyDictionary()

    def serves(self, pid: int) -> bool:
        """Whether an instance of the process is announced and in its group, and has answered its health check."""
        return any(one.state in _READY and (one.passed or not one.has_check) for one in self._instances(pid))

    async def retire(self, pid: int, patience: float) -> int:
        """Withdraw the instances of a process; return how many calls they still have after `patience` seconds."""
        return await self._hosting.retire(list(self._instances(pid)), patience)

    def _instances(self, pid: int) -> Iterable[Instance]:
        for session in self._door.sessions:
            if session.instances:
                line = self._lines.get(session)
                if line is None:
                    line = self._lines[session] = frozenset(line_of(session.peer.pid, parent_of))
                if pid in line:
                    yield from session.instances.values()


def descends(pid: int, ancestor: int, parent: Callable[[int], int]) -> bool:
    """Tell whether `pid` is `ancestor` or a child of a child of it, where `parent` gives a parent's id (0: none)."""
    return ancestor in line_of(pid, parent)


def line_of(pid: int, parent: Callable[[int], int]) -> Iterator[int]:
    """Return a process, its parent, and so on up to a process without one."""
    for _ in range(_ANCESTORS_AT_MOST):
        yield pid
        if pid <= 1:
            return
        pid = parent(pid)


def parent_of(pid: int) -> int:
    """Return the parent of a process of this machine, or 0 when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    # The command name stands in brackets and may hold any byte, brackets too: what counts starts after the last one.
    return int(stat[stat.rindex(b")") + 2 :].split()[1])
