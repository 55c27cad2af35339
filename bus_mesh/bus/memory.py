"""A bus within one process, kept to the same contract as the real one, with the faults of a broker at hand.

    broker = MemoryBroker()
    one, two = broker.connect(), broker.connect()

A broker is RUNNING, STALLED (takes messages, delivers none, answers nothing) or STOPPED (its buses are DISCONNECTED).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from itertools import count
from typing import NamedTuple

from bus_mesh.bus.contract import (
    BACKLOG_LIMIT,
    NO_RESPONDERS,
    SUBJECT_LIMIT,
    BusState,
    Handler,
    HeadedHandler,
    Stated,
    headed,
    headers_of,
)
from bus_mesh.bus.pattern import check_pattern, check_subject, is_literal, matches

_ROUTES_KEPT = 4096


class Message(NamedTuple):
    """What was published."""

    subject: str
    reply: str
    data: bytes
    headers: bytes = b""


class BrokerState(Enum):
    """What the broker does; see above."""

    RUNNING = "running"
    STALLED = "stalled"
    STOPPED = "stopped"


class Route(NamedTuple):
    """Who gets a message to a subject: every one of `each`, and one of every group."""

    each: list["MemorySubscription"]
    groups: list[list["MemorySubscription"]]


class MemoryBroker:
    """Routes messages between the buses that `connect` returns.

    `below(n)` draws a number under n and so picks a member of a queue group, `random.Random(7).randrange` for one;
    without it members take turns.
    """

    def __init__(self, below: Callable[[int], int] | None = None, *, max_payload: int = 1024 * 1024) -> None:
        turns = count()
        self._below = below or (lambda n: next(turns) % n)
        self._buses: list[MemoryBus] = []
        self._subscriptions: list[MemorySubscription] = []
        self._routes: dict[str, Route] = {}
        self._held: deque[tuple[MemoryBus, Message]] = deque()
        self._taps: list[Callable[[Message], None]] = []
        self._drop: Callable[[Message], bool] | None = None
        self._awake = asyncio.Event()
        self._awake.set()
        self.max_payload = max_payload
        self.state = BrokerState.RUNNING

    def __repr__(self) -> str:
        return f"MemoryBroker({self.state.value}, buses={len(self._buses)}, subscriptions={len(self._subscriptions)})"

    def connect(self) -> "MemoryBus":
        """Return a bus on this broker, already CONNECTED unless the broker is stopped."""
        bus = MemoryBus(self)
        self._buses.append(bus)
        bus._follow()
        return bus

    def stop(self) -> None:
        """Be gone, and with it whatever was not delivered."""
        self._held.clear()
        self._change(BrokerState.STOPPED)

    def start(self) -> None:
        """Be there (again); every bus finds it at once."""
        self._change(BrokerState.RUNNING)

    def stall(self) -> None:
        """Stand still, as a process does on SIGSTOP: buses stay CONNECTED, and what they send waits."""
        self._change(BrokerState.STALLED)

    def resume(self) -> None:
        """Go on after `stall`: what waited is delivered now, in order."""
        self._change(BrokerState.RUNNING)
        while self._held:
            bus, message = self._held.popleft()
            bus.backlog -= len(message.data)
            self._route(bus, message)

    def drop(self, predicate: Callable[[Message], bool] | None) -> None:
        """Lose every message of which `predicate` says so, without a trace; None loses none."""
        self._drop = predicate

    def tap(self, callback: Callable[[Message], None]) -> None:
        """Show every message, also those that are dropped, as it is published."""
        self._taps.append(callback)

    def _change(self, state: BrokerState) -> None:
        self.state = state
        if state is BrokerState.STALLED:
            self._awake.clear()
        else:
            self._awake.set()
        for bus in list(self._buses):
            bus._follow()

    def _take(self, bus: "MemoryBus", message: Message) -> None:
        for show in self._taps:
            show(message)
        if self.state is BrokerState.STALLED:
            bus.backlog += len(message.data)
            self._held.append((bus, message))
        else:
            self._route(bus, message)

    def _route(self, bus: "MemoryBus", message: Message) -> None:
        if self._drop is not None and self._drop(message):
            return
        each, groups = self._routes.get(message.subject) or self._find(message.subject)
        for subscription in each:
            subscription.bus._receive(subscription, message, 0)
        for members in groups:
            chosen = members[self._below(len(members))] if len(members) > 1 else members[0]
            chosen.bus._receive(chosen, message, 0)
        if message.reply and not each and not groups:
            self._say_nobody(bus, message.reply)

    def _say_nobody(self, bus: "MemoryBus", reply: str) -> None:
        """Answer 503 as nats-server does: to one subscription of the publisher's own that takes the reply."""
        for subscription in self._subscriptions:
            if subscription.bus is bus and matches(subscription.subject, reply):
                bus._receive(subscription, Message(reply, "", b""), NO_RESPONDERS)
                return

    def _find(self, subject: str) -> Route:
        route, groups = Route([], []), dict[str, list[MemorySubscription]]()
        for one in self._subscriptions:
            if one.subject == subject or (not one.literal and matches(one.subject, subject)):
                if one.queue:
                    groups.setdefault(one.queue, []).append(one)
                else:
                    route.each.append(one)
        route.groups.extend(groups.values())
        if len(self._routes) >= _ROUTES_KEPT:
            self._routes.clear()
        self._routes[subject] = route
        return route

    def _add(self, subscription: "MemorySubscription") -> None:
        self._subscriptions.append(subscription)
        self._routes.clear()

    def _remove(self, subscription: "MemorySubscription") -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            self._routes.clear()


