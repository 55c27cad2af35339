"""How an agent reaches the control plane: sealed to the policy agent in office, signed by this node.

A request is a call frame in a control envelope; its answer comes to the inbox, as answers to calls do. Who is in office
stands in the signed head (`follow.py` appoints it); an answer from anybody else is dropped.
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
from bus_mesh.protocol.subjects import Subjects

MOST_ASKED: Final = 256
"""Requests under way at once."""
_FIRST: Final = 1 << 62  # apart from the numbers of calls, whose answers come the same way
_CALL: Final = int(Kind.CALL)
_REPLY: Final = int(Kind.REPLY)


class NoPolicyAgent(Unavailable, reason="NO_POLICY_AGENT"):
    """No policy agent has been heard of, or the one in office does not answer."""


class Control:
    """Asks the policy agent in office."""

    def __init__(self, node: str, keyring: Keyring, bus: Bus, subjects: Subjects, clock: Callable[[], Now]) -> None:
        self._node = node
        self._keyring = keyring
        self._bus = bus
        self._subjects = subjects
        self._clock = clock
        self._numbers = count(_FIRST)
        self._asked: dict[int, tuple[str, asyncio.Future[bytes]]] = {}
        self._office: tuple[str, str] | None = None

    def __repr__(self) -> str:
        return f"Control(office={self._office}, asked={len(self._asked)})"

    def appoint(self, peer: Peer) -> None:
        """Ask this process from now on."""
        self._office = peer.node, peer.boot

    @property
    def office(self) -> Peer | None:
        """The policy agent in office, None while nobody is known."""
        return None if self._office is None else self._keyring.peer_of(*self._office)

    def greet(self, announcement: bytes) -> None:
        """Have the head of policy said again: to whom it may concern, as nobody is known who could be asked."""
        self._bus.publish(self._subjects.control("get", self._node), announcement)

    def tell(self, verb: str, payload: bytes) -> bool:
        """Say something that is not answered; False when it did not leave."""
        try:
            self._send(next(self._numbers), verb, payload, 5.0)
        except MeshError:
            return False
        return True

    async def ask(self, verb: str, payload: bytes, timeout: float) -> bytes:
        """Return the answer to a request, or raise its MeshError; NoPolicyAgent when none comes."""
        if len(self._asked) >= MOST_ASKED:
            raise ResourceExhausted(f"{MOST_ASKED} requests to the policy agent are under way", ran=Ran.NO)
        number = next(self._numbers)
        node = self._send(number, verb, payload, timeout)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = node, answer
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            text = f"the policy agent on {node} did not answer within {timeout:g} s"
            raise DeadlineExceeded(text, ran=Ran.MAYBE) from None
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

    def _send(self, number: int, verb: str, payload: bytes, timeout: float) -> str:
        """Seal and publish a request, and return the node that it went to."""
        peer = self.office
        if peer is None:
            text = (
                "this node's agent has heard of no policy agent: is one running, and does node.yaml name no policy_dir?"
            )
            raise NoPolicyAgent(text, ran=Ran.NO)
        frame = encode((_CALL, number, CONSOLE, verb, int(timeout * 1000), self._node, None, payload))
        subject = self._subjects.control(verb, self._node)
        try:
            data = self._keyring.seal(EnvelopeKind.CONTROL, subject, [frame], [peer], self._clock()).data
        except Untrusted as error:
            raise NoPolicyAgent(error.message, ran=Ran.NO) from None
        if not self._bus.publish(subject, data):
            text = f"a request of {len(data)} bytes was not taken: the bus is away or clogged, or it is too large"
            raise NoPolicyAgent(text, ran=Ran.NO)
        return peer.node
