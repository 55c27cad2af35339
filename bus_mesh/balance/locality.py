"""Near instances first: those that have a label's value in common with the caller, until too few of them are fit.

Who is near and who is far are two levels, as Envoy's priority levels are. With the fit ones of all that a level has,

    reach(level) = min(1, fit / all / spill_below)
    near share   = near reach                                when far can reach for the rest
                 = near reach / (near reach + far reach)     when both are short of fit instances

so at `spill_below` or more every call stays near, and below it what is lacking goes to far in proportion: with 70%
and half of the near ones fit, 0.5 / 0.7 = 71% stay. Envoy writes the same bound as its reciprocal, an overprovisioning
factor (1.4 is 71.4%).
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Generic, TypeVar

from bus_mesh.balance.directory import Member

M = TypeVar("M", bound=Member[Any])


class Levels(Generic[M]):
    """The fit instances of a service by level, and the share of calls that stays near; made when either changes."""

    def __init__(self, near: Sequence[M], far: Sequence[M], share: float) -> None:
        self._near = near
        self._far = far
        self._share = share

    def __repr__(self) -> str:
        return f"Levels(near={len(self._near)}, far={len(self._far)}, share={self._share:.2f})"

    def choose(self, roll: Callable[[], float], avoid: tuple[str, ...] = ()) -> Sequence[M]:
        """Return the instances to pick from; `roll()` returns 0 to below 1. Empty when nobody is fit.

        A level of which all are in `avoid` is left for the other: a retry rather goes far than to who has just failed.
        """
        share = self._share
        near = share >= 1.0 or (share > 0.0 and roll() < share)
        chosen, other = (self._near, self._far) if near else (self._far, self._near)
        if avoid and other and all(member.id in avoid for member in chosen):
            return other
        return chosen


class Locality:
    """Prefers instances whose label `prefer` is `here`, the caller's own; None when the caller has no such label.

    `spill_below` is in hundredths, as people write it: 70.0.
    """

    def __init__(self, prefer: str, here: str | None, spill_below: float) -> None:
        self._prefer = prefer
        self._here = here
        self._bound = spill_below / 100

    def __repr__(self) -> str:
        return f"Locality({self._prefer}={self._here}, spill_below={self._bound:.0%})"

    def levels(self, members: Sequence[M], fit: Collection[str]) -> Levels[M]:
        """Sort what a service has by level; `fit` are the ids of those that may be called now."""
        near: list[M] = []
        far: list[M] = []
        for member in members:
            is_near = self._here is not None and member.labels.get(self._prefer) == self._here
            (near if is_near else far).append(member)
        fit_near = [member for member in near if member.id in fit]
        fit_far = [member for member in far if member.id in fit]
        share = self._reach(fit_near, near)
        total = share + self._reach(fit_far, far)
        if 0.0 < total < 1.0:
            share /= total
        return Levels(fit_near, fit_far, share)

    def _reach(self, fit: Sequence[M], known: Sequence[M]) -> float:
        """Return the share of all calls that a level may take."""
        if not fit:
            return 0.0
        return min(1.0, len(fit) / len(known) / self._bound) if self._bound else 1.0
