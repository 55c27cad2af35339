"""Who watches live calls of this node's apps: what they want to see, and what they have not fetched yet.

    a first poll ──▶ the look is open: a gate Tap in the paths of its service ──no poll for 10 s──▶ forgotten, gate gone

Calls show at their callers' agent, so each shows once, refusals there included. A look has a bounded rate and a bounded
ring: a reader that is slow or gone costs the calls nothing, and is told what it missed.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from bus_mesh.gates.gate import Flight
from bus_mesh.protocol import names
from bus_mesh.protocol.call import Outcome
from bus_mesh.protocol.errors import Code, InvalidArgument, Ran, ResourceExhausted

__all__ = ["Looks", "Wanted"]

MOST: Final = 8
"""Looks at one agent."""
LEASE: Final = 10.0
"""Seconds without a poll after which a look is forgotten."""
HIGHEST_RATE: Final = 1000
KEPT: Final = 1000
KEPT_WITH_PAYLOAD: Final = 200
"""Calls that a look keeps for its next poll; with 4 KiB of each payload those are 1.6 MB."""
PAYLOAD: Final = 4096
LINGER: Final = 1.0
"""Seconds that a poll waits for a call."""
AT_A_TIME: Final = 100
BYTES_AT_A_TIME: Final = 256 * 1024
"""Calls in one answer to a poll, and the bytes of their payloads."""
LONGEST_REASON: Final = 64


class Wanted(NamedTuple):
    """What a look is to show; "" for any. `max_rps` calls a second at most, at this agent."""

    service: str
    caller: str
    method: str
    code: str
    max_rps: int
    payload: bool

    @classmethod
    def read(cls, said: dict[str, Any]) -> "Wanted":
        """Return what was asked for; raise InvalidArgument or InvalidName."""
        text = {key: said.get(key, "") for key in ("from", "method", "code")}
        rate, payload = said.get("max_rps", 100), said.get("payload", False)
        if not all(type(one) is str and len(one) <= 64 for one in text.values()) or type(payload) is not bool:
            raise InvalidArgument("tap takes texts for from, method and code, and payload as a yes or no", ran=Ran.NO)
        if type(rate) is not int or not 1 <= rate <= HIGHEST_RATE:
            raise InvalidArgument(f"tap shows 1 to {HIGHEST_RATE} calls a second, not {rate!r:.20}", ran=Ran.NO)
        return cls(
            names.callee_name(said.get("service", "")), text["from"], text["method"], text["code"], rate, payload
        )


class _Look:
    def __init__(self, wanted: Wanted, now: float) -> None:
        self.wanted = wanted
        self.polled_at = now
        self.dropped = 0
        self.fresh = asyncio.Event()
        self._calls: deque[dict[str, Any]] = deque(maxlen=KEPT_WITH_PAYLOAD if wanted.payload else KEPT)
        self._second = 0
        self._shown = 0

    def wants(self, call: Flight, outcome: Outcome) -> bool:
        wanted = self.wanted
        return (
            wanted.caller in ("", call.caller)
            and wanted.method in ("", call.method)
            and wanted.code in ("", Code(outcome.code).name)
        )

    def take(self, seen: dict[str, Any], now: float) -> None:
        if int(now) != self._second:
            self._second, self._shown = int(now), 0
        if self._shown >= self.wanted.max_rps:
            self.dropped += 1
            return
        self._shown += 1
        self.dropped += len(self._calls) == self._calls.maxlen
        self._calls.append(seen)
        self.fresh.set()

    def fetched(self) -> dict[str, Any]:
        calls: list[dict[str, Any]] = []
        size = 0
        while self._calls and len(calls) < AT_A_TIME and size < BYTES_AT_A_TIME:
            call = self._calls.popleft()
            size += len(call.get("request") or b"") + len(call.get("answer") or b"")
            calls.append(call)
        dropped, self.dropped = self.dropped, 0
        if not self._calls:
            self.fresh.clear()
        return {"calls": calls, "dropped": dropped}


class Looks:
    """The open looks of one agent. `changed()` has paths made anew, `may_show(service, method)` is policy's word."""

    def __init__(
        self,
        now: Callable[[], float],
        wall: Callable[[], float],
        changed: Callable[[], None],
        may_show: Callable[[str, str], bool],
    ) -> None:
        self._now = now
        self._wall = wall
        self._changed = changed
        self._may_show = may_show
        self._open: dict[str, _Look] = {}

    def __repr__(self) -> str:
        return f"Looks({[look.wanted for look in self._open.values()]})"

    def watched(self, service: str) -> bool:
        """Tell whether anybody watches the calls to a service."""
        return any(look.wanted.service == service for look in self._open.values())

    async def poll(self, said: dict[str, Any]) -> object:
        """Return the calls since the last poll of the look `id`, once there are any; the first poll opens it."""
        id = said.get("id")
        if type(id) is not str or not 0 < len(id) <= 64:
            raise InvalidArgument("tap takes the id of a look, a text of up to 64 characters", ran=Ran.NO)
        look = self._open.get(id)
        if look is None:
            if len(self._open) >= MOST:
                raise ResourceExhausted(f"{MOST} look at this agent's calls already", ran=Ran.NO, retry_after=LEASE)
            look = self._open[id] = _Look(Wanted.read(said), self._now())
            self._changed()
        look.polled_at = self._now()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(look.fresh.wait(), LINGER)
        look.polled_at = self._now()
        return look.fetched()

    def show(self, call: Flight, outcome: Outcome, now: float) -> None:
        """Keep a call that has ended for those who want to see it."""
        for look in self._open.values():
            if look.wanted.service == call.service and look.wants(call, outcome):
                look.take(self._seen(call, outcome, now, look.wanted.payload), now)

    def expire(self) -> None:
        """Forget who has not polled for a while."""
        now = self._now()
        late = [id for id, look in self._open.items() if now - look.polled_at >= LEASE]
        for id in late:
            del self._open[id]
        if late:
            self._changed()

    def _seen(self, call: Flight, outcome: Outcome, now: float, payload: bool) -> dict[str, Any]:
        seen = {
            "at": self._wall(),
            "from": call.caller,
            "service": call.service,
            "method": call.method,
            "instance": outcome.instance or "",
            "code": Code(outcome.code).name,
            "reason": outcome.reason[:LONGEST_REASON],
            "took_ms": round((now - call.started) * 1000, 3),
            "tries": call.attempt,
        }
        if payload:
            allowed = self._may_show(call.service, call.method)
            seen["request"] = call.payload[:PAYLOAD] if allowed else None
            seen["answer"] = outcome.payload[:PAYLOAD] if allowed else None
        return seen
