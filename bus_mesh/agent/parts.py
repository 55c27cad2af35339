"""What gates share and what outlives any one path: counters, the directory, circuits, budgets, buckets, randomness."""

from collections.abc import Callable, Hashable, Iterator
from typing import Any, Final, Generic, NamedTuple, TypeVar

from bus_mesh.balance.directory import Directory, P
from bus_mesh.balance.outside import Outside
from bus_mesh.gates.balance import Waiting
from bus_mesh.gates.gate import Flight
from bus_mesh.gates.measure import Meter
from bus_mesh.gates.trace import Tracing
from bus_mesh.policy import traffic
from bus_mesh.policy.access import Verdict
from bus_mesh.protocol.call import Outcome
from bus_mesh.resilience.breaker import State
from bus_mesh.resilience.budget import RetryBudget
from bus_mesh.resilience.circuits import Circuits
from bus_mesh.resilience.rate import TokenBuckets

MOST: Final = 4096
"""Services, or methods with a word of their own, whose retries, circuits and tokens are each kept apart."""

K = TypeVar("K")
V = TypeVar("V")


class Luck(NamedTuple):
    """Randomness: `roll()` and `jitter()` draw evenly from 0 to below 1, `draw(n)` from 0 to n - 1."""

    draw: Callable[[int], int]
    jitter: Callable[[], float]
    roll: Callable[[], float]


class Told(NamedTuple):
    """Who hears of what gates do: `event(what, which)` counts one under a label.

    `denied` what policy refuses, or in audit would; `full(instance)` that an instance had no place for a call;
    `waited` for how many seconds one waited for a place; `copy(call, to)` that a call is to be copied to a service.
    """

    event: Callable[[str, str], None] = lambda what, which: None
    denied: Callable[[Flight, Verdict], None] = lambda call, verdict: None
    full: Callable[[Any], None] = lambda instance: None
    waited: Callable[[Flight, float], None] = lambda call, seconds: None
    copy: Callable[[Flight, str], None] = lambda call, to: None

    def counter(self, what: str) -> Callable[[str], None]:
        """Return who counts one kind of event."""
        return lambda which: self.event(what, which)


class Kept(Generic[K, V]):
    """What outlives paths, by key: it begins anew under another policy, and all of it does beyond `MOST`."""

    def __init__(self) -> None:
        self._kept: dict[K, tuple[Hashable, V]] = {}

    def of(self, key: K, policy: Any, make: Callable[[], V], *, keep: bool = True) -> V:
        """Return what is kept under `key` for an equal policy, else make it, and `keep` it."""
        held = self._kept.get(key)
        if held is None or held[0] != policy:
            held = policy, make()
            if keep:
                if len(self._kept) >= MOST:
                    self._kept.clear()
                self._kept[key] = held
        return held[1]

    def get(self, key: K) -> V | None:
        """Return what is kept under `key`."""
        held = self._kept.get(key)
        return None if held is None else held[1]

    def forget(self, key: K) -> None:
        """Have it begin anew, also under the policy that it was made for."""
        self._kept.pop(key, None)

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return iter([(key, value) for key, (_, value) in list(self._kept.items())])


class Parts(Generic[P]):
    """What the paths of one agent are made of. `wall()` returns the seconds since 1970."""

    def __init__(
        self,
        meter: Callable[[str, str, str, str], Meter],
        directory: Directory[P],
        ask: Callable[[str], None],
        luck: Luck,
        wall: Callable[[], float],
        told: Told,
    ) -> None:
        self.meter = meter
        self.directory = directory
        self.ask = ask
        self.luck = luck
        self.wall = wall
        self.told = told
        self.waiting = Waiting()
        self.watched: Callable[[str], Callable[[Flight, Outcome, float], None] | None] = lambda service: None
        """Returns who is shown the calls to a service, None while nobody watches them."""
        self.ask_outside: Callable[[str, float], bool] = lambda service, now: False
        """Has a plain service of NATS say where its endpoints are."""
        self.outside = Outside()
        """What is known of those."""
        self.tracing: Tracing | None = None
        """How calls are traced; None where they are not."""
        self._budgets: Kept[str, RetryBudget] = Kept()
        self._buckets: Kept[tuple[str, str, int], TokenBuckets] = Kept()
        self.circuits: Kept[tuple[str, str], Circuits] = Kept()
        """By service, and the method where that has a word of its own."""

    def meters(self, side: str, service: str, method: str) -> Callable[[str], Meter]:
        """Return who hands out the meter of one caller of one method."""
        return lambda caller: self.meter(side, service, method, caller)

    def budget(self, service: str, policy: traffic.Budget, *, keep: bool = True) -> RetryBudget:
        """Return the budget for the retries to a service; `keep` it, unless an app may have made up the name."""
        return self._budgets.of(service, policy, lambda: RetryBudget(policy), keep=keep)

    def circuits_of(self, service: str, scope: str, policy: traffic.Breaker, *, keep: bool = True) -> Circuits:
        """Return the circuits to the instances of a service; `keep` them, unless an app may have made up the name."""
        key = service, scope
        return self.circuits.of(key, policy, lambda: Circuits(policy, self.luck.jitter, self._turned), keep=keep)

    def buckets(self, service: str, scope: str, number: int, policy: traffic.Rate) -> TokenBuckets:
        """Return the buckets of the `number`th rate of a service."""
        return self._buckets.of((service, scope, number), policy, lambda: TokenBuckets(policy))

    def _turned(self, state: State) -> None:
        self.told.event("breaker_changes", state.value)
