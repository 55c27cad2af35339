"""The driver: the only place where a call waits.

It carries out what gates decide. It knows no loop, no socket and no bus: the time is handed in, `send` and `abandon`
reach the outbox or a session, `done` gives the answer to who asked. A call is in exactly one stage at a time (see
`Stage`), gets exactly one end, and whatever ends it, exactly the gates that hold it hear of it. What says that it did
not run speaks of the last try; the driver remembers whether an earlier one may have.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, cast

from bus_mesh.gates.gate import Again, Answer, Flight, Stage, Wait, Wake
from bus_mesh.protocol.call import Outcome
from bus_mesh.protocol.errors import DeadlineExceeded, Ran
from bus_mesh.protocol.wheel import OFF, Wheel

_EARLY: Final = 1e-9
# An enum member costs 0.1 µs to look up by its class.
_WAITING: Final = Stage.WAITING
_PAUSED: Final = Stage.PAUSED
_SENT: Final = Stage.SENT
_ENDED: Final = Stage.ENDED
_NO: Final = Ran.NO


class Driver:
    """Takes calls through their paths, one way for each direction.

    `send(flight, now)` passes a call on and returns None, or the outcome of a call that it could not pass on.
    `abandon(flight)` is told that nobody waits any more for the answer to a call that was sent.
    `done(flight, outcome, now)` is called once a flight, at its end.
    """

    def __init__(
        self,
        wheel: Wheel[Flight],
        send: Callable[[Flight, float], Outcome | None],
        abandon: Callable[[Flight], None],
        done: Callable[[Flight, Outcome, float], None],
    ) -> None:
        self._wheel = wheel
        self._send = send
        self._abandon = abandon
        self._done = done
        self._woken: deque[Flight] = deque()

    def begin(self, flight: Flight, now: float) -> None:
        """Start a new flight on its way."""
        try:
            self._down(flight, 0, now)
        finally:
            if flight.slot == OFF and flight.stage is not _ENDED:  # after it, for what was sent is waited for
                self._wheel.add(flight, flight.deadline, now)
        if self._woken:
            self._settle(now)

    def answer(self, flight: Flight, outcome: Outcome, now: float) -> None:
        """Take in how the present try ended; nothing happens unless the flight is SENT."""
        if flight.stage is _SENT:
            at = self._up(flight, flight.held, outcome, now)
            if at >= 0:
                self._down(flight, at, now)
            if self._woken:
                self._settle(now)

    def end(self, flight: Flight, outcome: Outcome, now: float) -> None:
        """End a flight for good, wherever it stands: cancelled, out of time, or its app is gone."""
        if flight.stage is not _ENDED:
            self._end(flight, outcome, now)
            self._settle(now)

    def wake(self, flight: Flight, now: float) -> None:
        """Let a parked flight ask its gate again."""
        self._woken.append(flight)
        self._settle(now)

    def due(self, flight: Flight, now: float) -> None:
        """Act on a flight that the wheel has given back: its time is over, or its wait or pause is."""
        if flight.stage is _ENDED:
            return
        if now >= flight.deadline - _EARLY:
            self._end(flight, _too_late(flight, now), now)
            self._settle(now)
            return
        if flight.stage in (_WAITING, _PAUSED) and now >= flight.until - _EARLY:
            self._wheel.add(flight, flight.deadline, now)
            self._down(flight, flight.held - (flight.stage is _WAITING), now)
            self._settle(now)
            return
        due = flight.deadline if flight.stage is _SENT else min(flight.until, flight.deadline)
        self._wheel.add(flight, due, now)

    def _settle(self, now: float) -> None:
        while self._woken:
            flight = self._woken.popleft()
            if flight.stage is not _WAITING:
                continue
            if now >= flight.deadline:  # which may wake another: it is this loop's, however many there are
                self._end(flight, _too_late(flight, now), now)
            else:
                self._down(flight, flight.held - 1, now)

    def _end(self, flight: Flight, outcome: Outcome, now: float) -> None:
        outcome.final = True
        if flight.stage is _SENT:
            self._abandon(flight)
        self._up(flight, flight.held, outcome, now)  # never down again: the outcome is final

    def _down(self, flight: Flight, at: int, now: float) -> None:
        """Take a flight down from gate `at`: to where it is sent or parked, or back up with what ended it."""
        while at >= 0:
            outcome = None
            for place, enter in flight.path.below[at]:
                if (said := enter(flight, now)) is not None:
                    if type(said) is Wait:
                        self._park(flight, place + 1, _WAITING, said.until, now)
                        return
                    at, outcome = place, cast(Answer, said).outcome
                    break
            else:
                flight.held = at = flight.path.length
                flight.stage = _SENT
                outcome = self._send(flight, now)
                if outcome is None:
                    return
            at = self._up(flight, at, outcome, now)

    def _up(self, flight: Flight, at: int, outcome: Outcome, now: float) -> int:
        """Return the gate to go down from again, or -1 when the call has ended or pauses."""
        if outcome.fail is None:
            self._succeed(flight, at, outcome, now)
            return -1
        for place, leave in flight.path.above[at]:
            if (said := leave(flight, outcome, now)) is None:
                continue
            if type(said) is Wake:
                self._woken.extend(said.flights)
            elif not outcome.final and now < flight.deadline:
                flight.attempt += 1
                flight.doubt = flight.doubt or outcome.ran is not _NO
                pause = cast(Again, said).pause
                if pause <= 0.0:
                    return place + 1
                self._park(flight, place + 1, _PAUSED, now + pause, now)
                return -1
        if flight.doubt and outcome.ran is _NO:
            outcome.doubt()
        self._ended(flight)
        self._done(flight, outcome, now)
        return -1

    def _succeed(self, flight: Flight, at: int, outcome: Outcome, now: float) -> None:
        """Pass a success on first, for it is waited for: gates only note it, or hand on what the call held."""
        self._done(flight, outcome, now)
        for _, leave in flight.path.above_success[at]:
            if (said := leave(flight, outcome, now)) is not None:
                self._woken.extend(cast(Wake, said).flights)
        self._ended(flight)

    def _ended(self, flight: Flight) -> None:
        flight.held = 0
        flight.stage = _ENDED
        flight.payload = b""  # the wheel may know the flight for a moment more
        self._wheel.remove(flight)

    def _park(self, flight: Flight, held: int, stage: Stage, until: float, now: float) -> None:
        flight.held, flight.stage, flight.until = held, stage, until
        if until < flight.deadline:
            self._wheel.add(flight, until, now)


def _too_late(flight: Flight, now: float) -> Outcome:
    took = (now - flight.started) * 1000
    text = f"{flight.service}/{flight.method} had not answered after {took:.0f} ms"
    return Outcome.refusal(DeadlineExceeded(text, ran=Ran.MAYBE if flight.stage is _SENT else Ran.NO))
