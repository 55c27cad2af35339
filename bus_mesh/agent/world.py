"""What one agent is handed from outside: clocks, randomness, and what its owner chose."""

from collections.abc import Callable
from typing import NamedTuple

from bus_mesh.identity.keyring import Now

__all__ = ["Setting", "World"]


class World(NamedTuple):
    """What an agent takes from outside: clocks and randomness. `monotonic` is one of the three that `clock` reads."""

    clock: Callable[[], Now]
    monotonic: Callable[[], float]
    entropy: Callable[[int], bytes]
    draw: Callable[[int], int]
    jitter: Callable[[], float]


class Setting(NamedTuple):
    """What its owner chose for one node."""

    labels: dict[str, str]
    rotate_every: float
    home: str | None
    own_uid: int
    boot_started_us: int | None = None
    """When this process started, later than any start before it; None takes the wall clock's word."""
