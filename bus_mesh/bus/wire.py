"""What a bus writes to its broker by itself: publishes, all of a turn in one write.

nats-py hands each publish to a task of its own, which writes a loop turn later; on the path of a call that turn is a
tenth of the way. Its handshake and its subscriptions stay as they are; what comes goes by `inflow.py`.
"""

import asyncio
from collections.abc import Sequence


class Wire:
    """Publishes on their way to one socket."""

    __slots__ = ("_transport",)

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        # A write goes to the system at once, not at the end of the turn; what is under way is bounded by the backlog.
        # 1 and not 0: TLS pauses a writer whose bytes have reached the limit, and would do so with none at all.
        transport.set_write_buffer_limits(high=1, low=0)
        self._transport = transport

    def __repr__(self) -> str:
        return f"Wire(backlog={self.backlog})"

    @property
    def backlog(self) -> int:
        """Bytes taken and not yet handed to the system."""
        # asyncio's TLS transport raises once it is closed.
        return 0 if self._transport.is_closing() else self._transport.get_write_buffer_size()

    def publish(self, messages: Sequence[tuple[str, bytes, str]]) -> bool:
        """Write (subject, data, reply), whose names are known to be subjects; False when the socket is closing."""
        parts: list[bytes] = []
        for subject, data, reply in messages:
            head = f"PUB {subject} {reply} {len(data)}\r\n" if reply else f"PUB {subject} {len(data)}\r\n"
            parts += (head.encode(), data, b"\r\n")
        return self._write(b"".join(parts))

    def publish_headed(self, subject: str, headers: bytes, data: bytes, reply: str) -> bool:
        """Write one message with headers; False when the socket is closing."""
        names = f"{subject} {reply}" if reply else subject
        head = f"HPUB {names} {len(headers)} {len(headers) + len(data)}\r\n"
        return self._write(b"".join((head.encode(), headers, data, b"\r\n")))

    def _write(self, data: bytes) -> bool:
        if self._transport.is_closing():
            return False
        self._transport.write(data)
        return True
