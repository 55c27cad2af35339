"""Our own epoch keys: one in use, and the retired ones that something still hangs on.

IN USE ──an hour, or the clock stepped──▶ RETIRED ──120 s, and nothing begun under it is open──▶ gone
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from bus_mesh.identity.keys import KEY_BYTES, EpochKey, key_id

__all__ = ["Epoch", "Epochs", "Now"]

RETIRED_US: Final = 120_000_000
"""How long a retired key is kept at least: twice the clock difference that is tolerated."""
STEP_US: Final = 1_000_000
"""How far the wall clock may step before a new key, with a new reading of it, is made."""


class Now(NamedTuple):
    """One reading of the three clocks: seconds of the loop, microseconds since boot, microseconds since 1970."""

    monotonic: float
    boottime_us: int
    wall_us: int


class Epoch:
    """One X25519 key of ours with its counter. `offset_us` turns boottime into a wall clock that never steps.

    Lives in one process only: a counter kept across a fork would seal two envelopes under one nonce.
    """

    __slots__ = ("counter", "holds", "id", "key", "made_us", "offset_us", "retired_us")

    def __init__(self, key: EpochKey, id: bytes, now: Now) -> None:
        self.key = key
        self.id = id
        self.counter = 0
        self.holds = 0
        self.made_us = now.boottime_us
        self.offset_us = now.wall_us - now.boottime_us
        self.retired_us: int | None = None

    def __repr__(self) -> str:
        state = "in use" if self.retired_us is None else "retired"
        return f"Epoch({self.id.hex()}, {state}, counter={self.counter}, holds={self.holds})"


class Epochs:
    """The epoch keys of this process."""

    __slots__ = ("_entropy", "_mesh", "_node", "_rotate_us", "by_id", "current", "previous")

    def __init__(self, mesh: str, node: str, entropy: Callable[[int], bytes], now: Now, rotate_every: float) -> None:
        self._mesh, self._node = mesh, node
        self._entropy = entropy
        self._rotate_us = round(rotate_every * 1e6)
        self.by_id: dict[bytes, Epoch] = {}
        self.previous: Epoch | None = None
        self.current = self._make(now)

    def __repr__(self) -> str:
        return f"Epochs({', '.join(map(repr, self.by_id.values()))})"

    def due(self, now: Now) -> bool:
        """Tell whether it is time for a new key: an hour is over, or the wall clock stepped by more than a second."""
        stepped = abs(now.wall_us - now.boottime_us - self.current.offset_us) > STEP_US
        return stepped or now.boottime_us - self.current.made_us >= self._rotate_us

    def rotate(self, now: Now) -> None:
        """Put a new key in use and retire the old one.

        Counting goes on: a counter names one envelope of this process, whichever key it was sealed under.
        """
        self.previous = self.current
        self.current.retired_us = now.boottime_us
        self.current = self._make(now)
        self.current.counter = self.previous.counter

    def sweep(self, now: Now) -> list[bytes]:
        """Forget retired keys that nothing hangs on any more; return their ids."""
        gone = [
            epoch.id
            for epoch in self.by_id.values()
            if epoch.retired_us is not None and not epoch.holds and now.boottime_us - epoch.retired_us >= RETIRED_US
        ]
        for id in gone:
            if self.by_id.pop(id) is self.previous:
                self.previous = None
        return gone

    def _make(self, now: Now) -> Epoch:
        key = EpochKey(self._entropy(KEY_BYTES))
        epoch = Epoch(key, key_id(self._mesh, self._node, key.public), now)
        self.by_id[epoch.id] = epoch
        return epoch
