"""What every bus keeps, and what it refuses. One suite of tests holds all of them to it (`tests/contract/`).

    CONNECTING ──▶ CONNECTED ◀──lost, found again──▶ DISCONNECTED        REJECTED: the broker refuses our credentials;
         │                                                ▲              it is asked again, with long pauses
         └─────────────▶ REJECTED ◀───────────────────────┘              any of them ──close()──▶ CLOSED

Kept: messages of one publisher to one subscription arrive in order; each message to a queue group reaches one member; a
message with a reply that nobody subscribes to is answered at once, empty and with status 503, on that reply subject;
handlers are called one after the other and never within `publish`; subscriptions survive the loss of the broker.

Refused: nothing is published while not connected, and nothing is kept to be sent later. Nothing is promised about
messages that were under way when the broker was lost, nor about the order of two subscriptions.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final, Protocol, TypeVar

__all__ = [
    "BACKLOG_LIMIT",
    "HEADERS_LIMIT",
    "NO_RESPONDERS",
    "SUBJECT_LIMIT",
    "Bus",
    "BusRejected",
    "BusState",
    "BusUnreachable",
    "Handler",
    "HeadedHandler",
    "Stated",
    "Subscription",
    "headed",
    "headers_of",
]

Handler = Callable[[str, str, bytes, int], None]
"""What takes a message: subject, reply subject (or empty), data, status (503 for "nobody subscribes", else 0).

Synchronous. It must not raise: what it raises is logged and counted, and the next message is handed over. A status can
be forged by whoever may publish to that subject, so only heed it where nobody may.
"""

T = TypeVar("T")

HeadedHandler = Callable[[str, Mapping[str, str], bytes, int], None]
"""What takes a message with its headers: subject, headers, data, status. As Handler else."""

BACKLOG_LIMIT: Final = 4 * 1024 * 1024
"""Bytes waiting to be sent over which nothing more is taken: the broker has stopped reading."""
SUBJECT_LIMIT: Final = 1000
"""Characters of a subject and a reply together: 4,000 bytes at most, of the 4,096 that a broker takes in one line."""
HEADERS_LIMIT: Final = 8 * 1024
"""Bytes of the headers of a message that are read; what follows counts as none."""
NO_RESPONDERS: Final = 503
"""Status of the broker's word that nobody subscribes."""

_CREDENTIALS: Final = re.compile(r"//[^/@\s]*@")

_log = logging.getLogger(__name__)


