"""Calls of this node's apps to plain services of NATS, which are no part of the mesh: JSON, sealed by nobody.

They go over a bus connection of their own, with a user of its own: what an agent may do in the mesh reaches no plain
service, and what a plain service may do never reaches the mesh.

    micro:NAME ──▶ $SRV.INFO.NAME ──▶ its endpoints ──▶ the endpoint's subject, answered to <inbox>.<random>
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from bus_mesh.agent.plain_values import from_json, to_json
from bus_mesh.balance.outside import AWAY, Outside
from bus_mesh.bus.contract import NO_RESPONDERS, Bus, BusState
from bus_mesh.gates.gate import Flight
from bus_mesh.protocol import micro, names
from bus_mesh.protocol.call import Outcome
from bus_mesh.protocol.errors import (
    BusStalled,
    Code,
    Internal,
    InvalidArgument,
    MeshError,
    NoInstances,
    PayloadTooLarge,
    Ran,
)
from bus_mesh.protocol.frames import FRAME_LIMIT, HEAD_LIMIT, Fail, Kind
from bus_mesh.protocol.trace import parse

REASON: Final = "PLAIN_SERVICE"
"""Reason of a failure that a plain service answered by itself; its own number of it is in `details`."""
LARGEST: Final = FRAME_LIMIT - HEAD_LIMIT
"""Bytes of an answer, as MessagePack."""
_HEADERS: Final = 4096  # bytes left for headers


class Outward:
    """Asks plain services on `bus`, and hears them below `inbox`.

    What they say of themselves is kept in `outside`. `answer(flight, outcome, now)` takes how a call ended,
    `changed(services, now)` that more is known of some, `tried(code)` counts each try; `entropy(n)` returns n bytes.
    `ends_us()` returns when its user of the bus ends, 0 for never.
    """

    def __init__(
        self,
        bus: Bus,
        inbox: str,
        outside: Outside,
        entropy: Callable[[int], bytes],
        now: Callable[[], float],
        answer: Callable[[Flight, Outcome, float], None],
        changed: Callable[[Iterable[str], float], None],
        tried: Callable[[str], None],
        ends_us: Callable[[], int],
    ) -> None:
        self.ends_us = ends_us
        self._outside = outside
        self._bus = bus
        self._inbox = inbox
        self._entropy = entropy
        self._now = now
        self._answer = answer
        self._changed = changed
        self._tried = tried
        self._calls: dict[str, Flight] = {}
        self._questions: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Outward({self._bus.state.value}, {self._outside!r}, calls={len(self._calls)})"

    @property
    def state(self) -> BusState:
        """Where the connection stands."""
        return self._bus.state

    async def start(self) -> None:
        """Listen for answers."""
        await self._bus.subscribe_headed(f"{self._inbox}.*", self._on_answer)

    def ask(self, service: str, now: float) -> bool:
        """Have every instance of a service say where its endpoints are; False when the bus did not take it."""
        question = self._entropy(16).hex()
        subject = f"$SRV.INFO.{service.removeprefix(names.MICRO)}"
        if not self._bus.publish(subject, b"", f"{self._inbox}.{question}"):
            return False
        self._questions[service] = question  # late answers to the one before are dropped
        return True

    def send(self, flight: Flight, now: float) -> Outcome | None:
        """Pass a call on to its endpoint; return how it ended where it could not be."""
        head: Mapping[str, Any] = flight.head or {}
        try:
            data = to_json(flight.payload)
        except ValueError as error:
            return Outcome.refusal(InvalidArgument(f"{flight.service}/{flight.method}: {error}", ran=Ran.NO))
        if len(data) > self._bus.max_payload - _HEADERS:
            text = f"{flight.service}/{flight.method}: {len(data)} bytes are over this bus's limit"
            return Outcome.refusal(PayloadTooLarge(text, ran=Ran.NO))
        number, trace = self._entropy(16).hex(), head.get("traceparent")
        headers = {"traceparent": trace} if type(trace) is str and parse(trace) is not None else {}
        reply = f"{self._inbox}.{number}"
        if not self._bus.publish_headed(flight.target.subject, headers, data, reply):
            return Outcome.refusal(BusStalled(AWAY, ran=Ran.NO))
        flight.sent, flight.tried_at = number, now
        self._calls[number] = flight
        return None

    def abandon(self, flight: Flight) -> None:
        """Wait no more for the answer to a call."""
        self._calls.pop(flight.sent, None)

    def _on_answer(self, subject: str, headers: Mapping[str, str], data: bytes, status: int) -> None:
        number, now = subject.rpartition(".")[2], self._now()
        flight = self._calls.pop(number, None)
        if flight is None:
            self._on_info(number, data, status, now)
            return
        flight.sent = None
        outcome = self._gone(flight) if status == NO_RESPONDERS else _outcome(flight, headers, data)
        self._tried(Code(outcome.code).name)
        self._answer(flight, outcome, now)

    def _on_info(self, number: str, data: bytes, status: int, now: float) -> None:
        asked = next((service for service, question in self._questions.items() if question == number), None)
        if asked is not None and self._outside.learn(asked, data, now):
            self._changed((asked,), now)

    def _gone(self, flight: Flight) -> Outcome:
        where = flight.target.subject
        if self._outside.endpoint(flight.service, flight.method) is flight.target:  # not what was learned since
            self._outside.forget(flight.service)
        return Outcome.refusal(NoInstances(f"nobody of {flight.service} listens on {where} any more", ran=Ran.MAYBE))


def _outcome(flight: Flight, headers: Mapping[str, str], data: bytes) -> Outcome:
    """Return how a call ended by what a plain service has answered."""
    if micro.ERROR in headers or micro.ERROR_CODE in headers:
        said = headers.get(micro.ERROR_CODE, "")[:16]
        message = headers.get(micro.ERROR, "")[: micro.LONGEST_MESSAGE] or "failed"
        code = micro.code_of(said)
        fail = Fail(int(Kind.FAIL), 0, int(code), REASON, message, {"code": said}, {"ran": str(Ran.YES)})
        return Outcome.failure(fail, None)
    try:
        packed = from_json(data if data.strip() else b"null")
        if len(packed) > LARGEST:  # its app could not take it in, and would lose every other call with it
            raise ValueError(f"{len(packed)} bytes, over {LARGEST}")
        return Outcome(None, packed)
    except ValueError as error:
        text = f"{flight.service}/{flight.method} answered what is no JSON value, or none that fits: {error}"
        wrong: MeshError = Internal(text, ran=Ran.YES)
        return Outcome.refusal(wrong)
