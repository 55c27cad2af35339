"""Requests of this agent to another process on the bus: a call frame in a signed, sealed control envelope.

The answer comes to the inbox, as answers to calls do, under a number that no call has. Only the node that was asked is
believed.
"""

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Final

from bus_mesh.agent.session import CONSOLE
from bus_mesh.bus.contract import Bus
from bus_mesh.identity.envelope import EnvelopeKind
from bus_mesh.identity.keyring import Keyring, Now, Peer, Untrusted
from bus_mesh.protocol.errors import DeadlineExceeded, MeshError, Ran, ResourceExhausted, Unavailable
from bus_mesh.protocol.frames import Fail, Fields, Kind, encode, named

MOST_ASKED: Final = 1024
"""Requests under way at once."""
_FIRST: Final = 1 << 62  # apart from the numbers of calls, whose answers come the same way
_CALL: Final = int(Kind.CALL)
_REPLY: Final = int(Kind.REPLY)


class Requests:
    """What this agent has asked of others and not been answered yet."""

    def __init__(self, node: str, keyring: Keyring, bus: Bus, clock: Callable[[], Now]) -> None:
        self._node = node
        self._keyring = keyring
        self._bus = bus
        self._clock = clock
        self._numbers = count(_FIRST)
        self._asked: dict[int, tuple[str, asyncio.Future[bytes]]] = {}

    def __repr__(self) -> str:
        return f"Requests({len(self._asked)})"

    def send(self, peer: Peer, subject: str, verb: str, payload: bytes, timeout: float) -> int:
        """Seal and publish a request, and return its number; raise Unavailable when it did not leave."""
        number = next(self._numbers)
        frame = encode((_CALL, number, CONSOLE, verb, int(timeout * 1000), self._node, None, payload))
        try:
            data = self._keyring.seal(EnvelopeKind.CONTROL, subject, [frame], [peer], self._clock()).data
        except Untrusted as error:
            raise Unavailable(error.message, ran=Ran.NO) from None
        if not self._bus.publish(subject, data):
            text = f"a request of {len(data)} bytes was not taken: the bus is away or clogged, or it is too large"
            raise Unavailable(text, ran=Ran.NO)
        return number

    async def ask(self, peer: Peer, subject: str, verb: str, payload: bytes, timeout: float) -> bytes:
        """Return the answer to a request, or raise its MeshError; DeadlineExceeded when none comes."""
        if len(self._asked) >= MOST_ASKED:
            raise ResourceExhausted(f"{MOST_ASKED} requests to other nodes are under way", ran=Ran.NO)
        number = self.send(peer, subject, verb, payload, timeout)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = peer.node, answer
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise DeadlineExceeded(f"no answer from {peer.node} for {timeout:g} s", ran=Ran.MAYBE) from None
        finally:
            del self._asked[number]

    def answered(self, peer: Peer, frame: Fields) -> None:
        """Take in a REPLY or FAIL that answers no call of an app."""
        node, answer = self._asked.get(frame[1], ("", None))
        if answer is None or answer.done() or node != peer.node:
            return
        if frame[0] == _REPLY:
            answer.set_result(frame[3])
        else:
            failed = named(frame)
            assert isinstance(failed, Fail)
            answer.set_exception(
                MeshError.from_wire(failed.code, failed.reason, failed.message, failed.details, failed.head)
            )
