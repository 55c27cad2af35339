"""One connection to NATS: nats-py's client, with what a bus needs on top and what is known of nats-py to go wrong."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from bus_mesh.bus.contract import NO_RESPONDERS, Handler, HeadedHandler, headed, headers_of
from bus_mesh.bus.inflow import NOBODY, Inflow
from bus_mesh.bus.wire import Wire
from bus_mesh.clock import monotonic

__all__ = ["NEVER", "Connection", "HeadedSink", "Sink"]

NEVER: Final = 24 * 3600
"""A timeout in seconds that nats-py must not use: what it cancels in it ends the connection."""
_LOOK_SECONDS: Final = 0.05
_LOOK_SELDOM: Final = 1.0  # where the end of the socket itself is seen
_CLOSE_SECONDS: Final = 1.0

_T = TypeVar("_T")


class Sink:
    """Where the messages of a subscription go, until it ends."""

    __slots__ = ("_handle", "handler")

    def __init__(self, handle: Callable[[Handler, str, str, bytes, int], None], handler: Handler) -> None:
        self._handle = handle
        self.handler: Handler | None = handler

    def take(self, subject: str, reply: str, data: bytes, status: int) -> None:
        """Hand a message over."""
        if self.handler is not None:
            self._handle(self.handler, subject, reply, data, status)

    def take_headed(self, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        """Hand over one that came with headers, without them."""
        self.take(subject, reply, data, _status(headers))

    async def take_message(self, message: Msg) -> None:
        """The same in nats-py's own way."""
        self.take_headed(message.subject, message.reply, message.data, _block(message))


class HeadedSink:
    """Where messages go with their headers."""

    __slots__ = ("_handle", "handler")

    def __init__(
        self,
        handle: Callable[[HeadedHandler, str, Mapping[str, str], bytes, int], None],
        handler: HeadedHandler,
    ) -> None:
        self._handle = handle
        self.handler: HeadedHandler | None = handler

    def take(self, subject: str, reply: str, data: bytes, status: int) -> None:
        """Hand over one that has none."""
        if self.handler is not None:
            self._handle(self.handler, subject, {}, data, status)

    def take_headed(self, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        """Hand over one that has some."""
        if self.handler is not None:
            self._handle(self.handler, subject, headers_of(headers), data, _status(headers))

    async def take_message(self, message: Msg) -> None:
        """The same in nats-py's own way."""
        self.take_headed(message.subject, message.reply, message.data, _block(message))


def _status(headers: bytes) -> int:
    return NO_RESPONDERS if headers.startswith(NOBODY) else 0


def _block(message: Msg) -> bytes:
    """Return headers as they came: nats-py makes a map of them, and of the broker's status one of its entries."""
    said = dict(message.headers or {})
    nobody = said.pop("Status", None) == str(NO_RESPONDERS)
    return NOBODY if nobody else headed(said)


class Connection(Client):
    """One connection, which says when it is over and whose questions to the broker cannot wedge it."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sinks: dict[int, Sink | HeadedSink] = {}
        self.wire: Wire | None = None
        self._asking: set[asyncio.Task[Any]] = set()
        self._look_seconds = _LOOK_SECONDS
        self._look()

    def lose(self) -> None:
        """Count as lost from now on."""
        self._glance.cancel()
        if not self.lost.done():
            self.lost.set_result(None)

    async def closed(self) -> None:
        """The same as nats-py wants to say it: in a coroutine."""
        self.lose()

    def _look(self) -> None:
        # `closed_cb` is not enough: when bytes were still to be sent, nats-py's way to it ends in an exception or waits
        # for a broker that does not read. Its `is_closed` is always true by then, so have a look now and then.
        self._glance = asyncio.get_running_loop().call_later(self._look_seconds, self._look)
        if self.is_closed:
            self.lose()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        # Private, for where `shorten` found no way: nats-py decodes what strangers send where an exception kills the
        # reader. Should it no longer call this, every subscription also has its `cb`.
        sink = self.sinks.get(sid)
        if sink is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            names = subject.decode(), reply.decode()
        except UnicodeDecodeError:
            return  # names are ASCII: nobody of ours sent this
        sink.take_headed(*names, data, headers or b"")

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
        await self.ask(super().flush(NEVER), timeout)
        await self.ask(super().flush(NEVER), timeout)

    async def round_trip(self, timeout: float) -> float:
        """Seconds to the broker and back; raise TimeoutError or nats' Error when there is no way."""
        started = monotonic()  # nats-py's own figure is uvloop's clock, which ticks in milliseconds
        await self.ask(super().rtt(NEVER), timeout)
        return monotonic() - started

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
    def encrypted(self) -> bool:
        """Whether what is sent goes through TLS; not, when that cannot be told."""
        writer = getattr(getattr(self, "_transport", None), "_io_writer", None)
        return writer is not None and writer.get_extra_info("ssl_object") is not None

    @property
    def backlog(self) -> int:
        """Bytes taken and not yet handed to the system."""
        return self.pending_data_size + (self.wire.backlog if self.wire is not None else 0)

    def shorten(self) -> None:
        """Read and write at the socket itself from now on, if nats-py keeps it where it is known to.

        To be called before there is any subscription. Private names, for want of public ones: what is not found stays
        nats-py's own way, slower and as right.
        """
        way = getattr(self, "_transport", None)
        transport = getattr(getattr(way, "_io_writer", None), "transport", None)
        if transport is None:
            return
        self.wire = Wire(transport)
        behind = transport.get_protocol()
        if isinstance(behind, asyncio.StreamReaderProtocol):
            transport.set_protocol(Inflow(behind, self.sinks, self.lose))
            self._look_seconds = _LOOK_SELDOM

    def send(self, messages: Sequence[tuple[str, bytes, str]]) -> bool:
        """Publish (subject, data, reply) without waiting; False when they were not taken."""
        if not self.is_connected:
            self.lose()  # the supervisor need not wait until it looks
            return False
        if self.wire is not None:
            return self.wire.publish(messages) or self._gone()
        for message in messages:
            # Driven by hand, a task saved: it only suspends when its buffer is full, which is far over our limit.
            publishing = self.publish(*message)
            with contextlib.suppress(StopIteration):
                publishing.send(None)
            publishing.close()
        return True

    def _gone(self) -> bool:
        self.lose()
        return False

    def send_headed(self, subject: str, headers: Mapping[str, str], data: bytes, reply: str) -> bool:
        """Publish with headers, without waiting; False when it was not taken."""
        if not self.is_connected:
            self.lose()
            return False
        if self.wire is not None:
            return self.wire.publish_headed(subject, headed(headers), data, reply) or self._gone()
        plain = {name: " ".join(value.split()) for name, value in headers.items()}
        publishing = self.publish(subject, data, reply, headers=plain)
        with contextlib.suppress(StopIteration):
            publishing.send(None)
        publishing.close()
        return True

    def _abort(self) -> None:
        # Private, for want of a public way: `close` waits for a broker that has stopped reading, and returns at once,
        # socket open, when an earlier attempt failed. Should the names change, `close` alone has to do.
        writer = getattr(getattr(self, "_transport", None), "_io_writer", None)
        if writer is not None:
            with contextlib.suppress(
                AttributeError
            ):  # asyncio's, of a TLS transport that is gone already (CPython 3.11.2)
                writer.transport.abort()
