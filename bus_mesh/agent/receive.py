"""From the bus to the two directions: opens what comes, and hands each frame to who it is for.

What cannot be opened is dropped and counted by reason. What a known sender addressed to others is answered REFUSED, a
bounded number of times a second, so that its caller places the call anew.
"""

import hashlib
from collections.abc import Callable
from typing import Final

from bus_mesh.agent.inbound import Inbound, Instance
from bus_mesh.agent.outbound import Outbound
from bus_mesh.agent.outbox import Outbox
from bus_mesh.agent.watch import Watch
from bus_mesh.bus.contract import Bus
from bus_mesh.identity.envelope import EnvelopeKind
from bus_mesh.identity.keyring import Dropped, Keyring, NotARecipient, Now, Opened, Peer
from bus_mesh.protocol.errors import InstanceGone, Ran
from bus_mesh.protocol.frames import Cancel, Fail, Fields, Frame, FrameError, Kind, Refused, encode, fit, named
from bus_mesh.protocol.subjects import Subjects

REFUSALS_PER_SECOND: Final = 100
"""REFUSED frames to one sender."""
MAGIC: Final = b"BM"
_CALLS: Final = EnvelopeKind.CALLS
_CALL: Final = int(Kind.CALL)
_REPLY: Final = int(Kind.REPLY)
_REFUSED: Final = int(Kind.REFUSED)


class Allowance:
    """So many a second and no more, by name; at most 4,096 names at a time."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._second = -1
        self._used: dict[str, int] = {}

    def take(self, name: str, now: float) -> bool:
        """Use one of `name`'s allowance of this second; False when there is none left."""
        if int(now) != self._second:
            self._second, self._used = int(now), {}
        used = self._used.get(name, 0)
        if used >= self._per_second or (not used and len(self._used) >= 4096):
            return False
        self._used[name] = used + 1
        return True


class Receiver:
    """Handles what comes on this agent's subscriptions."""

    def __init__(
        self,
        keyring: Keyring,
        bus: Bus,
        subjects: Subjects,
        outbox: Outbox,
        watch: Watch,
        outbound: Outbound,
        inbound: Inbound,
        instances: dict[str, Instance],
        clock: Callable[[], Now],
        dropped: Callable[[str], None],
    ) -> None:
        self._keyring = keyring
        self._bus = bus
        self._subjects = subjects
        self._outbox = outbox
        self._watch = watch
        self._outbound = outbound
        self._inbound = inbound
        self._instances = instances
        self._clock = clock
        self._dropped = dropped
        self._refusals = Allowance(REFUSALS_PER_SECOND)
        outbound.unproven = dropped
        self.plain: Callable[[Instance, str, str, bytes], None] = lambda *_: dropped("NOT_AN_ENVELOPE")
        self.probed: Callable[[int, float], bool] = lambda number, now: False

    def on_none(self, subject: str, reply: str, data: bytes, status: int) -> None:
        """The broker's word that nobody got what this agent published."""
        number = self._subjects.parse_none(subject)
        if number is None or status != 503:
            self._dropped("NOT_A_503")
            return
        now = self._clock().monotonic
        if not self.probed(number, now) and not self._watch.nobody(number, now):
            for flight in self._outbound.nobody(number, now):
                self._watch.ask(flight.service)

    def on_inbox(self, subject: str, reply: str, data: bytes, status: int) -> None:
        """Everything that is sealed for this process, and announcements sent to it."""
        if not data:
            return  # a probe: that it was delivered is all it asks
        if not data.startswith(MAGIC):
            self._watch.learn(data)
            return
        now = self._clock()
        opened = self._open(subject, data, now)
        if opened is None:
            return
        peer, calls, take, proof = opened.peer, opened.kind is _CALLS, self._outbound.reply, opened.proof
        for frame in self._read(opened):
            if calls:
                self._direct(opened, frame, now.monotonic)
            elif frame[0] == _REPLY:
                take(peer, frame, now.monotonic, proof)
            else:
                self._answer(opened, named(frame), now.monotonic)

    def on_rpc(self, instance: Instance) -> Callable[[str, str, bytes, int], None]:
        """Return the handler of the queue subscription of one instance."""

        methods = {self._subjects.rpc(instance.service, method): method for method in instance.methods}

        def handle(subject: str, reply: str, data: bytes, status: int) -> None:
            now = self._clock()
            method = methods.get(subject) or self._method(instance, subject)
            if not method:
                self._dropped("BAD_SUBJECT")
            elif not data.startswith(MAGIC):
                self.plain(instance, method, reply, data)
            elif (opened := self._open(subject, data, now)) is not None:
                self._grouped(opened, instance, method, now.monotonic)

        return handle

    def _method(self, instance: Instance, subject: str) -> str:
        """Return the method that a subject names which this instance does not have; "" for what is no name."""
        tokens = self._subjects.parse_rpc(subject)
        return tokens[1] if tokens is not None and tokens[0] == instance.service else ""

    def _open(self, subject: str, data: bytes, now: Now) -> Opened | None:
        try:
            opened = self._keyring.open(subject, data, now)
        except Dropped as error:
            self._dropped(error.reason)
            return None
        except NotARecipient as error:
            self._dropped("NOT_A_RECIPIENT")
            if error.introduced is not None:
                self._watch.learned(error.peer, error.introduced, now)
            self._refuse(error.peer, error.counter, data, now.monotonic)
            return None
        if opened.introduced is not None:
            self._watch.learned(opened.peer, opened.introduced, now)
        return opened

    def _grouped(self, opened: Opened, instance: Instance, method: str, now: float) -> None:
        call, service = self._inbound.call, instance.service
        for frame in self._read(opened):
            if frame[0] != _CALL or frame[2] != service or frame[3] != method:
                self._dropped("TOKENS_DIFFER")
            else:
                call(opened, instance, frame, now)

    def _direct(self, opened: Opened, frame: Fields, now: float) -> None:
        if frame[0] != _CALL:
            self._dropped("WRONG_KIND")
            return
        wanted = frame[6].get("instance") if frame[6] is not None else None
        instance = self._instances.get(wanted) if type(wanted) is str else None
        if instance is None:
            error = InstanceGone(f"instance {wanted!s:.80} is not here", ran=Ran.NO)
            self._inbound.refuse(opened, frame[1], error)
            return
        self._inbound.call(opened, instance, frame, now)

    def _answer(self, opened: Opened, frame: Frame, now: float) -> None:
        peer = opened.peer
        match frame:
            case Fail():
                self._outbound.fail(peer, frame, now, opened.proof)
            case Cancel():
                self._inbound.cancel(peer, frame.id, now)
            case Refused():
                services = self._outbound.refused(peer, frame, now)
                if services:  # its word is known and was not entered, or every further call would be refused
                    self._watch.learned(peer, peer.announcement, self._clock())
                for service in services:
                    self._watch.ask(service)
            case _:
                self._dropped("WRONG_KIND")

    def _read(self, opened: Opened) -> list[Fields]:
        """Return the frames of an envelope; what is none is dropped and counted."""
        try:
            return list(map(fit, opened.frames))
        except FrameError:
            pass
        found = []
        for said in opened.frames:
            try:
                found.append(fit(said))
            except FrameError:
                self._dropped("BAD_FRAME")
        return found

    def _refuse(self, peer: Peer, counter: int, data: bytes, now: float) -> None:
        if self._refusals.take(peer.node, now):
            frame = Refused(_REFUSED, counter, hashlib.sha256(data).digest(), "NOT_A_RECIPIENT")
            self._outbox.answer(peer, encode(frame))
