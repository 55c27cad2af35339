"""The policy agent on the bus: publishes the signed head, and hands requests to the desk.

    ctl.policy                          the head, at every change and every `HEAD_SECONDS`, with who publishes it
    ctl.policy.get.<node>               documents by hash; a bare announcement asks for the head to be said again
    ctl.ack.<node>                      applied, or refused
    ctl.api.<verb>.<node>               what people ask
    enrol.<id>                          who has a token asks to be let in; answered on enrolled.<id>

    request ──opened, checked──▶ desk ──▶ the node's inbox

Everything else that comes is sealed for this process and signed by the node in its subject, or dropped and counted.
The desk works in a thread of its own: reading ten thousand rules or waiting for a disk delays no head.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import msgpack

from bus_mesh.bus.contract import Bus
from bus_mesh.control.desk import Asked, Desk
from bus_mesh.control.store import Ack, StoreError
from bus_mesh.identity import document
from bus_mesh.identity.enrolment import REQUEST_LIMIT
from bus_mesh.identity.envelope import EnvelopeKind, is_envelope
from bus_mesh.identity.head import Head, sign_head, verify_head
from bus_mesh.identity.keyring import Keyring, Now, Opened, Own, Peer, Untrusted
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.refusal import IdentityError
from bus_mesh.protocol.errors import FailedPrecondition, Internal, MeshError, Ran, ResourceExhausted
from bus_mesh.protocol.frames import Fail, Fields, FrameError, Kind, encode, fit
from bus_mesh.protocol.subjects import Subjects
from bus_mesh.telemetry.log import Limited, get_logger

HEAD_SECONDS: Final = 5.0
"""Between two heads of the same bundle."""
HEAD_PAUSE: Final = 1.0
"""Between two heads of the same bundle at least, whoever asks for one: each makes every agent speak."""
WARN_DAYS: Final = 30
GREET_SECONDS: Final = 0.05
"""How long a node that has just come may wait, with others who come meanwhile."""
HEAD_LIFE_US: Final = 24 * 3600 * 1_000_000
"""How long a head is good for where nothing newer is heard."""
ACKS_SECONDS: Final = 0.1
"""How long acknowledgements are gathered before they are written."""
MOST_ASKED: Final = 1024
"""Requests that wait for the desk, of all nodes."""
MOST_OF: Final = {True: 64, False: 8}
"""The same of one node: requests for documents, and others, which are dearer and can wait."""
MOST_NODES: Final = 4096
AROUND: Final = 4096
"""Bytes of an answer's envelope that are not the answer."""
ENROLMENTS_PER_SECOND: Final = 50
"""Requests to be let in that are looked at; more are dropped, and asked again."""
CONSOLE: Final = "busmesh"
_CALL: Final = int(Kind.CALL)
_REPLY: Final = int(Kind.REPLY)


class Signer(NamedTuple):
    """The policy signer's key, the root's delegation of it, that delegation's version, and until when we may sign."""

    key: NodeKey
    delegation: bytes
    term: int
    not_after_us: int


