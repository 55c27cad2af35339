"""The bus on NATS: the only file that imports nats-py, and what is known of nats-py is said here.

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
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from bus_mesh.bus import backoff
from bus_mesh.bus.access import Access
from bus_mesh.bus.contract import BACKLOG_LIMIT, NO_RESPONDERS, SUBJECT_LIMIT, BusState, Handler, Stated
from bus_mesh.bus.pattern import check_pattern, check_subject
from bus_mesh.bus.wire import Wire, is_subject
from nats import errors

__all__ = ["NatsBus"]

PING_SECONDS: Final = 5.0
"""Between two questions whether the broker is there; no answer for as long ends the connection."""
_LOOK_SECONDS: Final = 0.05
_CLOSE_SECONDS: Final = 1.0
_NEVER: Final = 24 * 3600
_PENDING_MESSAGES: Final = 16 * 1024
_PENDING_BYTES: Final = 32 * 1024 * 1024
# Far over BACKLOG_LIMIT plus one message: at this size nats-py's `publish` would begin to wait.
_PENDING_SIZE: Final = 64 * 1024 * 1024
_REFUSED: Final = re.compile(r"authorization (violation|failed)|authentication (expired|revoked)", re.IGNORECASE)
_NOBODY: Final = b"NATS/1.0 503"

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class _Connection(Client):
    """One connection, which says when it is over and whose questions to the broker cannot wedge it."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sinks: dict[int, _Sink] = {}
        self.wire: Wire | None = None
        self._asking: set[asyncio.Task[Any]] = set()
        self._look()

    def lose(self) -> None:
        """Count as lost from now on."""
        self._glance.cancel()
        if not self.lost.done():
            self.lost.set_result(None)

    def _look(self) -> None:
        # `closed_cb` is not enough: when bytes were still to be sent, nats-py's way to it ends in an exception or waits
        # for a broker that does not read. Its `is_closed` is always true by then, so have a look now and then.
        self._glance = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)
        if self.is_closed:
            self.lose()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        # Private, for two reasons. Between the reader and a handler nats-py puts a queue and a task for each
        # subscription; here all messages of one read are handled in one turn of the loop, in the order of arrival. And
        # it decodes what strangers send where an exception kills the reader. Should nats-py no longer call this, every
        # subscription also has its `cb`.
        sink = self.sinks.get(sid)
        if sink is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            names = subject.decode(), reply.decode()
        except UnicodeDecodeError:
            return  # names are ASCII: nobody of ours sent this
        sink.take(*names, data, NO_RESPONDERS if headers and headers.startswith(_NOBODY) else 0)

    async def ask(self, question: Coroutine[Any, Any, _T], timeout: float) -> _T:
        """Return the answer; raise TimeoutError, or ConnectionClosedError as soon as the connection is lost.

        The question itself is never cancelled: a PONG that finds its future cancelled kills nats-py's reader.
        """
        asking = asyncio.ensure_future(question)
        self._asking.add(asking)
        asking.add_done_callback(self._answered)
        await asyncio.wait((asking, self.lost), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            return asking.result()
        if self.lost.done():
            raise errors.ConnectionClosedError
        raise TimeoutError(f"the broker did not answer within {timeout:g} s")

    def _answered(self, asking: asyncio.Task[Any]) -> None:
        self._asking.discard(asking)
        asking.cancelled() or asking.exception()  # seen: whoever asked may have been cancelled meanwhile

    async def flush(self, timeout: int = 10) -> None:
        """Return once the broker has handled everything written so far. `Subscription.drain` calls this too.

        nats-py's own is no barrier: its PING goes out at once and overtakes commands that wait for the flusher. But
        when its PONG is here, the flusher has run; so the second PING is behind them.
        """
        await self.ask(super().flush(_NEVER), timeout)
        await self.ask(super().flush(_NEVER), timeout)

    async def round_trip(self, timeout: float) -> float:
        """Seconds to the broker and back; raise TimeoutError or nats' Error when there is no way."""
        return await self.ask(super().rtt(_NEVER), timeout)

    async def discard(self, *, politely: bool = False) -> None:
        """Be gone, with everything that is not yet sent; `politely` tries for a second to send it."""
        if politely:
            with contextlib.suppress(TimeoutError, OSError, errors.Error):
                await asyncio.wait_for(super().close(), _CLOSE_SECONDS)
        self.lose()
        for asking in list(self._asking):
            asking.cancel()
        self._abort()
        with contextlib.suppress(TimeoutError, OSError, errors.Error):
            await asyncio.wait_for(super().close(), _CLOSE_SECONDS)

    @property
    def backlog(self) -> int:
        """Bytes taken and not yet handed to the system."""
        return self.pending_data_size + (self.wire.backlog if self.wire is not None else 0)

    def find_wire(self) -> None:
        """Write publishes straight to the socket from now on, if nats-py keeps it where it is known to."""
        transport = getattr(getattr(getattr(self, "_transport", None), "_io_writer", None), "transport", None)
        if transport is not None:
            self.wire = Wire(transport, asyncio.get_running_loop())

    def send(self, subject: str, data: bytes, reply: str) -> bool:
        """Publish without waiting; False when it was not taken."""
        if self.wire is not None:
            self.wire.publish(subject, data, reply)
            return True
        # Driven by hand, a task saved: `publish` only suspends when its buffer is full, which is far over our limit.
        publishing = self.publish(subject, data, reply)
        try:
            publishing.send(None)
        except StopIteration:
            return True
        except errors.Error:
            return False
        publishing.close()
        return True

    def _abort(self) -> None:
        # Private, for want of a public way: `close` waits for a broker that has stopped reading, and returns at once,
        # socket open, when an earlier attempt failed. Should the names change, `close` alone has to do.
        writer = getattr(getattr(self, "_transport", None), "_io_writer", None)
        if writer is not None:
            writer.transport.abort()


class _Sink:
    """Where the messages of a subscription go, until it ends."""

    __slots__ = ("_handle", "handler")

    def __init__(self, handle: Callable[[Handler, str, str, bytes, int], None], handler: Handler) -> None:
        self._handle = handle
        self.handler: Handler | None = handler

    def take(self, subject: str, reply: str, data: bytes, status: int) -> None:
        """Hand a message over."""
        if self.handler is not None:
            self._handle(self.handler, subject, reply, data, status)

    async def take_message(self, message: Msg) -> None:
        """The same in nats-py's own way."""
        nobody = (message.headers or {}).get("Status") == str(NO_RESPONDERS)
        self.take(message.subject, message.reply, message.data, NO_RESPONDERS if nobody else 0)


class _Subscription:
    """A subscription that is made anew on every connection."""

    def __init__(self, bus: "NatsBus", subject: str, handler: Handler, queue: str) -> None:
        check_pattern(subject)
        if queue:
            check_subject(queue)
        self.subject = subject
        self.queue = queue
        self.connection: _Connection | None = None
        self._bus = bus
        self._sink = _Sink(bus._handle, handler)
        self._made: NatsSubscription | None = None
        self._ending = False

    def __repr__(self) -> str:
        group = f" in {self.queue}" if self.queue else ""
        return f"Subscription({self.subject}{group})"

    async def make(self, connection: _Connection) -> None:
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
        self._connection: _Connection | None = None
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
        connection = self._connection
        if connection is None or connection.backlog > BACKLOG_LIMIT:
            return False
        if not connection.is_connected:
            connection.lose()  # the supervisor need not wait until it looks
            return False
        if len(data) > self.max_payload or len(subject) + len(reply) > SUBJECT_LIMIT:
            return False
        if not is_subject(subject) or (reply and not is_subject(reply)):
            raise ValueError(f"{subject!r} or {reply!r} is not a subject: it is empty or holds a blank")
        return connection.send(subject, data, reply)

    def flush(self) -> None:
        """Hand what was published to the system now."""
        if self._connection is not None and self._connection.wire is not None:
            self._connection.wire.flush()

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> _Subscription:
        """Have messages handled, and return once the broker knows; at once, and made later, when not connected."""
        subscription = _Subscription(self, subject, handler, queue)
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
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
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
        connection, lived = _Connection(), False
        try:
            await self._dial(connection)
            connection.find_wire()
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
            await connection.discard()
        return lived

    async def _dial(self, connection: _Connection) -> None:
        await connection.connect(
            self._servers,
            name=self._name,
            error_cb=partial(self._hear, connection),
            closed_cb=_told(connection.lose),
            allow_reconnect=False,
            max_reconnect_attempts=1,  # two attempts for each server, without a pause between them
            reconnect_time_wait=0,
            ping_interval=_NEVER,  # `_stay` asks instead: nats-py's way out waits for a broker that does not read
            pending_size=_PENDING_SIZE,
            **self._access.options(),
        )

    async def _make_all(self, connection: _Connection) -> None:
        """Make every subscription, those included that come while we wait for the broker."""
        while missing := [one for one in self._subscriptions if one.connection is not connection]:
            for one in missing:
                await one.make(connection)
            await connection.flush()

    async def _stay(self, connection: _Connection) -> None:
        """Return never, but raise once the connection is lost or the broker does not answer."""
        while True:
            self.rtt = await connection.round_trip(self._ping)
            await asyncio.wait((connection.lost,), timeout=self._ping)

    async def _hear(self, connection: _Connection, error: Exception) -> None:
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


def _told(tell: Callable[[], None]) -> Callable[[], Coroutine[Any, Any, None]]:
    """A callback as nats-py wants it: a coroutine function."""

    async def told() -> None:
        tell()

    return told
