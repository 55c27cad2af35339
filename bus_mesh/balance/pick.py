"""Which instance gets a call that does not go to the broker's queue group. Pure: randomness is handed in."""

from collections.abc import Callable, Sequence
from math import log
from typing import Any, Self, TypeVar

from bus_mesh.balance.directory import Member

M = TypeVar("M", bound=Member[Any])


class Picker:
    """One way to pick, with what it has to remember. Instances in `avoid` are taken only when there is no other.

    `observes`: it goes by how fast instances answer.
    """

    def __init__(self, name: str, pick: Callable[[Sequence[Any]], Any], *, observes: bool = False) -> None:
        self._name = name
        self._pick = pick
        self.observes = observes

    def __repr__(self) -> str:
        return self._name

    def pick(self, members: Sequence[M], avoid: tuple[str, ...]) -> M | None:
        """Return an instance, or None when there is none."""
        if avoid:
            members = [member for member in members if member.id not in avoid] or members
        if not members:
            return None
        chosen: M = members[0] if len(members) == 1 else self._pick(members)
        return chosen

    @classmethod
    def random(cls, draw: Callable[[int], int]) -> Self:
        """Any instance with equal chance; `draw(n)` returns 0 to n - 1."""
        return cls("random", lambda members: members[draw(len(members))])

    @classmethod
    def round_robin(cls) -> Self:
        """One after the other."""
        turn = -1

        def pick(members: Sequence[Any]) -> Any:
            nonlocal turn
            turn += 1
            return members[turn % len(members)]

        return cls("round_robin", pick)

    @classmethod
    def least_request(cls, draw: Callable[[int], int]) -> Self:
        """The less busy one of two drawn at random (Mitzenmacher, The Power of Two Choices, 2001)."""

        def pick(members: Sequence[Any]) -> Any:
            first = draw(len(members))
            second = draw(len(members) - 1)
            return less_busy(members[first], members[second + (second >= first)])

        return cls("least_request", pick, observes=True)


def less_busy(a: M, b: M) -> M:
    """Return who has the lower average latency × (calls in flight + 1); `a` when they are equal.

    While one of the two has never answered, calls in flight decide alone: a newcomer is neither flooded nor shunned.
    """
    calls_a, calls_b = a.inflight + a.others + 1, b.inflight + b.others + 1
    level_a, level_b = a.latency.level, b.latency.level
    if level_a is None or level_b is None:
        return a if calls_a <= calls_b else b
    return a if level_a + log(calls_a) <= level_b + log(calls_b) else b
