"""Which calls are copied to another service. The copy's answer is dropped: it delays and fails nothing."""

from collections.abc import Callable


class Mirror:
    """Copies `percent` of the calls (0 to 100) to the service `to`."""

    def __init__(self, to: str, percent: float) -> None:
        self._to = to
        self._share = percent / 100

    def __repr__(self) -> str:
        return f"Mirror(to={self._to}, {self._share:.4%})"

    def choose(self, roll: Callable[[], float]) -> str | None:
        """Return the service that gets a copy of this call, or None; `roll()` returns 0 to below 1."""
        return self._to if roll() < self._share else None