class BusState(Enum):
    """Where the connection to the bus stands; see the diagram above."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    REJECTED = "rejected"
    DISCONNECTED = "disconnected"
    CLOSED = "closed"


class BusUnreachable(Exception):
    """The bus was not reached in time; the message says where it was looked for and what came back."""


class BusRejected(BusUnreachable):
    """The bus refuses our credentials."""


class Subscription(Protocol):
    """A standing wish for messages."""

    async def drain(self) -> None:
        """End it, and return once everything that the broker had delivered before has been handled."""

    async def unsubscribe(self) -> None:
        """End it now; what is delivered but not handled is thrown away."""


class Bus(Protocol):
    """A connection to the message bus."""

    @property
    def state(self) -> BusState:
        """Where the connection stands."""

    @property
    def max_payload(self) -> int:
        """Bytes that one message may carry."""

    @property
    def backlog(self) -> int:
        """Bytes taken by `publish` and not yet handed to the system."""

    @property
    def reconnects(self) -> int:
        """How often the bus was found again."""

    @property
    def slow_consumers(self) -> int:
        """Messages thrown away here because handlers were too slow."""

    @property
    def handler_errors(self) -> int:
        """Exceptions that handlers raised."""

    @property
    def rtt(self) -> float:
        """Seconds to the broker and back, last time it was asked; 0.0 before that."""

    @property
    def last_error(self) -> str:
        """Why the bus was last lost or not reached; empty when it never was."""

    def publish(self, subject: str, data: bytes, reply: str = "") -> bool:
        """Send a message, or return False and send nothing: not connected, clogged, or too large.

        Raises ValueError for a subject that is empty or holds a blank.
        """

    def publish_headed(self, subject: str, headers: Mapping[str, str], data: bytes, reply: str = "") -> bool:
        """Send a message with headers of NATS, which plain clients and services know; as `publish` does.

        Line ends in a value become blanks.
        """

    def publish_all(self, messages: Sequence[tuple[str, bytes, str]]) -> list[bool]:
        """Send several (subject, data, reply) in one write, and say of each what `publish` would."""

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        """Have messages handled, and return once the broker knows; at once, and made later, when not connected.

        Their headers are dropped. Raises ValueError for a subject that is no pattern.
        """

    async def subscribe_headed(self, subject: str, handler: HeadedHandler) -> Subscription:
        """Have messages handled with their headers; as `subscribe` does."""

    def on_state(self, callback: Callable[[BusState], None]) -> None:
        """Have every change of state told; synchronous, in the order of the changes."""

    async def start(self) -> None:
        """Begin to connect, and return at once."""

    async def ready(self, timeout: float) -> None:
        """Wait until connected, `timeout` seconds at most; raise BusRejected at once, or BusUnreachable."""

    async def close(self) -> None:
        """Send what was taken, at most 1 s long, and be CLOSED."""


def headed(headers: Mapping[str, str]) -> bytes:
    """Return headers as NATS writes them before the data."""
    lines = "".join(f"{name}: {' '.join(value.split())}\r\n" for name, value in headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode()


def headers_of(block: bytes) -> dict[str, str]:
    """Return the headers that stand before the data, the first of each name; what is no header is left out.

    Whoever may publish there writes them, so no more than HEADERS_LIMIT bytes are read.
    """
    found: dict[str, str] = {}
    for line in block[:HEADERS_LIMIT].split(b"\r\n")[1:]:
        name, colon, value = line.decode(errors="replace").partition(":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found


class Stated:
    """The state of a bus and who wants to know of it."""

    def __init__(self, where: str) -> None:
        self.state = BusState.CONNECTING
        self.last_error = ""
        self.reconnects = 0
        self.handler_errors = 0
        self._where = _CREDENTIALS.sub("//", where)  # it goes into messages and logs
        self._settled = asyncio.Event()
        self._watchers: list[Callable[[BusState], None]] = []
        self._was_connected = False

    def on_state(self, callback: Callable[[BusState], None]) -> None:
        """Have every change of state told; synchronous, in the order of the changes."""
        self._watchers.append(callback)

    async def ready(self, timeout: float = 10.0) -> None:
        """Wait until connected, `timeout` seconds at most; raise BusRejected at once, or BusUnreachable."""
        try:
            await asyncio.wait_for(self._settled.wait(), timeout)
        except TimeoutError:
            why = self.last_error or "no answer"
            raise BusUnreachable(f"no bus at {self._where} within {timeout:g} s ({why}); is it running?") from None
        if self.state is BusState.REJECTED:
            raise BusRejected(f"the bus at {self._where} refuses us ({self.last_error}); check the credentials")
        if self.state is BusState.CLOSED:
            raise BusUnreachable(f"this connection to the bus at {self._where} has been closed")

    def _enter(self, state: BusState) -> None:
        if state is self.state or self.state is BusState.CLOSED:
            return
        self.state = state
        if state is BusState.CONNECTED:
            self.reconnects += self._was_connected
            self._was_connected = True
        if state is BusState.DISCONNECTED:
            self._settled.clear()
        else:
            self._settled.set()
        for tell in self._watchers:
            try:
                tell(state)
            except Exception:
                _log.exception("a watcher of the bus failed on %s", state.value)

    def _handle(
        self, handler: Callable[[str, T, bytes, int], None], subject: str, said: T, data: bytes, n: int
    ) -> None:
        """Hand a message over; whatever the handler does, the next one will be too."""
        try:
            handler(subject, said, data, n)
        except Exception:
            self.handler_errors += 1
            _log.exception("the handler of %s failed", subject)
