"""What leaves together travels together.

All frames for one destination that arise in one turn of the loop go out as one sealed envelope, or as few as limits
allow. Nothing waits and no timer runs: a lone call leaves at once, under load batches grow by themselves.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from bus_mesh.balance.directory import View
from bus_mesh.bus.contract import Bus
from bus_mesh.gates.gate import Flight
from bus_mesh.identity.envelope import EnvelopeKind
from bus_mesh.identity.epochs import Epoch
from bus_mesh.identity.keyring import Keyring, Now, Peer, Untrusted
from bus_mesh.protocol.subjects import Subjects
from bus_mesh.protocol.turn import Turn

MOST_FRAMES: Final = 128
"""Frames in one envelope."""
_AROUND: Final = 32 + 16 * 56 + 64 + 256  # header, wraps for all recipients, signature and tag, and room to spare
_CALLS: Final = EnvelopeKind.CALLS
HELD_BYTES: Final = 4 * 1024 * 1024
"""Bytes of answers that are kept while the bus is away."""


class Sent:
    """One envelope of calls under way: for the broker's 503, a REFUSED, and who may answer."""

    __slots__ = ("counter", "flights", "hash", "hold", "left", "peers")

    def __init__(self, counter: int, digest: bytes, peers: Sequence[Peer], flights: list[Flight], hold: Epoch) -> None:
        self.counter = counter
        self.hash = digest
        self.peers = peers
        self.flights = flights
        self.left = len(flights)
        self.hold = hold


class _Letter:
    """The frames of this turn for one destination; `most` envelopes share them out in a queue group."""

    __slots__ = ("flights", "frames", "kind", "method", "most", "peers")

    def __init__(self, kind: EnvelopeKind, peers: Sequence[Peer], method: tuple[str, str] | None, most: int) -> None:
        self.kind = kind
        self.peers = peers
        self.method = method
        self.most = most
        self.frames: list[bytes] = []
        self.flights: list[Flight] = []

    def drop_ended(self) -> None:
        """Take out the calls that nobody waits for any more."""
        if self.flights:
            left = [(frame, flight) for frame, flight in zip(self.frames, self.flights, strict=True) if flight.held]
            self.frames, self.flights = [frame for frame, _ in left], [flight for _, flight in left]

    def parts(self, largest: int) -> list[tuple[list[bytes], list[Flight]]]:
        """Deal the frames out: to as many envelopes as there are instances, and none over its limits."""
        frames, flights = self.frames, self.flights
        if len(frames) < 2:
            return [(frames, flights)] if frames else []
        deal = -(-len(frames) // self.most) if self.method else MOST_FRAMES
        step, start, size = min(deal, MOST_FRAMES), 0, 0
        if len(frames) <= step and sum(map(len, frames)) + 4 * len(frames) <= largest:
            return [(frames, flights)]
        parts = []
        for at, frame in enumerate(frames):
            if at > start and (at - start >= step or size + len(frame) > largest):
                parts.append((frames[start:at], flights[start:at]))
                start, size = at, 0
            size += len(frame) + 4
        parts.append((frames[start:], flights[start:]))
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
    ) -> None:
        self._keyring = keyring
        self._bus = bus
        self._subjects = subjects
        self._none = subjects.none(node, keyring.boot, 0)[:-1]
        self._turn = Turn(soon, self._flush)
        self._clock = clock
        self._letters: dict[object, _Letter] = {}
        self._held: deque[tuple[Peer, bytes]] = deque()
        self._held_bytes = 0
        self._given_up = False
        self.sent: dict[int, Sent] = {}
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
            letter = self._new(key, _Letter(_CALLS, view.peers, method, len(view.ready)))
        letter.frames.append(frame)
        letter.flights.append(flight)
        self._turn.add(letter)

    def to_peer(self, peer: Peer, flight: Flight, frame: bytes) -> None:
        """Send a call to one agent."""
        letter = self._letters.get(peer)
        if letter is None:
            letter = self._new(peer, _Letter(_CALLS, (peer,), None, 1))
        letter.frames.append(frame)
        letter.flights.append(flight)
        self._turn.add(letter)

    def answer(self, peer: Peer, frame: bytes) -> None:
        """Send an answer, or anything else that is not a call, to one agent's inbox."""
        key = peer.key_id  # the peer itself stands for calls to it
        letter = self._letters.get(key)
        if letter is None:
            letter = self._new(key, _Letter(EnvelopeKind.ANSWERS, (peer,), None, 1))
        letter.frames.append(frame)
        self._turn.add(letter)

    def resume(self) -> None:
        """Send the answers that were kept while the bus was away."""
        held, self._held, self._held_bytes = self._held, deque(), 0
        for peer, frame in held:
            self.answer(self._keyring.peer_of(peer.node, peer.boot) or peer, frame)

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
            for frames, flights in letter.parts(largest):
                try:
                    data, counter = self._keyring.seal(letter.kind, subject, frames, letter.peers, now)
                except Untrusted as error:
                    # For answers it means that the peer's certificate has ended: nobody there may read them.
                    self.stalled(flights, error.message, now.monotonic)
                    continue
                messages.append((subject, data, f"{self._none}{counter}" if calls else ""))
                posted.append((letter, frames, flights, data, counter))
        # What is only noted comes after the write: what was sent is waited for.
        for taken, (letter, frames, flights, data, counter) in zip(
            self._bus.publish_all(messages), posted, strict=True
        ):
            if letter.kind is not _CALLS:
                if not taken:
                    self._hold(letter.peers[0], frames)
            elif not taken:
                self.stalled(flights, "the bus is away or clogged", now.monotonic)
            else:
                self._note(letter, flights, data, counter)

    def _new(self, key: object, letter: _Letter) -> _Letter:
        self._letters[key] = letter
        return letter

    def _note(self, letter: _Letter, flights: list[Flight], data: bytes, counter: int) -> None:
        """Keep what must be known of an envelope of calls that is under way."""
        digest = b"" if letter.method is None else hashlib.sha256(data).digest()
        sent = self.sent[counter] = Sent(counter, digest, letter.peers, flights, self._keyring.hold())
        for flight in flights:
            flight.sent = sent

    def _hold(self, peer: Peer, frames: list[bytes]) -> None:
        """Keep answers for the bus's return, the newest `HELD_BYTES` of them; what is dropped ends at its deadline."""
        for frame in frames:
            self._held.append((peer, frame))
            self._held_bytes += len(frame)
        while self._held_bytes > HELD_BYTES:
            self._held_bytes -= len(self._held.popleft()[1])
