"""The circuits to a service's instances: at most half of them are open, and never the last one.

When most instances fail, the fault is as a rule not theirs, and the few that are left would be overrun: half of them
are called on, whatever they answer (Envoy's maximum ejection and panic threshold).
"""

from collections.abc import Callable, Iterable
from typing import Final

from bus_mesh.policy import traffic
from bus_mesh.resilience.breaker import Breaker, State
from bus_mesh.resilience.charge import Charge

_CLOSED: Final = State.CLOSED  # an enum member costs 0.1 µs to look up by its class
_PROBING: Final = State.PROBING
_SUCCESS: Final = Charge.SUCCESS


class Circuits:
    """One circuit for each instance of a service. `jitter()` draws evenly from 0.0 to 1.0."""

    __slots__ = ("_breakers", "_jitter", "_policy", "open")

    def __init__(self, policy: traffic.Breaker, jitter: Callable[[], float]) -> None:
        self._policy = policy
        self._jitter = jitter
        self._breakers: dict[str, Breaker] = {}
        self.open = 0
        """Circuits that are not closed."""

    def __repr__(self) -> str:
        return f"Circuits(open={self.open}/{len(self._breakers)})"

    def follow(self, instances: Iterable[str]) -> None:
        """Have a circuit for each of these instances and no others, closing what is then open in excess of half."""
        self._breakers = {name: self._breakers.get(name) or Breaker(self._policy) for name in instances}
        opened = [breaker for breaker in self._breakers.values() if breaker.state is not _CLOSED]
        opened.sort(key=lambda breaker: breaker.due)
        excess = max(len(opened) - len(self._breakers) // 2, 0)
        for breaker in opened[:excess]:
            breaker.close()
        self.open = len(opened) - excess

    def of(self, instance: str) -> Breaker | None:
        """Return the circuit to an instance, None when it is not one of the service."""
        return self._breakers.get(instance)

    def book(self, instance: str, ticket: int, charge: Charge, now: float) -> None:
        """Book how the call with this ticket ended, and open the circuit where it must and may be opened."""
        breaker = self._breakers.get(instance)
        if breaker is None:
            return
        before = breaker.state
        jitter = 0.0 if charge is _SUCCESS else self._jitter()
        if breaker.book(ticket, charge, now, jitter):
            if self.open < len(self._breakers) // 2:
                breaker.open(now, jitter)
                self.open += 1
        elif before is _PROBING and breaker.state is _CLOSED:
            self.open -= 1
