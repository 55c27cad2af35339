"""What a gate is, what it may say, and the path that gates make.

A gate *holds* a call from the first `enter` that returns None or Wait until its `leave`. Whatever ends the call,
exactly the gates that hold it get `leave`, the deepest first, once each. A gate that answers or refuses, also after its
own Wait, has let go by itself and gets none. After `Again` the gate that said it and those above it still hold; those
below do not.

What counters, slots and circuits a gate uses live outside the path, so that a path compiled from a newer policy goes on
where the older one stands.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any, Final, TypeAlias

from bus_mesh.protocol.call import Outcome
from bus_mesh.protocol.errors import MeshError


class Stage(Enum):
    """Where a flight stands.

    BEFORE ──begin──▶ (gates) ──▶ SENT ──outcome──▶ (gates, back) ──▶ ENDED
                         │  ▲                            │
                         ▼  │ wake, or its time          ▼ Again(pause)
                       WAITING                         PAUSED ──▶ (gates below)
    """

    BEFORE = "before"
    WAITING = "waiting"
    SENT = "sent"
    PAUSED = "paused"
    ENDED = "ended"


class Flight:
    """One call on its way through an agent, from `begin` to its one end.

    `source` is who gets the answer and `target` who is asked; both belong to the agent, and gates only compare them, or
    ask an instance for what is kept of it.
    `deadline`, `started`, `tried_at` and `until` are monotonic seconds. `held` counts the gates that hold the call now,
    `attempt` its tries, `moves` those that were sent on without running, and `avoid` names instances tried in vain.
    `named` says that the caller wants to know who answered, `doubt` that an earlier try may have run. `proof` is what
    the sender of a call from the bus has signed, or None.
    `key` is what its instance is chosen by where policy says so. `once` says that it has an idempotency key; `last` is
    then the instance tried last. `ticket` is its circuit's, `place` where it has a place or waits for one, and `since`
    when it has waited. `keyed` is what its instance keeps of the idempotency key that it runs or waits for.
    """

    # What most calls never set has its first value here: a call is made in half the time.
    stage = Stage.BEFORE
    held = 0
    attempt = 1
    moves = 0
    idempotent = False
    named = False
    doubt = False
    permit: object = None
    meter: Any = None
    target: Any = None
    sent: Any = None
    proof: Any = None
    keyed: Any = None
    try_id = 0
    tried_at = 0.0
    until = 0.0
    slot = -1  # these two are the wheel's
    due = 0.0
    avoid: tuple[str, ...] = ()
    key: str | None = None
    once = False
    last: str | None = None
    ticket = 0
    place: Any = None
    since = 0.0

    def __init__(
        self,
        path: "Path",
        source: Any,
        number: int,
        service: str,
        method: str,
        caller: str,
        head: dict[str, Any] | None,
        payload: bytes,
        now: float,
        deadline: float,
    ) -> None:
        self.path = path
        self.source = source
        self.id = number
        self.service = service
        self.method = method
        self.caller = caller
        self.head = head
        self.payload = payload
        self.started = now
        self.deadline = deadline

    def __repr__(self) -> str:
        return f"Flight({self.caller}→{self.service}/{self.method} #{self.id} {self.stage.value} held={self.held})"


class Answer:
    """The call ends here, with this outcome: a success, or what is known of it already."""

    __slots__ = ("outcome",)

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


class Refuse(Answer):
    """The call ends here with this error; whether it ran is the error's word."""

    __slots__ = ()

    def __init__(self, error: MeshError) -> None:
        super().__init__(Outcome.refusal(error))


class Wait:
    """Park the call: `enter` is called again on a Wake, or at `until`, where it lets go or refuses."""

    __slots__ = ("until",)

    def __init__(self, until: float) -> None:
        self.until = until


class Again:
    """Send the call through the gates below once more, after `pause` seconds."""

    __slots__ = ("pause",)

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause


class Wake:
    """Parked calls may go on: their gate's `enter` is called again, in this order."""

    __slots__ = ("flights",)

    def __init__(self, *flights: Flight) -> None:
        self.flights = flights


Entering: TypeAlias = Answer | Wait | None
Leaving: TypeAlias = Again | Wake | None


class Gate:
    """One concern on the way of a call. Pure: no loop, no clock, no I/O; `now` is in monotonic seconds.

    A gate overrides what it has to say; what it does not override costs a call nothing. With `failures_only` it is not
    told of successes either, and so must have nothing to give back.
    """

    failures_only = False

    def enter(self, call: Flight, now: float) -> Entering:
        """Let the call on (None), answer or refuse it, or park it."""
        return None

    def leave(self, call: Flight, outcome: Outcome, now: float) -> Leaving:
        """See the outcome on its way back (None), have a failed call tried again, or wake others.

        A success has been passed on by then: there is nothing to be changed in it.
        """
        return None


class Path:
    """Gates in the order in which a call enters them; its outcome leaves them in the reverse order.

    `below[n]` are the (place, enter) from gate n on, in travel order; `above[n]` the (place, leave) before it, in the
    reverse order, and `above_success[n]` those of them that want to know of a success. Places count from 0. What
    travels on a `signed` path is signed on the bus.
    """

    __slots__ = ("above", "above_success", "below", "gates", "length", "signed")

    def __init__(self, *gates: Gate, signed: bool = False) -> None:
        self.gates: Final[Sequence[Gate]] = gates
        self.signed = signed
        self.length = len(gates)
        places, told = range(self.length + 1), list(enumerate(gates))
        enters = [(place, gate.enter) for place, gate in told if type(gate).enter is not Gate.enter]
        leaving = [(place, gate) for place, gate in reversed(told) if type(gate).leave is not Gate.leave]
        leaves = [(place, gate.leave) for place, gate in leaving]
        successes = [(place, gate.leave) for place, gate in leaving if not gate.failures_only]
        self.below = tuple(tuple(said for said in enters if said[0] >= at) for at in places)
        self.above = tuple(tuple(said for said in leaves if said[0] < at) for at in places)
        self.above_success = tuple(tuple(said for said in successes if said[0] < at) for at in places)

    def __repr__(self) -> str:
        return " > ".join(type(gate).__name__ for gate in self.gates)
