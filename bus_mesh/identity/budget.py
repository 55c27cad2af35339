"""How many signatures are checked per second, so that a flood of documents costs a known share of a processor.

A check takes 0.1 ms, so 200 a second are 2%. A node has 20 of them. What nothing vouches for shares half of the
whole: a certificate never seen before, or a document that did not come on its node's own subject. So strangers, and
copies of old documents inside envelopes, cannot use up what the beats of known nodes need.
"""

from typing import Final

from bus_mesh.identity.refusal import Reason, Untrusted

__all__ = ["PER_NODE", "TOTAL", "UNVOUCHED", "Budget", "Remembered"]

TOTAL: Final = 200
"""Documents verified per second, in all."""
PER_NODE: Final = 20
"""Documents verified per second that one node claims to have signed."""
UNVOUCHED: Final = 100
"""Documents verified per second that nothing vouches for; see above."""


class Budget:
    """Counts per second of monotonic time. Holds at most TOTAL names, so strangers' claims do not make it grow."""

    __slots__ = ("_by_node", "_second", "_spent", "_unvouched")

    def __init__(self) -> None:
        self._second = -1
        self._spent = self._unvouched = 0
        self._by_node: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"Budget(spent={self._spent}, unvouched={self._unvouched})"

    def spend(self, node: str | None, *, vouched: bool, now: float) -> None:
        """Count one check for `node` (None: nobody is named), or raise Untrusted (BUDGET) and count nothing."""
        if int(now) != self._second:
            self._second, self._spent, self._unvouched = int(now), 0, 0
            self._by_node.clear()
        of_node = self._by_node.get(node, 0) if node is not None else 0
        if self._spent >= TOTAL or of_node >= PER_NODE or (not vouched and self._unvouched >= UNVOUCHED):
            raise Untrusted(
                Reason.BUDGET, f"too many documents this second ({self._spent} of {TOTAL}): it will be sent again"
            )
        self._spent += 1
        self._unvouched += not vouched
        if node is not None:
            self._by_node[node] = of_node + 1


class Remembered(dict[bytes, Untrusted]):
    """Refusals by the hash of what was refused, the oldest forgotten first: equal bytes are verified once."""

    LIMIT: Final = 2048

    def keep(self, digest: bytes, refusal: Untrusted) -> None:
        """Remember that the bytes with this hash were refused, and why."""
        if len(self) >= self.LIMIT:
            del self[next(iter(self))]
        self[digest] = Untrusted(refusal.reason, refusal.message)  # a fresh one: no traceback is held
