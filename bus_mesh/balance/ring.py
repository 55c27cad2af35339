"""Which instance gets the calls of a key: consistent hashing with bounded loads.

Every instance stands at many points of a ring, and a key belongs to the instance at the next point. So if one comes or
goes, only the keys that it gets or had move. A key that is called a lot would sink its instance: none takes more than
`LOAD_FACTOR` × the average, and what is over goes to the next on the ring that has room (Mirrokni, Thorup and
Zadimoghaddam, Consistent Hashing with Bounded Loads, 2016).

Points depend on ids alone (BLAKE2b), so all agents that know the same instances agree, whatever their order.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from hashlib import blake2b
from math import inf
from struct import Struct
from typing import Any, Final, Generic, TypeVar

from bus_mesh.balance.directory import Member

M = TypeVar("M", bound=Member[Any])

POINTS: Final = 64
"""Points of each instance. The standard deviation of their shares of the keys is 1 / √64 of the average."""
LOAD_FACTOR: Final = (5, 4)
"""1.25 as a fraction, to be exact: the most that an instance takes, of the average."""
_WORDS: Final = Struct(">8Q")  # one digest of 64 bytes gives eight points


class Ring(Generic[M]):
    """The points of the instances of one service."""

    def __init__(self) -> None:
        self._members: dict[str, M] = {}
        self._points: list[int] = []
        self._owners: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"Ring(instances={len(self._members)}, points={len(self._points)})"

    def place(self, members: Iterable[M]) -> None:
        """Have exactly these instances on the ring. What was there already is not hashed again."""
        before, self._members = self._members, {member.id: member for member in members}
        gone = {point for id in before if id not in self._members for point in _points(id)}
        if gone:
            self._points = [point for point in self._points if point not in gone]
            for point in gone:
                self._owners.pop(point)
        for id in self._members:
            if id not in before:
                points = _points(id)
                self._points += points
                self._owners |= dict.fromkeys(points, id)
        self._points.sort()

    def pick(
        self, key: str, total: int | None, avoid: tuple[str, ...] = (), among: Collection[str] | None = None
    ) -> M | None:
        """Return who gets a call of `key`, None when the ring is empty. `total`: the sum of all instances' `inflight`.

        Instances in `avoid` are taken only when there is no other. While all others are full, the bound gives way, and
        without a `total` there is none. With `among` only instances of these ids are there, and `total` is their sum.
        """
        count = len(self._members) if among is None else len(among)
        capacity: float = inf
        if total is not None and count:
            capacity = -(-LOAD_FACTOR[0] * (total + 1) // (LOAD_FACTOR[1] * count))
        avoided = full = None
        for member in self._from(key):
            if among is not None and member.id not in among:
                continue
            if member.id in avoid:
                avoided = avoided or member
            elif member.inflight < capacity:
                return member
            else:
                full = full or member
        return full or avoided

    def _from(self, key: str) -> Iterator[M]:
        """Yield every instance once, in the order in which the ring offers them to `key`."""
        start = bisect_right(self._points, int.from_bytes(blake2b(key.encode(), digest_size=8, person=b"key").digest()))
        seen: set[str] = set()
        for index in range(start - len(self._points), start):
            owner = self._owners[self._points[index]]
            if owner not in seen:
                seen.add(owner)
                yield self._members[owner]
                if len(seen) == len(self._members):
                    return


def _points(id: str) -> list[int]:
    return [
        point
        for block in range(POINTS // 8)
        for point in _WORDS.unpack(blake2b(f"{id} {block}".encode(), person=b"instance").digest())
    ]
