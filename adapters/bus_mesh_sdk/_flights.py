"""Calls on their way out, and what becomes of them when the agent leaves, dies or falls behind.

Decisions only: no socket, no timer, no await. The link says what happened, and a flight's future gets its end once.

    WAITING ──a connection with room──▶ SENT ──REPLY, FAIL, deadline, cancel──▶ DONE
       ▲                                 │
       └── its connection is lost (idempotent only), or a leaving agent answered DRAINING, not run
"""

import asyncio
import itertools
from collections import OrderedDict
from enum import Enum
from math import ceil
from typing import Final, cast

from bus_mesh.protocol.errors import AgentAway, Cancelled, DeadlineExceeded, Draining, MeshError, OutcomeUnknown, Ran
from bus_mesh.protocol.frames import MAX_TTL_MS, Call, Cancel, Fail, Head, Kind, Reply
from bus_mesh.protocol.turn import MANY, PART, SMALL_PART
from bus_mesh_sdk._connection import Connection, error_of
from bus_mesh_sdk._context import further
from bus_mesh_sdk._deadlines import Deadlines

GRACE: Final = 0.050
"""Seconds past the deadline before this end gives a sent call up by itself: its agent should have said so by then."""

ids: Final = itertools.count(1)
"""Ids of all that this process asks: never used twice, whatever becomes of a connection."""


class Stage(Enum):
    """Where a flight is; see the diagram above."""

    WAITING = "waiting"
    SENT = "sent"
    DONE = "done"


# A member of an enum costs 0.1 µs to look up by its class, several times a call.
_WAITING: Final = Stage.WAITING
_SENT: Final = Stage.SENT
_DONE: Final = Stage.DONE
_CALL: Final = int(Kind.CALL)


class Flight:
    """One call that this process makes."""

    __slots__ = (
        "_flights",
        "connection",
        "expires",
        "future",
        "head",
        "id",
        "idempotent",
        "method",
        "payload",
        "service",
        "stage",
    )

    def __init__(
        self,
        flights: "Flights",
        service: str,
        method: str,
        payload: bytes,
        head: Head,
        expires: float,
        idempotent: bool,
    ) -> None:
        self.service = service
        self.method = method
        self.payload = payload
        self.head = head
        self.expires = expires
        self.idempotent = idempotent
        self.future: asyncio.Future[Reply] = flights.loop.create_future()
        self.stage = _WAITING
        self.id = 0
        self.connection: Connection | None = None
        self._flights = flights

    def __repr__(self) -> str:
        return f"Flight({self.service}.{self.method}, {self.stage.value})"

    def late(self, now: float) -> None:
        """End, its time being out."""
        self._flights.late(self)

    def fail(self, error: MeshError) -> None:
        """End with an error."""
        self.stage = _DONE
        if not self.future.done():
            self.future.set_exception(further(error))


