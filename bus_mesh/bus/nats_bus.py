"""The bus on NATS. Only this file and `nats_connection` import nats-py.

nats-py's own reconnecting is off. It keeps publishes while disconnected and sends them afterwards, when nobody waits
for them any more; it stays silent on refused credentials; and some ways of losing the connection end it for good. So
every connection is a new client, made and watched by one supervisor:

    dial ──▶ make the subscriptions ──▶ CONNECTED ──lost, or no PONG within 5 s──▶ DISCONNECTED ──pause──▶ dial
      └──refused──▶ REJECTED ──long pause──▶ dial
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final

from nats import errors
from nats.aio.subscription import Subscription as NatsSubscription

from bus_mesh.bus import backoff
from bus_mesh.bus.access import Access
from bus_mesh.bus.contract import BACKLOG_LIMIT, SUBJECT_LIMIT, BusState, Handler, HeadedHandler, Stated, headed
from bus_mesh.bus.nats_connection import NEVER, Connection, HeadedSink, Sink
from bus_mesh.bus.pattern import check_pattern, check_subject

__all__ = ["NatsBus"]

PING_SECONDS: Final = 5.0
"""Between two questions whether the broker is there; no answer for as long ends the connection."""
CANCEL_SECONDS: Final = 0.1
"""Between two attempts to end the supervisor."""
_PENDING_MESSAGES: Final = 16 * 1024
_PENDING_BYTES: Final = 32 * 1024 * 1024
# Far over BACKLOG_LIMIT plus one message: at this size nats-py's `publish` would begin to wait.
_PENDING_SIZE: Final = 64 * 1024 * 1024
_REFUSED: Final = re.compile(r"authorization (violation|failed)|authentication (expired|revoked)", re.IGNORECASE)

_log = logging.getLogger(__name__)


class _Subscription:
    """A subscription that is made anew on every connection."""

    def __init__(self, bus: "NatsBus", subject: str, sink: Sink | HeadedSink, queue: str) -> None:
        check_pattern(subject)
        if queue:
            check_subject(queue)
        self.subject = subject
        self.queue = queue
        self.connection: Connection | None = None
        self._bus = bus
        self._sink = sink
        self._made: NatsSubscription | None = None
        self._ending = False

    def __repr__(self) -> str:
        group = f" in {self.queue}" if self.queue else ""
        return f"Subscription({self.subject}{group})"

    async def make(self, connection: Connection) -> None:
        """Tell the broker; whoever calls this flushes."""
        if self._ending:
            return
        self.connection = connection
        self._made = await connection.subscribe(
            self.subject,
            self.queue,
            cb=self._sink.take_message,
            pending_msgs_limit=_PENDING_MESSAGES,
            pending_bytes_limit=_PENDING_BYTES,
        )
        number = getattr(self._made, "_id", None)
        if number is not None:
            connection.sinks[number] = self._sink

    async def drain(self) -> None:
        """End it, and return once everything that the broker had delivered before has been handled."""
        self._forget()
        if self._made is not None:
            draining: Coroutine[Any, Any, None] = self._made.drain()  # type: ignore[no-untyped-call]
            with contextlib.suppress(errors.Error, OSError):  # lost meanwhile: nothing more will come
                await draining
        self._end()

    async def unsubscribe(self) -> None:
        """End it now; what is delivered but not handled is thrown away."""
        self._forget()
        self._end()
        if self._made is not None:
            with contextlib.suppress(errors.Error):
                await self._made.unsubscribe()

    def _forget(self) -> None:
        self._ending = True
        if self in self._bus._subscriptions:
            self._bus._subscriptions.remove(self)

    def _end(self) -> None:
        self._sink.handler = None
        if self.connection is not None:
            self.connection.sinks.pop(getattr(self._made, "_id", 0), None)


class NatsBus(Stated):
    """A connection to NATS that comes back by itself.

    `servers` are URLs of one cluster, `name` is what the broker's monitoring shows, `roll` draws from 0 to 1
    (`random.random`) so that nodes do not come back in step, `ping` is what PING_SECONDS says.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        name: str,
        roll: Callable[[], float],
        access: Access | None = None,
        ping: float = PING_SECONDS,
    ) -> None:
        self._servers = [servers] if isinstance(servers, str) else list(servers)
        super().__init__(", ".join(self._servers))
        self.slow_consumers = 0
        self.rtt = 0.0
        self.max_payload = 1024 * 1024
        self._name = name
        self._roll = roll
        self._ping = ping
        self._access = access or Access()
        self._connection: Connection | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._subscriptions: list[_Subscription] = []
        self._failures = 0

    def __repr__(self) -> str:
        return f"NatsBus({self._where}, {self.state.value}, subscriptions={len(self._subscriptions)})"

    @property
    def backlog(self) -> int:
        """Bytes taken by `publish` and not yet handed to the loop's transport."""
        return 0 if self._connection is None else self._connection.backlog

    def publish(self, subject: str, data: bytes, reply: str = "") -> bool:
        """Send a message, or return False and send nothing: not connected, clogged, or too large."""
        return self.publish_all(((subject, data, reply),))[0]

    def publish_headed(self, subject: str, headers: Mapping[str, str], data: bytes, reply: str = "") -> bool:
        """Send a message with headers of NATS, or return False and send nothing."""
        connection, names, size = self._connection, subject + reply, len(headed(headers)) + len(data)
        if not subject or " " in names or not names.isprintable():
            raise ValueError(f"{subject!r} or {reply!r} is not a subject: it is empty or holds a blank")
        if connection is None or connection.backlog > BACKLOG_LIMIT or size > self.max_payload:
            return False
        return len(names) <= SUBJECT_LIMIT and connection.send_headed(subject, headers, data, reply)

    def publish_all(self, messages: Sequence[tuple[str, bytes, str]]) -> list[bool]:
        """Send several in one write, and say of each what `publish` would."""
        connection, taken, fit = self._connection, [], []
        backlog = BACKLOG_LIMIT + 1 if connection is None else connection.backlog
        for message in messages:
            subject, data, reply = message
            names = subject + reply
            if not subject or " " in names or not names.isprintable():
                raise ValueError(f"{subject!r} or {reply!r} is not a subject: it is empty or holds a blank")
            fits = backlog <= BACKLOG_LIMIT and len(data) <= self.max_payload and len(names) <= SUBJECT_LIMIT
            taken.append(fits)
            if fits:
                backlog += len(data)
                fit.append(message)
        if connection is not None and fit and not connection.send(fit):
            return [False] * len(taken)
        return taken

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> _Subscription:
        """Have messages handled, and return once the broker knows; at once, and made later, when not connected."""
        return await self._subscribe(_Subscription(self, subject, Sink(self._handle, handler), queue))

    async def subscribe_headed(self, subject: str, handler: HeadedHandler) -> _Subscription:
        """Have messages handled with their headers; as `subscribe` does."""
        return await self._subscribe(_Subscription(self, subject, HeadedSink(self._handle, handler), ""))

    async def _subscribe(self, subscription: _Subscription) -> _Subscription:
        self._subscriptions.append(subscription)
        connection = self._connection
        if connection is not None:
            try:
                await subscription.make(connection)
                await connection.flush()
            except (errors.Error, OSError):
                connection.lose()  # the next connection makes it
        return subscription

    async def start(self) -> None:
        """Begin to connect, and return at once."""
        self._keeping = asyncio.create_task(self._keep(), name=f"bus {self._name}")

    async def close(self) -> None:
        """Send what was taken, at most 1 s long, and be CLOSED."""
        connection, self._connection = self._connection, None
        self._enter(BusState.CLOSED)
        if connection is not None:
            await connection.discard(politely=True)
        if self._keeping is not None:
            # More than once: nats-py swallows a cancellation in the middle of a TLS handshake, and goes on to connect.
            while not self._keeping.done():
                self._keeping.cancel()
                await asyncio.wait([self._keeping], timeout=CANCEL_SECONDS)
            self._keeping = None

    async def _keep(self) -> None:
        """The supervisor: one connection after the other."""
        now = asyncio.get_running_loop().time
        lost_at = now()
        while self.state is not BusState.CLOSED:
            if await self._live():
                lost_at, self._failures = now(), 0
            if self.state is BusState.REJECTED:
                pause = backoff.refused_pause(self._failures, self._roll())
            else:
                pause = backoff.pause(self._failures, now() - lost_at, self._roll())
            self._failures += 1
            await asyncio.sleep(pause)

    async def _live(self) -> bool:
        """Dial, and stay with the connection until it is lost; False when there never was one."""
        connection, lived = Connection(), False
        try:
            await self._dial(connection)
            connection.shorten()
            await self._make_all(connection)
            self.max_payload = connection.max_payload
            self._connection, lived = connection, True
            self._enter(BusState.CONNECTED)
            _log.info("connected to the bus at %s", self._where)
            await self._stay(connection)
        except Exception as error:  # whatever a broker, a proxy or a resolver comes up with: knock again later
            self._connection = None
            self._note(connection.last_error or error)
        finally:
            self._connection = None
            try:
                await connection.discard()
            except Exception:  # whatever is left of it, the next connection must not wait for it
                _log.exception("a connection to the bus did not end cleanly")
        return lived

    async def _dial(self, connection: Connection) -> None:
        await connection.connect(
            self._servers,
            name=self._name,
            error_cb=partial(self._hear, connection),
            closed_cb=connection.closed,
            allow_reconnect=False,
            max_reconnect_attempts=1,  # two attempts for each server, without a pause between them
            reconnect_time_wait=0,
            ping_interval=NEVER,  # `_stay` asks instead: nats-py's way out waits for a broker that does not read
            pending_size=_PENDING_SIZE,
            **self._access.options(),
        )
        if self._access.tls is not None and not connection.encrypted:
            # nats-py goes on in the clear where a broker, or whoever plays one, offers no TLS.
            raise errors.Error(f"the broker at {self._where} offers no TLS, and ours must: check bus.url and bus.tls")

    async def _make_all(self, connection: Connection) -> None:
        """Make every subscription, those included that come while we wait for the broker."""
        while missing := [one for one in self._subscriptions if one.connection is not connection]:
            for one in missing:
                await one.make(connection)
            await connection.flush()

    async def _stay(self, connection: Connection) -> None:
        """Return never, but raise once the connection is lost or the broker does not answer."""
        while True:
            self.rtt = await connection.round_trip(self._ping)
            await asyncio.wait((connection.lost,), timeout=self._ping)

    async def _hear(self, connection: Connection, error: Exception) -> None:
        """What nats-py reports by the way; of a connection that is given up nothing is news."""
        if connection.lost.done():
            return
        if isinstance(error, errors.SlowConsumerError):
            self.slow_consumers += 1
            return
        self.last_error = str(error)
        if self.state is BusState.CONNECTED:
            _log.warning("the bus at %s: %s", self._where, error)

    def _note(self, error: Exception) -> None:
        """Say why there is no connection, and be REJECTED or DISCONNECTED."""
        if self.state is BusState.CLOSED:
            return
        # These two say nothing; what nats-py reported before them does.
        if not isinstance(error, errors.NoServersError | errors.ConnectionClosedError) or not self.last_error:
            self.last_error = str(error) or type(error).__name__
        state = BusState.REJECTED if _REFUSED.search(self.last_error) else BusState.DISCONNECTED
        if state is BusState.DISCONNECTED and self.state is BusState.CONNECTING:
            state = BusState.CONNECTING
        if state is not self.state:
            self._failures = 0
        if self._failures == 0:
            _log.warning("no bus at %s (%s): %s", self._where, state.value, self.last_error)
        self._enter(state)