def _counts(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


class Office:
    """One policy agent in office. `start` it once it holds the lock of its store."""

    def __init__(
        self,
        own: Own,
        keyring: Keyring,
        bus: Bus,
        desk: Desk,
        signer: Signer,
        clock: Callable[[], Now],
        work: ThreadPoolExecutor,
    ) -> None:
        self.dropped: Counter[str] = Counter()
        """What came and was not believed, by reason."""
        self.alarms = 0
        """Heads of another policy agent that this one did not publish."""
        self._own = own
        self._keyring = keyring
        self._bus = bus
        self._desk = desk
        self._signer = signer
        self._clock = clock
        self._work = work
        self._subjects = Subjects(own.mesh)
        self._log = get_logger("policy-agent")
        self._limited = Limited(self._log)
        self._asked: Counter[tuple[str, bool]] = Counter()
        self._heard_at: dict[str, float] = {}
        self._acks: dict[str, Ack] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._published = 0
        self._published_at = 0.0
        self._greeting: asyncio.TimerHandle | None = None
        self._keys = deque((keyring.key_id,), maxlen=2)
        self._enrolling = 0, 0

    def __repr__(self) -> str:
        return f"Office({self._own.node}, bundle={self.number}, asked={self._asked.total()})"

    @property
    def number(self) -> int:
        """The number of the bundle in force, 0 before the first."""
        return 0 if self._desk.bundle is None else self._desk.bundle.number

    @property
    def trouble(self) -> str:
        """Why no head can be signed (any more), "" while one can."""
        if self._clock().wall_us < self._signer.not_after_us:
            return ""
        return "the delegation of the policy signer, or this node's certificate, has ended: delegate, or admit, anew"

    async def start(self) -> None:
        """Listen, and publish."""
        left_days = (self._signer.not_after_us - self._clock().wall_us) / 86_400_000_000
        if left_days < WARN_DAYS:
            self._log.warning("the policy signer's delegation, or this node's certificate, ends soon", days=left_days)
        for subject in self._subjects.control_all():
            await self._bus.subscribe(subject, self.on_request)
        await self._bus.subscribe(self._subjects.policy, self.on_head)
        if self._desk.admission is not None:
            await self._bus.subscribe(self._subjects.enrol_all(), self.on_enrol)
        self._spawn(self._beat())
        self._spawn(self._keep_acks())

    async def stop(self) -> None:
        """End what was started; the bus and the thread are the caller's."""
        if self._greeting is not None:
            self._greeting.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def publish(self) -> None:
        """Say which bundle is in force, and who says so."""
        now, bundle = self._clock(), self._desk.bundle
        if self._keyring.due(now):
            self._keyring.rotate(now)
            self._keys.append(self._keyring.key_id)
        self._keyring.sweep(now)
        announcement = self._keyring.announce((), now)
        if bundle is None:
            return
        if self.trouble:
            self._limited.warning("ALARM: no head is published", why=self.trouble)
            return
        head = sign_head(
            self._signer.key,
            self._signer.delegation,
            mesh=self._own.mesh,
            term=self._signer.term,
            number=bundle.number,
            manifest=bundle.manifest.hash,
            node=self._own.node,
            issued_us=now.wall_us,
            life_us=HEAD_LIFE_US,
        )
        self._bus.publish(self._subjects.policy, document.pack_row((head, announcement)))
        self._published, self._published_at = bundle.number, now.monotonic

    def on_head(self, subject: str, reply: str, data: bytes, status: int) -> None:
        """Hear of every head; one that this policy agent did not publish means that two are in office."""
        try:
            signed, _ = document.read_row(data, 2)
            head = verify_head(signed, self._own.mesh, self._own.root, self._clock().wall_us)
        except (Untrusted, ValueError):
            self._drop("HEAD")
            return
        bundle = self._desk.bundle
        ours = head.node == self._own.node and bundle is not None
        if not ours or (head.number == self.number and bundle and head.manifest != bundle.manifest.hash):
            self._alarm(head)

    def on_request(self, subject: str, reply: str, data: bytes, status: int) -> None:
        """Take in a request: what is not sealed for us and signed by the node in its subject is dropped."""
        named = self._subjects.parse_control(subject)
        if named is None:
            self._drop("BAD_SUBJECT")
            return
        verb, node = named
        if verb == "get" and not is_envelope(data):
            self._greeted(node, data)
            return
        try:
            opened = self._keyring.open(subject, data, self._clock())
            frames = [fit(said) for said in opened.frames]
        except IdentityError as error:
            self._drop(error.reason)
            return
        except FrameError:
            self._drop("BAD_FRAME")
            return
        if opened.peer.node != node or opened.kind is not EnvelopeKind.CONTROL:
            self._drop("WRONG_NODE")
            return
        for frame in frames:
            if frame[0] != _CALL or frame[2] != CONSOLE or frame[3] != verb:
                self._drop("TOKENS_DIFFER")
            else:
                self._request(opened, verb, frame)

    def on_enrol(self, subject: str, reply: str, data: bytes, status: int) -> None:
        """Take in what somebody says who has a token, or claims to: so many a second, and no more."""
        id, second = self._subjects.parse_enrol(subject), int(self._clock().monotonic)
        self._enrolling = (second, self._enrolling[1] + 1) if self._enrolling[0] == second else (second, 1)
        if id is None or len(data) > REQUEST_LIMIT or self._enrolling[1] > ENROLMENTS_PER_SECOND:
            self._drop("ENROLMENT")
            return
        self._spawn(self._enrol(id, data))

    # Inside.

    async def _enrol(self, id: str, data: bytes) -> None:
        loop, now_us = asyncio.get_running_loop(), self._clock().wall_us
        try:
            answer = await loop.run_in_executor(self._work, self._desk.enrol, id, data, now_us)
        except StoreError as error:
            self._limited.warning("nobody is admitted", why=str(error))  # who asked asks again
            return
        self._bus.publish(self._subjects.enrolled(id), answer)

    def _greeted(self, node: str, announcement: bytes) -> None:
        """A node has come and waits for a head: say it again, to all of those who have come by then."""
        try:
            self._keyring.accept(announcement, self._clock(), node)
        except Untrusted as error:
            self._drop(error.reason)
            return
        self._hear_of(node)
        if self._greeting is None:
            since = self._clock().monotonic - self._published_at
            pause = max(GREET_SECONDS, HEAD_PAUSE - since)
            self._greeting = asyncio.get_running_loop().call_later(pause, self._greet)

    def _greet(self) -> None:
        self._greeting = None
        self.publish()

    def _request(self, opened: Opened, verb: str, frame: Fields) -> None:
        node = opened.peer.node
        if opened.skew_us:
            seconds = opened.skew_us / 1e6
            text = f"the policy agent's clock and that of {node} differ by {seconds:.1f} s; set them by NTP"
            self._refuse(opened.peer, frame[1], FailedPrecondition(text, ran=Ran.NO))
        elif verb == "ack" and node in self._desk.revoked.nodes:
            self._drop("REVOKED")
        elif verb == "ack":
            self._heard(node, frame[7])
        elif self._asked[node, verb == "get"] >= MOST_OF[verb == "get"] or self._asked.total() >= MOST_ASKED:
            error = ResourceExhausted("too many requests to the policy agent", ran=Ran.NO, retry_after=0.2)
            self._refuse(opened.peer, frame[1], error)
        else:
            self._asked[node, verb == "get"] += 1
            self._hear_of(node)
            self._spawn(self._serve(opened.peer, verb, frame))

    async def _serve(self, peer: Peer, verb: str, frame: Fields) -> None:
        account = peer.node, verb == "get"
        try:
            now = self._clock()
            ages_us = {node: int((now.monotonic - at) * 1e6) for node, at in self._heard_at.items()}
            asked = Asked(peer.node, now.wall_us, tuple(self._keys), peer.certificate, ages_us, self.trouble)
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._work, self._desk.answer, verb, frame[7], asked)
            if len(answer) > self._bus.max_payload - AROUND:
                text = f"the answer has {len(answer)} bytes, too many for this bus: ask for less"
                raise ResourceExhausted(text, ran=Ran.YES)
        except MeshError as error:
            self._refuse(peer, frame[1], error)
        except Exception as error:
            self._log.error("request failed", verb=verb, node=peer.node, exc_info=error)
            self._refuse(peer, frame[1], Internal("the policy agent failed; its log says why", ran=Ran.MAYBE))
        else:
            if self.number != self._published:
                self._log.info("policy changed", number=self.number, asked_by=peer.node)
                self.publish()
            self._send(peer, encode((_REPLY, frame[1], None, answer)))
        finally:
            self._asked[account] -= 1
            if not self._asked[account]:
                del self._asked[account]

    def _hear_of(self, node: str) -> None:
        """Note that a node is there; as many are kept as the keyring keeps senders."""
        if node in self._heard_at or len(self._heard_at) < MOST_NODES:
            self._heard_at[node] = self._clock().monotonic

    def _heard(self, node: str, payload: bytes) -> None:
        try:
            said = msgpack.unpackb(payload, use_list=False, strict_map_key=True, max_ext_len=0)
            number, reason, took_us = said["number"], said["reason"], said["took_us"]
            if not (_counts(number) and type(reason) is str and _counts(took_us)):
                raise ValueError("wrong fields")
        except Exception:  # msgpack raises a dozen unrelated classes
            self._drop("BAD_ACK")
            return
        self._hear_of(node)
        if reason:
            self._limited.warning("policy refused by an agent", node=node, number=number, why=reason[:1000])
        before = self._desk.acks.get(node)
        if before is not None and before.number > number and reason:
            return  # it refuses what is behind: that says nothing of what it has in force
        self._acks[node] = self._desk.acks[node] = Ack(node, number, reason[:1000], took_us, self._clock().wall_us)

    def _refuse(self, peer: Peer, number: int, error: MeshError) -> None:
        code, reason, message, details, head = error.to_wire()
        self._send(peer, encode(Fail(int(Kind.FAIL), number, code, reason, message, details, head)))

    def _send(self, peer: Peer, frame: bytes) -> None:
        try:
            data = self._keyring.seal(EnvelopeKind.ANSWERS, peer.inbox, [frame], [peer], self._clock()).data
        except Untrusted as error:
            self._drop(error.reason)
            return
        if not self._bus.publish(peer.inbox, data):
            self._drop("BUS_STALLED")  # who asked asks again

    async def _beat(self) -> None:
        while True:
            try:
                self.publish()
            except Exception as error:  # whatever it is, the next head may go out
                self._limited.warning("head not published", why=repr(error))
            await asyncio.sleep(HEAD_SECONDS)

    async def _keep_acks(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(ACKS_SECONDS)
            acks, self._acks = self._acks, {}
            if acks:
                try:
                    await loop.run_in_executor(self._work, self._desk.acknowledge, acks)
                except Exception as error:  # they are told all the same, and the next ones are tried
                    self._limited.warning("acknowledgements not written", why=str(error))

    def _alarm(self, head: Head) -> None:
        self.alarms += 1
        self._limited.warning(
            "ALARM: another policy agent publishes policy", node=head.node, term=head.term, number=head.number
        )

    def _drop(self, reason: str) -> None:
        self.dropped[str(reason)] += 1

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("internal work failed", error=repr(error), exc_info=error)
