"""What a broker sends, taken apart where it arrives: messages are handed over at once, the rest is left to nats-py.

nats-py reads through a stream, a task and a queue for each subscription, a loop turn and several copies later. Here all
messages of one read are handled in it, in the order of arrival. Only whole messages of a subscription we know are taken
out; every other byte goes on to nats-py as it came: its handshake, its PONGs, its errors.

    data ──▶ message of ours ──▶ sink
         └─▶ anything else ──▶ nats-py's reader
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

_MSG: Final = b"MSG "
_HMSG: Final = b"HMSG "
_END: Final = b"\r\n"
NOBODY: Final = b"NATS/1.0 503"
"""How the headers of the broker's word begin that nobody subscribes."""
LONGEST_LINE: Final = 64 * 1024
"""Bytes of a line without an end after which it is left to nats-py to be dismayed."""


LARGEST: Final = 64 * 1024 * 1024
"""Bytes of a message: what a NATS server may be set to let through at most."""


class Taking(Protocol):
    """Who takes the messages of a subscription."""

    def take(self, subject: str, reply: str, data: bytes, status: int) -> None:
        """Take one without headers; `status` is 0."""

    def take_headed(self, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        """Take one with headers: a plain client's, or the broker's word that nobody subscribes."""


class Inflow(asyncio.Protocol):
    """Stands before the protocol that nats-py reads from.

    `sinks` are subscriptions by their number; `lost` is called as soon as nothing more will come.
    """

    def __init__(self, behind: asyncio.Protocol, sinks: Mapping[int, Taking], lost: Callable[[], None]) -> None:
        self._behind = behind
        self._sinks = sinks
        self._lost = lost
        self._held: list[bytes] = []
        self._size = 0
        self._missing = 0

    def __repr__(self) -> str:
        return f"Inflow(held={sum(map(len, self._held))}, sinks={len(self._sinks)})"

    def data_received(self, data: bytes) -> None:
        """Take apart what came; what is cut waits for the rest."""
        if self._held:
            self._held.append(data)
            self._size += len(data)
            if self._size < self._missing:
                return
            data = b"".join(self._held)
            self._held.clear()
        at, end = 0, len(data)
        while at < end:
            stop = self._one(data, at, end)
            if not stop:
                self._held.append(data[at:])
                self._size = end - at
                return
            at = stop

    def _one(self, data: bytes, at: int, end: int) -> int:
        """Pass on what starts at `at` and return where it ends, or 0 when that has not come yet."""
        line = data.find(_END, at)
        if line < 0:
            self._missing = 0
            if end - at < LONGEST_LINE:
                return 0
            return self._leave(data, at, end)
        plain = data.startswith(_MSG, at)
        if not plain and not data.startswith(_HMSG, at):
            return self._leave(data, at, line + 2)
        words = data[at:line].split(b" ")  # the broker parts them so; other blanks may stand in a subject
        try:
            body, size, number = line + 2, int(words[-1]), int(words[2])
            start = body if plain else body + int(words[-2])
        except (ValueError, IndexError):
            return self._leave(data, at, line + 2)
        if not 0 <= start - body <= size <= LARGEST:
            return self._leave(data, at, line + 2)
        stop = body + size + 2
        if stop > end:
            self._missing = stop - at
            return 0
        sink = self._sinks.get(number)
        if sink is None:
            return self._leave(data, at, stop)
        try:
            subject, reply = words[1].decode(), words[3].decode() if len(words) == 6 - plain else ""
        except UnicodeDecodeError:
            return stop  # names are ASCII: nobody of ours sent this
        if plain:
            sink.take(subject, reply, data[start : stop - 2], 0)
        else:
            sink.take_headed(subject, reply, data[start : stop - 2], data[body:start])
        return stop

    def _leave(self, data: bytes, at: int, stop: int) -> int:
        self._behind.data_received(data[at:stop])
        return stop

    # The rest is between the transport and nats-py.

    def pause_writing(self) -> None:
        """Pass it on."""
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._behind.resume_writing()

    def eof_received(self) -> bool | None:
        """Pass it on."""
        self._lost()
        return self._behind.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._lost()
        self._behind.connection_lost(exc)
