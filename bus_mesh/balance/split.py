"""Which version of a service gets a call: subsets of its instances, by weight.

A subset is a major version ("1") or a label ("track=canary"). A key that is given stays with its subset for as long as
the weights stand: its hash is a fixed place on [0, 1), of which each subset has its share, laid out in the order of
their names whatever order they are written in. The hash is not the one of `ring.py`, or a subset with a tenth of the
keys would use a tenth of its ring.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import Any, Final, Generic, NamedTuple, TypeVar

from bus_mesh.balance.directory import Member

M = TypeVar("M", bound=Member[Any])

_PLACES: Final = 1 << 53
"""As many places on [0, 1) as a float can tell apart evenly."""


class Chosen(NamedTuple, Generic[M]):
    """The instances to pick from, and the subset that they are.

    `missing` names the subset whose turn it was while it had no instance.
    """

    name: str
    members: Sequence[M]
    missing: str | None


class Subsets(Generic[M]):
    """The instances of each subset that has a weight; made when the directory changes."""

    def __init__(self, weights: Sequence[tuple[str, int]], members: Mapping[str, Sequence[M]]) -> None:
        self._members = members
        self._all = _Shares(weights)
        self._present = _Shares([(name, weight) for name, weight in weights if members[name]])

    def __repr__(self) -> str:
        return f"Subsets({ {name: len(members) for name, members in self._members.items()} })"

    def choose(self, key: str | None, roll: Callable[[], float]) -> Chosen[M]:
        """Return who may get a call of `key`, or without a key of a roll; `roll()` returns 0 to below 1.

        A missing subset's calls are shared out to the others by their weights, and no other call moves by it. With
        no subset left there is nobody: an instance that fits no subset with a weight gets no calls.
        """
        name, within = self._all.at(roll() if key is None else _place(key))
        members = self._members[name]
        if members:
            return Chosen(name, members, None)
        if not self._present.total:
            return Chosen(name, members, name)
        # Where it falls within the missing share is a place on [0, 1) too, and as even.
        other = self._present.at(within)[0]
        return Chosen(other, self._members[other], name)


class Split:
    """Weights by the name of a subset; ValueError when all of them are 0."""

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._weights = sorted((name, weight) for name, weight in weights.items() if weight > 0)
        if not self._weights:
            raise ValueError(f"split {dict(weights)}: all weights are 0, give one of them calls")

    def __repr__(self) -> str:
        return f"Split({dict(self._weights)})"

    def takes(self, member: Member[Any]) -> bool:
        """Tell whether an instance gets any calls."""
        return any(fits(member, name) for name, _ in self._weights)

    def subsets(self, members: Sequence[M]) -> Subsets[M]:
        """Sort a service's instances by subset; one can be in several."""
        return Subsets(self._weights, {name: [it for it in members if fits(it, name)] for name, _ in self._weights})


def fits(member: Member[Any], name: str) -> bool:
    """Tell whether an instance belongs to the subset of that name."""
    label, equals, value = name.partition("=")
    if equals:
        return member.labels.get(label) == value
    return member.version.partition(".")[0] == name


class _Shares:
    """[0, 1) divided by weight."""

    def __init__(self, weights: Sequence[tuple[str, int]]) -> None:
        self._weights = weights
        self._ends = list(accumulate(weight for _, weight in weights))
        self.total = self._ends[-1] if weights else 0

    def at(self, place: float) -> tuple[str, float]:
        """Return whose share a place is in, and where within it, as a place on [0, 1)."""
        at = place * self.total
        index = bisect_right(self._ends, at)
        name, weight = self._weights[index]
        return name, (at - (self._ends[index] - weight)) / weight


def _place(key: str) -> float:
    return (int.from_bytes(blake2b(key.encode(), digest_size=8, person=b"split").digest()) >> 11) / _PLACES
