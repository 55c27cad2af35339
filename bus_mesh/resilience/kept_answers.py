"""The answers of one instance by idempotency key: what comes twice runs once, for as long as its key is kept.

A key is taken by the call that runs, is kept with its answer, and is forgotten when its time is over, never earlier:
where there is no room, a new key is refused. So each key has its place from the start, and an answer for which no bytes
are left is kept as a word that says so. A call that did not run leaves its key to the next that has joined.

    take ──new──▶ RUNS ──keep──▶ ANSWERED ──its time is over──▶ forgotten
      │            │ ▲               ▲
      │       free │ │ handed on     │ those that joined are answered
      │            ▼ │               │
      └──known──▶ JOINS ─────────────┘          free, and nobody joined ──▶ forgotten
"""

from collections import OrderedDict
from collections.abc import Hashable
from enum import Enum
from heapq import heappop, heappush
from typing import Final, Generic, TypeVar

MOST_KEYS: Final = 10_000
"""Keys of one instance that are taken at once, running and answered."""
MOST_BYTES: Final = 16 * 1024 * 1024
"""Bytes of answers, and of what is set aside for keys."""
SET_ASIDE: Final = 1024
"""Bytes counted for each key beside its answer: its names, its digest, its place, and a word instead of an answer."""
MOST_JOINED: Final = 4096
"""Calls of one instance that wait for the answers of others."""
SHORTEST_DELAY: Final = 1.0
LONGEST_DELAY: Final = 60.0
"""Bounds of the seconds that a refused caller is told to wait."""

C = TypeVar("C", bound=Hashable)
A = TypeVar("A")


class Entry(Enum):
    """What becomes of a call with a key."""

    RUNS = "runs"
    """It is the first; it must `keep` its answer, or `free` the key."""
    JOINS = "joins"
    """It waits for the one that runs, until that is answered, hands on, or the call itself must `part`."""
    ANSWERED = "answered"
    REUSED = "reused"
    """The key stands for other parameters."""
    FULL = "full"
    """No new key has room."""
    CROWDED = "crowded"
    """The key is running, and nobody may join any more."""


class Key(Generic[C, A]):
    """A key that is taken: `runner` has the turn until there is an `answer`."""

    __slots__ = ("answer", "digest", "joined", "name", "runner", "size")

    def __init__(self, name: tuple[str, ...], digest: bytes, runner: C | None, answer: A | None = None) -> None:
        self.name = name
        self.digest = digest
        self.runner = runner
        self.answer = answer
        self.joined: OrderedDict[C, None] | None = None  # made for the few that are joined
        self.size = SET_ASIDE


class KeptAnswers(Generic[C, A]):
    """The keys of one instance, by (caller, method, key). `now` and `until` are in monotonic seconds."""

    __slots__ = ("_ends", "_keys", "_most", "_most_bytes", "_most_joined", "_number", "bytes", "joined")

    def __init__(self, most: int = MOST_KEYS, most_bytes: int = MOST_BYTES, most_joined: int = MOST_JOINED) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._most_joined = most_joined
        self._keys: dict[tuple[str, ...], Key[C, A]] = {}
        self._ends: list[tuple[float, int, Key[C, A]]] = []  # a heap, of the answered only: what runs ends by itself
        self._number = 0
        self.bytes = 0
        """Bytes taken."""
        self.joined = 0
        """Calls that wait for the answers of others."""

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"KeptAnswers(keys={len(self._keys)}, answered={len(self._ends)}, bytes={self.bytes})"

    def __getitem__(self, name: tuple[str, ...]) -> Key[C, A]:
        return self._keys[name]

    def take(self, name: tuple[str, ...], digest: bytes, call: C, now: float) -> Entry:
        """Say what becomes of a call with this key, whose parameters have this digest."""
        self._forget(now)
        key = self._keys.get(name)
        if key is None:
            if len(self._keys) >= self._most or self.bytes + SET_ASIDE > self._most_bytes:
                return Entry.FULL
            self._keys[name] = Key(name, digest, call)
            self.bytes += SET_ASIDE
            return Entry.RUNS
        if key.digest != digest:
            return Entry.REUSED
        if key.answer is not None:
            return Entry.ANSWERED
        if self.joined >= self._most_joined:
            return Entry.CROWDED
        if key.joined is None:
            key.joined = OrderedDict()
        key.joined[call] = None
        self.joined += 1
        return Entry.JOINS

    def keep(self, key: Key[C, A], answer: A, size: int, until: float, instead: A) -> list[C]:
        """Take in the answer, of `size` bytes, and return those that joined: theirs is in the key that they hold.

        The key is kept until then; where its answer has no room, who comes later finds `instead`.
        """
        joined = list(key.joined or ())
        self.joined -= len(joined)
        key.answer, key.runner, key.joined = answer, None, None
        if self.bytes + size > self._most_bytes:
            key = self._keys[key.name] = Key(key.name, key.digest, None, instead)
        else:
            key.size += size
            self.bytes += size
        self._number += 1
        heappush(self._ends, (until, self._number, key))
        return joined

    def free(self, key: Key[C, A]) -> C | None:
        """Give the key up, for its call did not run; return the one that joined and has the turn now, if any."""
        if not key.joined:
            del self._keys[key.name]
            self.bytes -= key.size
            return None
        key.runner, _ = key.joined.popitem(last=False)
        self.joined -= 1
        return key.runner

    def part(self, key: Key[C, A], call: C) -> None:
        """Forget a call that joined and waits no longer; nothing happens when it does not wait."""
        if key.joined and call in key.joined:
            del key.joined[call]
            self.joined -= 1

    def retry_after(self, now: float) -> float:
        """Return the seconds after which a refused caller may find room."""
        left = self._ends[0][0] - now if self._ends else 0.0
        return min(max(left, SHORTEST_DELAY), LONGEST_DELAY)

    def _forget(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, _, key = heappop(self._ends)
            del self._keys[key.name]
            self.bytes -= key.size
