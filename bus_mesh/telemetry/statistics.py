"""From what every agent has counted to what people look at: rates, success, percentiles of the time between two looks.

    agents ──each all it ever counted──▶ difference of two looks ──▶ cells of all nodes added up ──▶ rows

Pure, and without prometheus_client: the command line reads it. Counts only grow while a process lives; one that was
started anew begins at nothing, so what it has is all new.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

__all__ = ["CLIENT", "SERVER", "Key", "Look", "Row", "between", "percentile", "rows"]

CLIENT: Final = "client"
SERVER: Final = "server"
OK: Final = "OK"


class Key(NamedTuple):
    """What calls are told apart by. `side` is CLIENT for how apps saw them, SERVER for how they came to instances."""

    side: str
    service: str
    method: str
    caller: str
    code: str


Cells = dict[Key, tuple[float, ...]]
"""For each key: calls by bucket of time, one more for what is above all, then the sum of the seconds, then retries."""


class Look(NamedTuple):
    """What one agent had counted at one moment. `at` is monotonic seconds of that agent, `boot` its process."""

    node: str
    boot: str
    at: float
    bounds: tuple[float, ...]
    cells: Cells
    inflight: Mapping[tuple[str, str], int]

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> "Look":
        """Return what an agent answered to `stats`; raise ValueError, KeyError or TypeError for what it never says."""
        cells = {Key(*row[:5]): tuple(row[5]) for row in said["cells"]}
        inflight = {(side, service): count for side, service, count in said["inflight"]}
        return cls(said["node"], said["boot"], said["at"], tuple(said["bounds"]), cells, inflight)


class Row(NamedTuple):
    """Calls that have something in common, over a time: `seconds` long. Latencies are seconds, None without calls."""

    name: tuple[str, ...]
    calls: int
    good: int
    seconds: float
    p50: float | None
    p95: float | None
    p99: float | None
    retries: int
    codes: Mapping[str, int]

    @property
    def rps(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds if self.seconds > 0 else 0.0

    @property
    def success(self) -> float | None:
        """The share that succeeded; None without calls."""
        return self.good / self.calls if self.calls else None


def between(before: Look | None, after: Look) -> tuple[Cells, float]:
    """Return what was counted since an earlier look at the same node, and how many seconds that took.

    Without an earlier look at this process there is no such time: it is 0, and nothing was counted.
    """
    if before is None or before.boot != after.boot:
        return {}, 0.0
    found: Cells = {}
    for key, cell in after.cells.items():
        old = before.cells.get(key)
        new = cell if old is None else tuple(now - then for now, then in zip(cell, old, strict=True))
        if any(new):
            found[key] = new
    return found, after.at - before.at


def rows(
    parts: Iterable[tuple[Cells, float]], bounds: Sequence[float], by: Callable[[Key], tuple[str, ...] | None]
) -> list[Row]:
    """Add up the cells of all nodes by what `by` makes of their keys (None leaves one out); sorted by that."""
    sums: dict[tuple[str, ...], list[float]] = {}
    codes: dict[tuple[str, ...], dict[str, int]] = {}
    longest = 0.0
    for cells, seconds in parts:
        longest = max(longest, seconds)
        for key, cell in cells.items():
            name = by(key)
            if name is None:
                continue
            held = sums.setdefault(name, [0.0] * len(cell))
            for at, value in enumerate(cell):
                held[at] += value
            told = codes.setdefault(name, {})
            told[key.code] = told.get(key.code, 0) + int(sum(cell[: len(bounds) + 1]))
    return [_row(name, sums[name], codes[name], bounds, longest) for name in sorted(sums)]


def _row(
    name: tuple[str, ...], cell: Sequence[float], codes: Mapping[str, int], bounds: Sequence[float], seconds: float
) -> Row:
    counts = cell[: len(bounds) + 1]
    p50, p95, p99 = [percentile(counts, bounds, share) for share in (0.50, 0.95, 0.99)]
    return Row(name, int(sum(counts)), codes.get(OK, 0), seconds, p50, p95, p99, int(cell[-1]), codes)


def percentile(counts: Sequence[float], bounds: Sequence[float], share: float) -> float | None:
    """Return the seconds below which that share of the calls lies, by interpolation within its bucket.

    `counts` has one more than `bounds`: of what is above them all nothing is known but that, so it is the last bound.
    """
    total = sum(counts)
    if total <= 0:
        return None
    wanted, seen, low = share * total, 0.0, 0.0
    for count, high in zip(counts, bounds, strict=False):
        if count and seen + count >= wanted:
            return low + (high - low) * max(0.0, wanted - seen) / count
        seen += count
        low = high
    return low
