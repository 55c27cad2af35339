"""Which instance a call goes to that the broker's queue group does not get: by version, by nearness, and then one.

    fit instances ──▶ split ──▶ locality ──▶ hash, or the picker        split and locality may be absent

Pure: randomness is handed in. What depends on who is there is worked out when that changes, and never per call.
"""

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, Final, Generic, TypeVar

from bus_mesh.balance.directory import Member, View, ready
from bus_mesh.balance.locality import Levels, Locality
from bus_mesh.balance.pick import Picker
from bus_mesh.balance.ring import Ring
from bus_mesh.balance.split import Split, Subsets, fits

M = TypeVar("M", bound=Member[Any])

KEY_MISSING: Final = "key_missing"
SUBSET_MISSING: Final = "subset_missing"
"""Why a call was not placed as policy says: it has no key, or the part of the split whose turn it was has nobody."""


class Placement(Generic[M]):
    """The way to place the calls of one path. With `hashed`, calls with a key go by it, and only others to `picker`.

    `roll()` returns 0 to below 1; `astray(why)` counts the calls that were not placed as policy says.
    """

    def __init__(
        self,
        picker: Picker,
        roll: Callable[[], float],
        *,
        hashed: bool = False,
        split: Split | None = None,
        locality: Locality | None = None,
        astray: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._picker = picker
        self._roll = roll
        self._hashed = hashed
        self._split = split
        self._locality = locality
        self._astray = astray
        self._all: Sequence[M] = ()
        self._fit: Sequence[M] = ()
        self._subsets: Subsets[M] | None = None
        self._levels: dict[str, Levels[M]] = {}
        self._ring: Ring[M] = Ring()
        self._on_ring: Sequence[M] | None = None
        self._among: dict[int, frozenset[str]] = {}

    def __repr__(self) -> str:
        parts = [self._split, self._locality, "hash" if self._hashed else self._picker]
        return " > ".join(str(part) for part in parts if part is not None)

    @property
    def observes(self) -> bool:
        """Whether it matters to it how fast instances answer."""
        return self._picker.observes

    def reached(self, view: View[Any]) -> list[Any]:
        """Return who of a service may be picked: of those that a split gives calls to, where there is one."""
        split = self._split
        if split is None:
            return view.ready
        return ready(member for member in view.members if split.takes(member))

    def place(self, members: Sequence[M], fit: Sequence[M]) -> None:
        """Take over who is there, and who of them may be called now."""
        self._all, self._fit, self._levels, self._among = members, fit, {}, {}
        if self._split is not None:
            self._subsets = self._split.subsets(fit)

    def choose(self, key: str | None, avoid: tuple[str, ...] = (), once: str | None = None) -> M | None:
        """Return who gets a call, None when nobody is fit for it.

        `key` is what its way of balancing goes by, if it has one. `once` is its idempotency key: the same one comes to
        the same instance, however many calls that has, and whatever else policy says of the choice.
        """
        by = key if self._hashed and key is not None else once
        name, members = "", self._fit
        if self._subsets is not None:
            name, members, missing = self._subsets.choose(once if key is None else key, self._roll)
            if missing is not None:
                self._astray(SUBSET_MISSING)
        if self._locality is not None:
            # A roll would send the same key near once and far the next time; an idempotency key is not shared out.
            roll = self._roll if by is None else partial(_nearness, by) if once is None else _near
            members = self._levels_of(name, members).choose(roll, avoid)
        if by is not None:
            return self._by_key(by, members, avoid, bounded=once is None)
        if self._hashed:
            self._astray(KEY_MISSING)
        return self._picker.pick(members, avoid)

    def _levels_of(self, name: str, fit: Sequence[M]) -> Levels[M]:
        levels = self._levels.get(name)
        if levels is None:
            assert self._locality is not None
            known = [member for member in self._all if fits(member, name)] if name else self._all
            levels = self._levels[name] = self._locality.levels(known, {member.id for member in fit})
        return levels

    def _by_key(self, key: str, members: Sequence[M], avoid: tuple[str, ...], *, bounded: bool) -> M | None:
        if self._on_ring is not self._fit:
            self._ring.place(self._fit)
            self._on_ring = self._fit
        if not members:
            return None
        if members is self._all:
            return self._ring.pick(key, members[0].tally.inflight if bounded else None, avoid)
        among = self._among.get(id(members))  # such lists last until all is placed anew
        if among is None:
            among = self._among[id(members)] = frozenset(member.id for member in members)
        owner = self._ring.pick(key, None, avoid, among)
        if not bounded or owner is None or not owner.inflight:  # who has no call is never over its bound
            return owner
        return self._ring.pick(key, sum(member.inflight for member in members), avoid, among)


def _near() -> float:
    return 0.0


def _nearness(key: str) -> float:
    """Return the place of a key on [0, 1) between near and far; it tells nothing of its part of a split."""
    return int.from_bytes(blake2b(key.encode(), digest_size=4, person=b"near").digest()) / (1 << 32)