class MemorySubscription:
    """A subscription to a MemoryBroker."""

    def __init__(
        self, bus: "MemoryBus", subject: str, handler: Handler | None, queue: str, headed: HeadedHandler | None = None
    ) -> None:
        check_pattern(subject)
        self.bus = bus
        self.subject = subject
        self.queue = queue
        self.literal = is_literal(subject)
        self.handler = handler
        self.headed = headed

    def __repr__(self) -> str:
        group = f" in {self.queue}" if self.queue else ""
        return f"MemorySubscription({self.subject}{group})"

    async def drain(self) -> None:
        """End it, and return once everything that was delivered before has been handled."""
        if self.bus.state is BusState.CONNECTED:
            await self.bus.broker._awake.wait()
        self.bus.broker._remove(self)
        await self.bus._caught_up()
        self.handler = self.headed = None

    async def unsubscribe(self) -> None:
        """End it now; what is delivered but not handled is thrown away."""
        self.bus.broker._remove(self)
        self.handler = self.headed = None


class MemoryBus(Stated):
    """A connection to a MemoryBroker; made by its `connect`."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__("a broker in memory")
        self.broker = broker
        self.max_payload = broker.max_payload
        self.backlog = 0
        self.slow_consumers = 0
        self.rtt = 0.0
        self._inbox: list[tuple[MemorySubscription, Message, int]] = []
        self._waiters: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"MemoryBus({self.state.value}, waiting={len(self._inbox)}, backlog={self.backlog})"

    def publish(self, subject: str, data: bytes, reply: str = "") -> bool:
        """Send a message, or return False and send nothing: not connected, clogged, or too large."""
        if not self._takes(subject, reply, len(data)):
            return False
        self.broker._take(self, Message(subject, reply, data))
        return True

    def _takes(self, subject: str, reply: str, size: int) -> bool:
        if self.state is not BusState.CONNECTED or self.backlog > BACKLOG_LIMIT:
            return False
        if size > self.max_payload or len(subject) + len(reply) > SUBJECT_LIMIT:
            return False
        check_subject(subject)
        if reply:
            check_subject(reply)
        return True

    def publish_headed(self, subject: str, headers: Mapping[str, str], data: bytes, reply: str = "") -> bool:
        """Send a message with headers, or return False and send nothing."""
        block = headed(headers)
        if not self._takes(subject, reply, len(block) + len(data)):
            return False
        self.broker._take(self, Message(subject, reply, data, block))
        return True

    def publish_all(self, messages: Sequence[tuple[str, bytes, str]]) -> list[bool]:
        """Send several, and say of each what `publish` would."""
        return [self.publish(*message) for message in messages]

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> MemorySubscription:
        """Have messages handled, from now on."""
        return await self._subscribe(MemorySubscription(self, subject, handler, queue))

    async def subscribe_headed(self, subject: str, handler: HeadedHandler) -> MemorySubscription:
        """Have messages handled with their headers, from now on."""
        return await self._subscribe(MemorySubscription(self, subject, None, "", handler))

    async def _subscribe(self, subscription: MemorySubscription) -> MemorySubscription:
        if self.state is BusState.CONNECTED:
            await self.broker._awake.wait()
        self.broker._add(subscription)
        return subscription

    async def start(self) -> None:
        """Nothing to do: `MemoryBroker.connect` has connected it."""

    async def close(self) -> None:
        """Be CLOSED; its subscriptions are gone."""
        for subscription in [one for one in self.broker._subscriptions if one.bus is self]:
            await subscription.unsubscribe()
        self._enter(BusState.CLOSED)
        if self in self.broker._buses:
            self.broker._buses.remove(self)

    def _follow(self) -> None:
        if self.broker.state is BrokerState.STOPPED:
            self.backlog = 0
            self.last_error = "the broker was stopped"
            self._enter(BusState.DISCONNECTED)
        else:
            self._enter(BusState.CONNECTED)

    def _receive(self, subscription: MemorySubscription, message: Message, status: int) -> None:
        if not self._inbox:
            asyncio.get_running_loop().call_soon(self._deliver)
        self._inbox.append((subscription, message, status))

    def _deliver(self) -> None:
        """Handle what is there; what handlers send each other comes in a later turn of the loop."""
        inbox, self._inbox = self._inbox, []
        for subscription, (subject, reply, data, headers), status in inbox:
            if subscription.handler is not None:
                self._handle(subscription.handler, subject, reply, data, status)
            elif subscription.headed is not None:
                self._handle(subscription.headed, subject, headers_of(headers), data, status)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _caught_up(self) -> None:
        """Return once what is in the inbox now has been handled; the next `_deliver` takes all of it."""
        if self._inbox:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
