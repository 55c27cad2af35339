"""What leaves together travels together.

All frames for one destination that arise in one turn of the loop go out as one sealed envelope, or as few as limits
allow. Nothing waits and no timer runs: a lone call leaves at once, under load batches grow by themselves.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, Final

from bus_mesh.agent.receipts import Receipts
from bus_mesh.balance.directory import View
from bus_mesh.bus.contract import Bus
from bus_mesh.gates.gate import Flight
from bus_mesh.identity.envelope import EnvelopeKind
from bus_mesh.identity.epochs import Epoch
from bus_mesh.identity.keyring import Keyring, Now, Peer, Sealed, Untrusted
from bus_mesh.identity.receipt import Proof
from bus_mesh.protocol.subjects import Subjects
from bus_mesh.protocol.turn import Turn

MOST_FRAMES: Final = 128
"""Frames in one envelope."""
_AROUND: Final = 32 + 16 * 56 + 64 + 256  # header, wraps for all recipients, signature and tag, and room to spare
_CALLS: Final = EnvelopeKind.CALLS
HELD_BYTES: Final = 4 * 1024 * 1024
"""Bytes of answers that are kept while the bus is away."""


class Sent:
    """One envelope of calls under way: for the broker's 503, a REFUSED, and who may answer.

    `proof` is what was signed, so that only a signed answer is one; None for an envelope that is only sealed.
    """

    __slots__ = ("counter", "flights", "hash", "hold", "left", "peers", "proof")

    def __init__(
        self,
        counter: int,
        digest: bytes,
        peers: Sequence[Peer],
        flights: list[Flight],
        hold: Epoch,
        proof: Proof | None,
    ) -> None:
        self.counter = counter
        self.hash = digest
        self.peers = peers
        self.flights = flights
        self.left = len(flights)
        self.hold = hold
        self.proof = proof


class _Letter:
    """The frames of this turn for one destination; `most` envelopes share them out in a queue group.

    `about` has for each frame what is to be noted of it once it has left: the flight of a call, and for a signed answer
    the number of the call and what its caller has signed. Of other answers nothing is noted, and it is empty.
    """

    __slots__ = ("about", "frames", "kind", "method", "most", "peers", "signed")

    def __init__(
        self, kind: EnvelopeKind, peers: Sequence[Peer], method: tuple[str, str] | None, most: int, signed: bool
    ) -> None:
        self.kind = kind
        self.peers = peers
        self.method = method
        self.most = most
        self.signed = signed
        self.frames: list[bytes] = []
        self.about: list[Any] = []

    def drop_ended(self) -> None:
        """Take out the calls that nobody waits for any more."""
        if self.kind is _CALLS:
            left = [(frame, flight) for frame, flight in zip(self.frames, self.about, strict=True) if flight.held]
            self.frames, self.about = [frame for frame, _ in left], [flight for _, flight in left]

    def parts(self, largest: int) -> list[tuple[list[bytes], list[Any]]]:
        """Deal the frames out: to as many envelopes as there are instances, and none over its limits."""
        frames, about = self.frames, self.about
        if len(frames) < 2:
            return [(frames, about)] if frames else []
        deal = -(-len(frames) // self.most) if self.method else MOST_FRAMES
        step, start, size = min(deal, MOST_FRAMES), 0, 0
        if len(frames) <= step and sum(map(len, frames)) + 4 * len(frames) <= largest:
            return [(frames, about)]
        parts = []
        for at, frame in enumerate(frames):
            if at > start and (at - start >= step or size + len(frame) > largest):
                parts.append((frames[start:at], about[start:at]))
                start, size = at, 0
            size += len(frame) + 4
        parts.append((frames[start:], about[start:]))
        return parts


class Outbox:
    """Gathers frames, and at the end of the turn seals and publishes them."""

    def __init__(
        self,
        keyring: Keyring,
        bus: Bus,
        subjects: Subjects,
        node: str,
        soon: Callable[[Callable[[], None]], object],
        clock: Callable[[], Now],
        now: Callable[[], float],
    ) -> None:
        self._keyring = keyring
        self._bus = bus
        self._subjects = subjects
        self._none = subjects.none(node, keyring.boot, 0)[:-1]
        self._turn = Turn(soon, now, self._flush)
        self._clock = clock
        self._letters: dict[object, _Letter] = {}
        self._held: deque[tuple[Peer, bytes, tuple[int, Proof] | None]] = deque()
        self._held_bytes = 0
        self._given_up = False
        self.sent: dict[int, Sent] = {}
        self.receipts = Receipts(soon)
        self.stalled: Callable[[list[Flight], str, float], None] = lambda flights, why, now: None

    def __repr__(self) -> str:
        return f"Outbox(letters={len(self._letters)}, under_way={len(self.sent)}, held={self._held_bytes})"

    def room(self) -> int:
        """Return how many bytes one frame may have and still leave in an envelope with everything around it."""
        return self._bus.max_payload - len(self._keyring.announcement) - _AROUND

    def to_group(self, view: View[Peer], flight: Flight, frame: bytes) -> None:
        """Send a call to the queue group of its service."""
        key = flight.path  # one for each method under one policy, and quicker to look up than two names
        letter = self._letters.get(key)
        if letter is None:
            method = (flight.service, flight.method)
            letter = self._new(key, _Letter(_CALLS, view.peers, method, len(view.ready), key.signed))
        letter.frames.append(frame)
        letter.about.append(flight)
        self._turn.add(letter)

    def to_peer(self, peer: Peer, flight: Flight, frame: bytes) -> None:
        """Send a call to one agent."""
        signed = flight.path.signed
        key = (peer, True) if signed else peer
        letter = self._letters.get(key)
        if letter is None:
            letter = self._new(key, _Letter(_CALLS, (peer,), None, 1, signed))
        letter.frames.append(frame)
        letter.about.append(flight)
        self._turn.add(letter)

    def answer(self, peer: Peer, frame: bytes) -> None:
        """Send an answer, or anything else that is not a call, to one agent's inbox."""
        key = peer.key_id  # the peer itself stands for calls to it
        letter = self._letters.get(key)
        if letter is None:
            letter = self._new(key, _Letter(EnvelopeKind.ANSWERS, (peer,), None, 1, signed=False))
        letter.frames.append(frame)
        self._turn.add(letter)

    def answer_signed(self, peer: Peer, frame: bytes, number: int, request: Proof) -> None:
        """Send the answer to a signed call, signed too, and keep a receipt; `request` is what its caller has signed."""
        key = peer.key_id, True
        letter = self._letters.get(key)
        if letter is None:
            letter = self._new(key, _Letter(EnvelopeKind.ANSWERS, (peer,), None, 1, signed=True))
        letter.frames.append(frame)
        letter.about.append((number, request))
        self._turn.add(letter)

    def resume(self) -> None:
        """Send the answers that were kept while the bus was away."""
        held, self._held, self._held_bytes = self._held, deque(), 0
        for peer, frame, signed in held:
            present = self._keyring.peer_of(peer.node, peer.boot) or peer
            if signed is None:
                self.answer(present, frame)
            else:
                self.answer_signed(present, frame, *signed)

    def give_up(self) -> None:
        """Note that a call which was handed over has ended before it left."""
        self._given_up = True

    def settle(self, flight: Flight) -> None:
        """Note that a sent call needs nothing more from its envelope."""
        sent = flight.sent
        if sent is not None:
            flight.sent = None
            sent.left -= 1
            if not sent.left:
                self.over(sent)

    def over(self, sent: Sent) -> None:
        """Forget an envelope of which every call has ended or moved on."""
        if self.sent.get(sent.counter) is sent:
            del self.sent[sent.counter]
        self._keyring.release(sent.hold)

    def _flush(self, _: list[_Letter]) -> None:
        """Seal and publish everything gathered."""
        letters, self._letters = self._letters, {}
        given_up, self._given_up = self._given_up, False
        now, largest = self._clock(), self._bus.max_payload // 4
        posted, messages = [], []
        for letter in letters.values():
            if given_up:  # calls that ended in the very turn in which they came
                letter.drop_ended()
            calls = letter.kind is _CALLS
            subject = letter.peers[0].inbox if letter.method is None else self._subjects.rpc(*letter.method)
            for frames, about in letter.parts(largest):
                try:
                    sealed = self._keyring.seal(letter.kind, subject, frames, letter.peers, now, signed=letter.signed)
                except Untrusted as error:
                    # For answers it means that the peer's certificate has ended: nobody there may read them.
                    self.stalled(about if calls else [], error.message, now.monotonic)
                    continue
                messages.append((subject, sealed.data, f"{self._none}{sealed.counter}" if calls else ""))
                posted.append((letter, frames, about, sealed))
        # What is only noted comes after the write: what was sent is waited for.
        for taken, (letter, frames, about, sealed) in zip(self._bus.publish_all(messages), posted, strict=True):
            if letter.kind is not _CALLS:
                if not taken:
                    self._hold(letter.peers[0], frames, about)
                elif sealed.proof is not None:
                    for number, request in about:
                        self.receipts.answered(number, request, sealed.proof)
            elif not taken:
                self.stalled(about, "the bus is away or clogged", now.monotonic)
            else:
                self._note(letter, about, sealed)

    def _new(self, key: object, letter: _Letter) -> _Letter:
        self._letters[key] = letter
        return letter

    def _note(self, letter: _Letter, flights: list[Flight], sealed: Sealed) -> None:
        """Keep what must be known of an envelope of calls that is under way."""
        data, counter, proof = sealed
        digest = b"" if letter.method is None else hashlib.sha256(data).digest()
        sent = self.sent[counter] = Sent(counter, digest, letter.peers, flights, self._keyring.hold(), proof)
        for flight in flights:
            flight.sent = sent

    def _hold(self, peer: Peer, frames: list[bytes], about: list[tuple[int, Proof]]) -> None:
        """Keep answers for the bus's return, the newest `HELD_BYTES` of them; what is dropped ends at its deadline."""
        for frame, signed in zip_longest(frames, about):
            self._held.append((peer, frame, signed))
            self._held_bytes += len(frame)
        while self._held_bytes > HELD_BYTES:
            self._held_bytes -= len(self._held.popleft()[1])
