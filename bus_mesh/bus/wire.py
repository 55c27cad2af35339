"""What a bus writes to its broker by itself: publishes, gathered and written once.

nats-py hands each publish to a task of its own, which writes a loop turn later; on the path of a call that turn is a
tenth of the way. Its handshake and its subscriptions stay as they are; what comes goes by `inflow.py`.
"""

import asyncio


class Wire:
    """Publishes of this turn on their way to one socket."""

    __slots__ = ("_loop", "_out", "_size", "_transport")

    def __init__(self, transport: asyncio.WriteTransport, loop: asyncio.AbstractEventLoop) -> None:
        # A write goes to the system at once, not at the end of the turn; what is under way is bounded by the backlog.
        transport.set_write_buffer_limits(high=0)
        self._transport = transport
        self._loop = loop
        self._out: list[bytes] = []
        self._size = 0

    def __repr__(self) -> str:
        return f"Wire(backlog={self.backlog})"

    @property
    def backlog(self) -> int:
        """Bytes taken and not yet handed to the system."""
        return self._transport.get_write_buffer_size() + self._size

    def publish(self, subject: str, data: bytes, reply: str) -> None:
        """Take a message: it is written by `flush`, or at the end of the turn."""
        if not self._out:
            self._loop.call_soon(self.flush)
        head = (f"PUB {subject} {reply} {len(data)}\r\n" if reply else f"PUB {subject} {len(data)}\r\n").encode()
        self._out += (head, data, b"\r\n")
        self._size += len(head) + len(data) + 2

    def flush(self) -> None:
        """Write what was taken."""
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()
        self._size = 0


def is_subject(text: str) -> bool:
    """Tell whether `text` may stand in a line of the protocol: not empty, no blank, no line end."""
    return bool(text) and " " not in text and text.isprintable()
