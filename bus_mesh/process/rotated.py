"""What children print, in files of bounded size: where wanted each line with the time it came, the oldest file dropped.

    orders.log ──full──▶ orders.log.1 ──next time──▶ orders.log.2 ──next time──▶ gone

Standard library and a single thread, because the keeper carries it out. A child writes into a pipe and never waits for
longer than a disk takes; what a disk refuses is lost, and the child goes on.
"""

import contextlib
import os
import selectors
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bus_mesh import clock

__all__ = ["KEPT_FILES", "MOST_BYTES", "Logs", "Rotated", "older", "stamped"]

MOST_BYTES: Final = 10 * 1024 * 1024
"""Bytes of one file, give or take a chunk."""
KEPT_FILES: Final = 3
"""Files of one log, the one that is written included."""
_CHUNK: Final = 64 * 1024


def older(path: Path, number: int) -> Path:
    """Return where the file before the last `number` rotations is; 0 is the one that is written."""
    return path.with_name(f"{path.name}.{number}") if number else path


def stamped(data: bytes, stamp: bytes, at_start: bool) -> bytes:
    """Return the data with the stamp before each line that begins in it; `at_start` says that one begins at once."""
    marked = data.replace(b"\n", b"\n" + stamp)
    if data.endswith(b"\n"):
        marked = marked[: -len(stamp)]
    return stamp + marked if at_start else marked


def now_stamp() -> bytes:
    """Return the wall clock as lines begin with it: 2026-01-31T12:00:00.000Z and a space."""
    now = datetime.fromtimestamp(clock.wall_us() / 1e6, UTC)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z ").encode()


class Rotated:
    """One log. Raises OSError when it cannot be opened; later failures only lose what was to be written."""

    def __init__(self, path: Path, most: int = MOST_BYTES, kept: int = KEPT_FILES) -> None:
        self.users = 0
        self._path, self._most, self._kept = path, most, kept
        self._open()

    def __repr__(self) -> str:
        return f"Rotated({self._path}, {self._size} bytes)"

    def write(self, data: bytes) -> None:
        """Add to the log, in a new file when this one is full."""
        with contextlib.suppress(OSError):
            if self._size >= self._most:
                self._rotate()
            self._size += os.write(self._file, data)

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._file).st_size

    def _rotate(self) -> None:
        for number in range(self._kept - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                older(self._path, number - 1).replace(older(self._path, number))
        full = self._file
        self._open()
        os.close(full)


class _Source:
    """One child's pipe; `at_start` while a line begins with what comes next, which gets its time with `stamp`."""

    def __init__(self, path: str, log: Rotated, stamp: bool) -> None:
        self.path, self.log, self.stamp, self.at_start = path, log, stamp, True


class Logs:
    """The pipes that children print into, read when `selector` says so. Two children may share a file."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._logs: dict[str, Rotated] = {}
        self._sources: dict[int, _Source] = {}

    def __repr__(self) -> str:
        return f"Logs({sorted(self._logs)})"

    def open(self, path: str, *, stamp: bool) -> int:
        """Return the writing end of a new pipe into the log at `path`; raise OSError when there cannot be one.

        With `stamp` each line gets its time; what programs write that say it themselves is kept as it is.
        """
        log = self._logs.get(path)
        if log is None:
            log = self._logs[path] = Rotated(Path(path))
        log.users += 1
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self._sources[reading] = _Source(path, log, stamp)
        self._selector.register(reading, selectors.EVENT_READ, self)
        return writing

    def read(self, pipe: int) -> bool:
        """Write what is in a pipe to its log, a chunk at most; False when there is nothing now."""
        source = self._sources[pipe]
        try:
            data = os.read(pipe, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._end(pipe)
            return False
        source.log.write(stamped(data, now_stamp(), source.at_start) if source.stamp else data)
        source.at_start = data.endswith(b"\n")
        return True

    def catch_up(self) -> None:
        """Write all that children have printed until now, so that the end of one is told after its last words."""
        for pipe in list(self._sources):
            for _ in range(32):  # what a pipe can hold, and no end where somebody goes on printing
                if not self.read(pipe):
                    break

    def _end(self, pipe: int) -> None:
        source = self._sources.pop(pipe)
        self._selector.unregister(pipe)
        os.close(pipe)
        source.log.users -= 1
        if not source.log.users:
            source.log.close()
            del self._logs[source.path]
