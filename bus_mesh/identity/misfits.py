"""Nodes that are heard and cannot be believed, for people to hear of: see `Misfit`."""

from typing import Final

from bus_mesh.identity.epochs import Now
from bus_mesh.identity.refusal import Misfit

__all__ = ["KEPT_US", "Misfits"]

KEPT_US: Final = 30_000_000
"""Microseconds that a node's word is kept: it says something every 5 s."""
MOST: Final = 1024


class Misfits:
    """The last word of each such node, of so many at most."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[int, Misfit]] = {}

    def __repr__(self) -> str:
        return f"Misfits({', '.join(self._heard)})"

    def note(self, error: Misfit, now: Now) -> None:
        """Keep what a node said."""
        self.forget(error.node)
        if len(self._heard) >= MOST:
            del self._heard[next(iter(self._heard))]  # the one heard longest ago
        # A new one: it holds no traceback.
        kept = Misfit(error.reason, error.message, error.node, error.boot, error.by_us, error.mark)
        self._heard[error.node] = now.boottime_us, kept

    def forget(self, node: str) -> None:
        """Forget a node that is believed again, or out for good."""
        self._heard.pop(node, None)

    def lately(self, now: Now) -> list[Misfit]:
        """Return what was heard not long ago, as of then."""
        return [error for at, error in self._heard.values() if now.boottime_us - at <= KEPT_US]
