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
from typing import Any, Final

from bus_mesh.protocol.errors import AgentAway, Cancelled, DeadlineExceeded, Draining, MeshError, OutcomeUnknown, Ran
from bus_mesh.protocol.frames import MAX_TTL_MS, Cancel, Fail, Fields, Head, Kind, encode
from bus_mesh.protocol.session import State
from bus_mesh.protocol.turn import PART, SMALL_PART
from bus_mesh.protocol.wheel import OFF, Wheel
from bus_mesh_sdk._connection import Connection, error_of
from bus_mesh_sdk._context import further

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
_OPEN: Final = State.OPEN


class Flight:
    """One call that this process makes."""

    # What is set later has its first value here: a flight is made in half the time.
    stage = Stage.WAITING
    id = 0
    connection: Connection | None = None
    doubt = False
    """Whether it was sent by a connection that died: whatever becomes of it now, it may have run."""
    slot = OFF  # these two are the wheel's
    due = 0.0

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
        self.future: asyncio.Future[Fields] = flights.loop.create_future()
        self._flights = flights

    def __repr__(self) -> str:
        return f"Flight({self.service}.{self.method}, {self.stage.value})"

    def late(self, now: float) -> None:
        """End, its time being out."""
        self._flights.late(self)

    def fail(self, error: MeshError) -> None:
        """End with an error."""
        if self.doubt and error.ran is Ran.NO:
            error.ran = Ran.MAYBE
        self.stage = _DONE
        if not self.future.done():
            self.future.set_exception(further(error))


class Flights:
    """Every call of this process that has not ended, and the connection that new ones take."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wheel: "Wheel[Any]") -> None:
        self.loop = loop
        self.connection: Connection | None = None
        self.sent: dict[int, Flight] = {}
        self.waiting: OrderedDict[Flight, None] = OrderedDict()
        self.trouble = "no agent has answered yet"
        """Why there is no connection, while there is none."""
        self._wheel = wheel

    def __repr__(self) -> str:
        return f"Flights(sent={len(self.sent)}, waiting={len(self.waiting)}, by {self.connection})"

    def depart(self, flight: Flight, now: float, part_of: Connection | None = None) -> None:
        """Send a call, or let it wait behind those that wait.

        `part_of` is where the call came from that this one is made for. An agent that leaves waits for that one's
        answer, so it still carries what the answer needs; the next agent may well not come before it has gone.
        """
        way = None if self.waiting else self._room()
        if way is None and self.connection is None and part_of is not None and part_of.alive and not part_of.paused:
            way = part_of
        if way is not None:
            self._send(flight, way, now)
        else:
            self._wait(flight, now)

    def pump(self) -> None:
        """Send what waits, oldest first, as far as there is room."""
        while self.waiting and (way := self._room()) is not None:
            flight, _ = self.waiting.popitem(last=False)
            self._send(flight, way, self.loop.time())

    def replied(self, frame: Fields) -> None:
        """Take a result; one that nobody waits for is dropped."""
        flight = self._ended(frame[1])
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
            # It crossed the agent's DRAIN: the next agent gets it, within the same deadline.
            self._wait(flight, self.loop.time())
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
            self._take_back(flight)
        elif flight.stage is _WAITING:
            del self.waiting[flight]
        self._wheel.remove(flight)
        flight.stage = _DONE

    def lost(self, connection: Connection) -> None:
        """Decide what becomes of the calls that a dead connection carried."""
        for flight in [flight for flight in self.sent.values() if flight.connection is connection]:
            self._ended(flight.id)
            if flight.idempotent:
                flight.doubt = True
                self._wait(flight, self.loop.time())
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

    def _room(self) -> Connection | None:
        """Return the connection if another call may be sent on it now."""
        way = self.connection
        if way is None or way.session.state is not _OPEN or way.paused or len(self.sent) >= way.most_calls:
            return None
        return way

    def _send(self, flight: Flight, way: Connection, now: float) -> None:
        left = flight.expires - now
        if left <= 0.0:
            self._wheel.remove(flight)
            flight.fail(self._why_it_waited(flight))
            return
        flight.id = number = next(ids)
        flight.stage, flight.connection = _SENT, way
        sent = self.sent
        sent[number] = flight
        ttl_ms = min(ceil(left * 1000), MAX_TTL_MS)
        half = (len(sent) + 1) // 2  # two parts at least, to keep two processors busy
        way.turn.part = SMALL_PART if half < SMALL_PART else half if half < PART else PART
        way.write(encode((_CALL, number, flight.service, flight.method, ttl_ms, "", flight.head, flight.payload)))
        if flight.stage is _SENT:  # after it, for what was sent is waited for
            self._wheel.add(flight, flight.expires + GRACE, now)

    def _wait(self, flight: Flight, now: float) -> None:
        flight.stage, flight.connection = _WAITING, None
        self.waiting[flight] = None
        self._wheel.add(flight, flight.expires, now)

    def _ended(self, number: int) -> Flight | None:
        flight = self.sent.pop(number, None)
        if flight is not None:
            self._wheel.remove(flight)
        return flight

    def _take_back(self, flight: Flight) -> None:
        del self.sent[flight.id]
        if flight.connection is not None:
            flight.connection.send(Cancel(Kind.CANCEL.value, flight.id))

    def _why_it_waited(self, flight: Flight) -> MeshError:
        what = f"{flight.service}.{flight.method} was not sent{' again' if flight.doubt else ''}"
        if self.connection is None:
            return AgentAway(f"{what}: {self.trouble}", ran=Ran.NO)
        return DeadlineExceeded(f"{what}: its time ran out behind {len(self.sent)} calls in flight", ran=Ran.NO)
