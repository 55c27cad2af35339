"""How an agent reaches the control plane: sealed to the policy agent in office, signed by this node.

Who is in office stands in the signed head (`follow.py` appoints it).
"""

from typing import Final

from bus_mesh.agent.requests import Requests
from bus_mesh.bus.contract import Bus
from bus_mesh.identity.keyring import Keyring, Peer
from bus_mesh.protocol.errors import DeadlineExceeded, MeshError, Ran, Unavailable
from bus_mesh.protocol.subjects import Subjects

TELL_SECONDS: Final = 5.0


class NoPolicyAgent(Unavailable, reason="NO_POLICY_AGENT"):
    """No policy agent has been heard of, or the one in office does not answer."""


class Control:
    """Asks the policy agent in office."""

    def __init__(self, node: str, keyring: Keyring, bus: Bus, subjects: Subjects, requests: Requests) -> None:
        self._node = node
        self._keyring = keyring
        self._bus = bus
        self._subjects = subjects
        self._requests = requests
        self._office: tuple[str, str] | None = None

    def __repr__(self) -> str:
        return f"Control(office={self._office}, {self._requests})"

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
            self._requests.send(self._present(), self._subjects.control(verb, self._node), verb, payload, TELL_SECONDS)
        except MeshError:
            return False
        return True

    async def ask(self, verb: str, payload: bytes, timeout: float) -> bytes:
        """Return the answer to a request, or raise its MeshError; NoPolicyAgent when nobody can be asked."""
        peer = self._present()
        try:
            return await self._requests.ask(peer, self._subjects.control(verb, self._node), verb, payload, timeout)
        except DeadlineExceeded as error:
            if error.ran is not Ran.MAYBE:
                raise
            text = f"the policy agent on {peer.node} did not answer within {timeout:g} s"
            raise DeadlineExceeded(text, ran=Ran.MAYBE) from None

    def _present(self) -> Peer:
        peer = self.office
        if peer is None:
            text = (
                "this node's agent has heard of no policy agent: is one running, and does node.yaml name no policy_dir?"
            )
            raise NoPolicyAgent(text, ran=Ran.NO)
        return peer
