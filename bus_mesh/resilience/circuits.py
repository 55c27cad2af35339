"""The circuits to a service's instances: at most half of them are open, and never the last one.

When most instances fail, the fault is as a rule not theirs, and the few that are left would be overrun: half of them
are called on, whatever they answer (Envoy's maximum ejection and panic threshold).
"""

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Final, Protocol, TypeVar

from bus_mesh.policy import traffic
from bus_mesh.resilience.breaker import Breaker, State
from bus_mesh.resilience.charge import Charge

_CLOSED: Final = State.CLOSED  # an enum member costs 0.1 µs to look up by its class
_PROBING: Final = State.PROBING
_SUCCESS: Final = Charge.SUCCESS
ANY: Final = -1
"""The ticket of a call whose instance the broker chose: it counts while the circuit to that is closed."""


class Identified(Protocol):
    """An instance."""

    @property
    def id(self) -> str:
        """Its id."""


I = TypeVar("I", bound=Identified)  # noqa: E741 - as good a letter as any


class Circuits:
    """One circuit for each instance of a service. `jitter()` draws evenly from 0.0 to 1.0.

    `told(state)` hears of each change of a circuit.
    """

    __slots__ = ("_breakers", "_jitter", "_told", "changes", "open", "policy")

    def __init__(
        self, policy: traffic.Breaker, jitter: Callable[[], float], told: Callable[[State], None] = lambda state: None
    ) -> None:
        self.policy = policy
        self._jitter = jitter
        self._told = told
        self._breakers: dict[str, Breaker] = {}
        self.open = 0
        """Circuits that are not closed."""
        self.changes = 0
        """Counts up whenever who admits calls may have changed."""

    def __repr__(self) -> str:
        return f"Circuits(open={self.open}/{len(self._breakers)})"

    def follow(self, instances: Iterable[str]) -> None:
        """Have a circuit for each of these instances and no others, closing what is then open in excess of half."""
        self._breakers = {name: self._breakers.get(name) or Breaker(self.policy) for name in instances}
        opened = [breaker for breaker in self._breakers.values() if breaker.state is not _CLOSED]
        opened.sort(key=lambda breaker: breaker.due)
        excess = max(len(opened) - len(self._breakers) // 2, 0)
        for breaker in opened[:excess]:
            breaker.close()
        self.open = len(opened) - excess
        self.changes += 1

    def of(self, instance: str) -> Breaker | None:
        """Return the circuit to an instance, None when it is not one of the service."""
        return self._breakers.get(instance)

    def fit(self, instances: Sequence[I], now: float) -> tuple[Sequence[I], float]:
        """Return those that admit a call now, and until when that holds if nothing changes: the next probe's time."""
        if not self.open:
            return instances, inf
        found, until = [], inf
        for instance in instances:
            breaker = self._breakers.get(instance.id)
            if breaker is None or breaker.admits(now):
                found.append(instance)
            elif breaker.state is State.OPEN:
                until = min(until, breaker.due)
        return found, until

    def enter(self, instance: str, now: float) -> int:
        """Let a call through to an instance, claiming the probe where one is due; return its ticket, 0 to refuse it."""
        breaker = self._breakers.get(instance)
        if breaker is None:
            return ANY
        if breaker.state is _CLOSED:
            return breaker.generation
        ticket = breaker.enter(now)
        if ticket:
            self.changes += 1
            self._told(_PROBING)
        return ticket

    def book(self, instance: str, ticket: int, charge: Charge, now: float) -> None:
        """Book how the call with this ticket ended, and open the circuit where it must and may be opened."""
        breaker = self._breakers.get(instance)
        if breaker is None:
            return
        before = breaker.state
        if before is _CLOSED:
            if ticket == ANY:
                ticket = breaker.generation
            if charge is _SUCCESS:
                if ticket == breaker.generation:
                    breaker.succeed(now)
                return
        jitter = 0.0 if charge is _SUCCESS else self._jitter()
        if breaker.book(ticket, charge, now, jitter):
            if self.open < len(self._breakers) // 2:
                breaker.open(now, jitter)
                self.open += 1
        elif before is _PROBING and breaker.state is _CLOSED:
            self.open -= 1
        if breaker.state is not before:
            self.changes += 1
            self._told(breaker.state)