class Flights:
    """Every call of this process that has not ended, and the connection that new ones take."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deadlines: Deadlines) -> None:
        self.loop = loop
        self.connection: Connection | None = None
        self.sent: dict[int, Flight] = {}
        self.waiting: OrderedDict[Flight, None] = OrderedDict()
        self.trouble = "no agent has answered yet"
        """Why there is no connection, while there is none."""
        self._deadlines = deadlines

    def __repr__(self) -> str:
        return f"Flights(sent={len(self.sent)}, waiting={len(self.waiting)}, by {self.connection})"

    @property
    def room(self) -> bool:
        """Whether another call may be sent now."""
        way = self.connection
        return way is not None and way.open and not way.paused and len(self.sent) < way.most_calls

    def depart(self, flight: Flight, part_of: Connection | None = None) -> None:
        """Send a call, or let it wait behind those that wait.

        `part_of` is where the call came from that this one is made for. An agent that leaves waits for that one's
        answer, so it still carries what the answer needs; the next agent may well not come before it has gone.
        """
        way = self.connection
        if not self.waiting and self.room:
            self._send(flight, cast(Connection, way))
        elif way is None and part_of is not None and part_of.alive and not part_of.paused:
            self._send(flight, part_of)
        else:
            self._wait(flight)

    def pump(self) -> None:
        """Send what waits, oldest first, as far as there is room."""
        while self.waiting and self.room:
            flight, _ = self.waiting.popitem(last=False)
            self._deadlines.drop(flight, flight.expires)
            assert self.connection is not None  # else there is no room
            self._send(flight, self.connection)

    def replied(self, frame: Reply) -> None:
        """Take a result; one that nobody waits for is dropped."""
        flight = self._ended(frame.id)
        if flight is not None:
            flight.stage = _DONE
            if not flight.future.done():
                flight.future.set_result(frame)

    def failed(self, frame: Fail, connection: Connection) -> bool:
        """Take a failure; return False when it answers none of these calls."""
        flight = self._ended(frame.id)
        if flight is None:
            return False
        error = error_of(frame)
        if not connection.open and isinstance(error, Draining) and error.ran is Ran.NO:
            self._wait(flight)  # it crossed the agent's DRAIN: the next agent gets it, within the same deadline
        else:
            flight.fail(error)
        return True

    def late(self, flight: Flight) -> None:
        """End a call whose time is out."""
        if flight.stage is _SENT:
            self._take_back(flight)
            flight.fail(DeadlineExceeded(f"{flight.service}.{flight.method}: no answer in time", ran=Ran.MAYBE))
        elif flight.stage is _WAITING:
            del self.waiting[flight]
            flight.fail(self._why_it_waited(flight))

    def cancelled(self, flight: Flight) -> None:
        """Forget a call that nobody waits for any more, and tell the agent."""
        if flight.stage is _SENT:
            self._deadlines.drop(flight, flight.expires + GRACE)
            self._take_back(flight)
        elif flight.stage is _WAITING:
            del self.waiting[flight]
            self._deadlines.drop(flight, flight.expires)
        flight.stage = _DONE

    def lost(self, connection: Connection) -> None:
        """Decide what becomes of the calls that a dead connection carried."""
        for flight in [flight for flight in self.sent.values() if flight.connection is connection]:
            self._ended(flight.id)
            if flight.idempotent:
                self._wait(flight)
            else:
                flight.fail(
                    OutcomeUnknown(
                        f"{flight.service}.{flight.method}: the agent went away before the answer; it may have run",
                        ran=Ran.MAYBE,
                    )
                )

    def close(self) -> None:
        """End every call: this process is leaving."""
        for flight in list(self.sent.values()):
            self.cancelled(flight)
            flight.fail(
                OutcomeUnknown(f"{flight.service}.{flight.method}: closed before the answer came", ran=Ran.MAYBE)
            )
        for flight in list(self.waiting):
            self.cancelled(flight)
            flight.fail(Cancelled(f"{flight.service}.{flight.method}: closed before it was sent", ran=Ran.NO))

    def _send(self, flight: Flight, way: Connection) -> None:
        left = ceil((flight.expires - self.loop.time()) * 1000)
        if left <= 0:
            flight.fail(self._why_it_waited(flight))
            return
        flight.id, flight.stage, flight.connection = next(ids), _SENT, way
        self.sent[flight.id] = flight
        self._deadlines.add(flight, flight.expires + GRACE)
        left = min(left, MAX_TTL_MS)
        way.turn.part = SMALL_PART if len(self.sent) < MANY else PART
        way.send(Call(_CALL, flight.id, flight.service, flight.method, left, "", flight.head, flight.payload))

    def _wait(self, flight: Flight) -> None:
        flight.stage, flight.connection = _WAITING, None
        self.waiting[flight] = None
        self._deadlines.add(flight, flight.expires)

    def _ended(self, number: int) -> Flight | None:
        flight = self.sent.pop(number, None)
        if flight is not None:
            self._deadlines.drop(flight, flight.expires + GRACE)
        return flight

    def _take_back(self, flight: Flight) -> None:
        del self.sent[flight.id]
        if flight.connection is not None:
            flight.connection.send(Cancel(Kind.CANCEL.value, flight.id))

    def _why_it_waited(self, flight: Flight) -> MeshError:
        what = f"{flight.service}.{flight.method} was not sent"
        if self.connection is None:
            return AgentAway(f"{what}: {self.trouble}", ran=Ran.NO)
        return DeadlineExceeded(f"{what}: its time ran out behind {len(self.sent)} calls in flight", ran=Ran.NO)
