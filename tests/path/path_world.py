"""Both ends of the data path without a loop: real keys, envelopes, gates and drivers, and a bus that only keeps."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bus_mesh.agent.inbound import Inbound, Instance
from bus_mesh.agent.outbound import Outbound
from bus_mesh.agent.outbox import Outbox
from bus_mesh.agent.parts import Luck, Parts, Told
from bus_mesh.agent.path import copied, inbound, outbound
from bus_mesh.agent.route import Route
from bus_mesh.balance.directory import Directory
from bus_mesh.gates.gate import Flight, Path
from bus_mesh.identity.announcement import Instance as Announced
from bus_mesh.identity.announcement import Offer
from bus_mesh.identity.certificate import Role, certify_node, delegate
from bus_mesh.identity.envelope import EnvelopeKind
from bus_mesh.identity.keyring import Keyring, Now, Opened, Peer, own_identity
from bus_mesh.identity.keys import NodeKey
from bus_mesh.policy.access import Access
from bus_mesh.policy.bundle import PolicySet
from bus_mesh.policy.load import parse
from bus_mesh.protocol.frames import Call, Fail, Frame, Method, Refused, Reply, decode, encode, fit, named
from bus_mesh.protocol.subjects import Subjects
from bus_mesh.protocol.wheel import Wheel
from bus_mesh.resilience.usual import Usual

START_US = 1_800_000_000_000_000
DAY_US = 86_400_000_000
SUBJECTS = Subjects("demo")
POLICY = "kind: Service\nname: orders\naccess: {allow: [{from: [web, cart], methods: ['*']}]}\n"
METHODS = (Method("get", True, 0, ""), Method("create", False, 0, ""))


def stream(seed: str) -> Callable[[int], bytes]:
    """Entropy that is the same in every run."""
    drawn = 0

    def entropy(size: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return hashlib.shake_256(f"{seed}/{drawn}".encode()).digest(size)

    return entropy


def at(seconds: float) -> Now:
    us = round(seconds * 1e6)
    return Now(seconds, 1_000_000_000 + us, START_US + us)


ROOT, ISSUER = NodeKey.generate(stream("root")), NodeKey.generate(stream("issuer"))
VALID = {"not_before_us": START_US - DAY_US, "not_after_us": START_US + DAY_US}
ROUND_ROBIN = "balance: round_robin"
DELEGATION = delegate(ROOT, "demo", Role.ISSUER, ISSUER.public, term=1, **VALID)


def ring(node: str, serve: tuple[str, ...] = (), call_as: tuple[str, ...] = ()) -> Keyring:
    key = NodeKey.generate(stream(node))
    chain = certify_node(
        ISSUER, DELEGATION, mesh="demo", node=node, key=key.public, serve=serve, call_as=call_as, serial=node, **VALID
    )
    return Keyring(own_identity(key, chain, "demo", ROOT.public, START_US), f"{node}-boot", stream(f"{node}+"), at(0))


class Message(NamedTuple):
    subject: str
    data: bytes
    reply: str

    @property
    def counter(self) -> int:
        return int(self.reply.rpartition(".")[2])


class Kept:
    """A bus that keeps what is published, unless it is away."""

    def __init__(self, max_payload: int) -> None:
        self.max_payload = max_payload
        self.away = False
        self.messages: list[Message] = []

    def publish(self, subject: str, data: bytes, reply: str = "") -> bool:
        if not self.away:
            assert len(data) <= self.max_payload
            self.messages.append(Message(subject, data, reply))
        return not self.away

    def publish_all(self, messages: Sequence[tuple[str, bytes, str]]) -> list[bool]:
        return [self.publish(*message) for message in messages]


class Side:
    """What the agent of either end is made of, and its turn of the loop in the test's hands."""

    def __init__(self, keyring: Keyring, max_payload: int = 1 << 20) -> None:
        self.now = 0.0
        self.keyring = keyring
        self.bus = Kept(max_payload)
        self.wheel: Wheel[Flight] = Wheel()
        self.asked: list[str] = []
        self.events: list[tuple[str, str]] = []
        self.full: list[Any] = []
        self.enforce(POLICY)
        self.directory: Directory[Peer] = Directory(lambda n: 0)
        told = Told(
            lambda what, which: self.events.append((what, which)),
            full=self.full.append,
            copy=lambda call, to: self.copy(call, to),
        )
        luck = Luck(lambda n: 0, lambda: 0.0, lambda: 0.0)
        self.parts: Parts[Peer] = Parts(
            lambda *names: Meter(), self.directory, self.asked.append, luck, lambda: START_US / 1e6 + self.now, told
        )
        self.outbox = Outbox(
            keyring,
            self.bus,
            SUBJECTS,
            keyring.own.node,
            self._soon,
            lambda: at(self.now),  # type: ignore[arg-type]
            lambda: self.now,
        )
        self._due: list[Callable[[], None]] = []

    def copy(self, call: Flight, to: str) -> None:
        """Have a call copied."""
        raise AssertionError("nothing is copied here")

    def enforce(self, policy: str) -> None:
        """Have this policy in force for the paths that are made from now on."""
        self.policy = PolicySet.of(parse(policy, "policy"))
        self.access = Access(self.policy)

    def _soon(self, work: Callable[[], None]) -> None:
        self._due.append(work)

    def turn(self) -> list[Message]:
        """End the turn of the loop; return what was published since this was last asked."""
        due, self._due = self._due, []
        for work in due:
            work()
        found, self.bus.messages = self.bus.messages, []
        return found


class Meter:
    inflight = 0
    retries = 0

    def record(self, code: int, seconds: float) -> None:
        pass


class App:
    """A local session that calls, and keeps what it is told."""

    def __init__(self, app: str = "web") -> None:
        self.app = app
        self.flights: dict[int, Flight] = {}
        self.serving: dict[int, Flight] = {}
        self.told: list[Frame] = []

    def write(self, frame: bytes) -> None:
        self.told.append(decode(frame))

    @property
    def fail(self) -> Fail:
        assert isinstance(self.told[-1], Fail)
        return self.told[-1]


class Serving:
    """A node that serves `orders`, at the other end of the bus: a keyring and what it is sent."""

    def __init__(self, node: str, serve: tuple[str, ...] = ("orders",)) -> None:
        self.keyring = ring(node, serve=serve, call_as=("orders",))
        self.inbox = SUBJECTS.inbox(node, self.keyring.boot)

    def offer(self, *ids: str, state: str = "up") -> bytes:
        instances = tuple(Announced(id, "1", {}, state, 0) for id in ids)
        return self.keyring.announce([Offer("orders", instances, METHODS)], at(0))

    def open(self, message: Message) -> list[Frame]:
        return [named(fit(said)) for said in self.keyring.open(message.subject, message.data, at(0)).frames]


class Caller(Side):
    """The agent of apps that call `orders`."""

    def __init__(self, *served_by: Serving, traffic: str = "", max_payload: int = 1 << 20) -> None:
        super().__init__(ring("caller", call_as=("web", "cart")), max_payload)
        self.enforce(f"{POLICY}traffic: {{{traffic}}}\n")
        self.tried: list[str] = []
        self.labels: dict[str, str] = {}
        self.key = "key"
        self.outbound = Outbound(
            self.wheel,
            self.outbox,
            self.directory,
            self._route,
            self._copy,
            lambda app: None,
            Usual(),
            self.tried.append,
            lambda result: self.events.append(("mirrored", result)),
            4096,
        )
        self.directory.follow("orders")
        for serving in served_by:
            self.learn(serving, serving.keyring.own.node + "-1")

    def copy(self, call: Flight, to: str) -> None:
        self.outbound.copies.want(call, to)

    def _route(self, service: str, method: str) -> Route:
        path = outbound(self.parts, self.access, self.policy, self.labels, service, method)
        return Route(path, None, None, 600.0, self.key)

    def _copy(self, service: str, method: str) -> Path:
        return copied(self.parts, self.access, self.policy, self.labels, service, method)

    def learn(self, serving: Serving, *ids: str, state: str = "up") -> Peer:
        """Hear what a node announces, and let it hear who we are."""
        accepted = self.keyring.accept(serving.offer(*ids, state=state), at(self.now))
        peer, offers = accepted.peer, accepted.announcement.offers
        changed = self.directory.update(peer.node, peer.boot, peer, offers, self.now + 15.0, self.now)
        self.outbound.changed(changed, self.parts.waiting.of, self.now)
        serving.keyring.accept(self.keyring.announcement, at(self.now))
        return peer

    def peer(self, serving: Serving) -> Peer:
        found = self.keyring.peer_of(serving.keyring.own.node, serving.keyring.boot)
        assert found is not None
        return found

    def call(self, app: App, number: int = 1, method: str = "create", ttl_ms: int = 5000, **head: Any) -> None:
        frame = Call(1, number, "orders", method, ttl_ms, "somebody-else", head or None, b"params")
        self.outbound.call(app, frame, self.now)

    def wait(self, seconds: float) -> None:
        """Let time pass, and the wheel turn."""
        self.now += seconds
        for flight in self.wheel.due(self.now):
            self.outbound.driver.due(flight, self.now)

    def answered(self, serving: Serving, frame: Reply | Fail | Refused) -> None:
        """Take in what a node answers."""
        take: dict[type, Callable[..., None]] = {
            Reply: self.outbound.reply,
            Fail: self.outbound.fail,
            Refused: self.outbound.refused,
        }
        take[type(frame)](self.peer(serving), frame, self.now)


class Session:
    """A local session that serves, and keeps what it is handed."""

    def __init__(self) -> None:
        self.serving: dict[int, Flight] = {}
        self.handed: list[Frame] = []
        self.instances: dict[str, object] = {}
        self._numbers = 0

    def write(self, frame: bytes) -> None:
        self.handed.append(decode(frame))

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers


class Callee(Side):
    """The agent of one instance of `orders`, and who calls it."""

    def __init__(self, call_as: tuple[str, ...] = ("web", "cart")) -> None:
        super().__init__(ring("callee", serve=("orders",)))
        self.caller = ring("caller", call_as=call_as)
        self.stranger = ring("stranger", call_as=("web",))
        for other in (self.caller, self.stranger):
            self.keyring.accept(other.announcement, at(0))
            other.accept(self.keyring.announcement, at(0))
        self.session = Session()
        methods = {method.name: method for method in METHODS}
        self.instance = Instance("callee-1", "orders", "1", {}, methods, self.session)
        self.instance.state = "up"
        self.inbound = Inbound(self.wheel, self.outbox, self._path, 4)

    def _path(self, service: str, method: str) -> Path:
        return inbound(self.parts, self.access, self.policy, service, method)

    def opened(self, *frames: Frame, by: Keyring | None = None) -> Opened:
        """Seal what a node says and open it here."""
        sender = by or self.caller
        me = sender.peer_of("callee", self.keyring.boot)
        assert me is not None
        subject = SUBJECTS.inbox("callee", self.keyring.boot)
        sealed = sender.seal(EnvelopeKind.CALLS, subject, [encode(frame) for frame in frames], [me], at(self.now))
        return self.keyring.open(subject, sealed.data, at(self.now))

    def take(
        self,
        number: int = 1,
        method: str = "get",
        *,
        caller: str = "web",
        service: str = "orders",
        ttl_ms: int = 500,
        payload: bytes = b"params",
        by: Keyring | None = None,
        **head: Any,
    ) -> None:
        """Take in a call of the other node, or of another one."""
        frame = Call(1, number, service, method, ttl_ms, caller, {"instance": "callee-1", **head}, payload)
        opened = self.opened(frame, by=by)
        self.inbound.call(opened, self.instance, named(fit(opened.frames[0])), self.now)  # type: ignore[arg-type]

    def wait(self, seconds: float) -> None:
        """Let time pass, and the wheel turn."""
        self.now += seconds
        for flight in self.wheel.due(self.now):
            self.inbound.driver.due(flight, self.now)

    def answers(self) -> list[Frame]:
        """End the turn, and return what the calling node gets."""
        subject = SUBJECTS.inbox("caller", self.caller.boot)
        messages = [message for message in self.turn() if message.subject == subject]
        return [named(fit(said)) for m in messages for said in self.caller.open(m.subject, m.data, at(self.now)).frames]

    def refusal(self) -> tuple[str, str]:
        """Return (reason, whether it ran) of the one FAIL that the calling node gets."""
        (fail,) = self.answers()
        assert isinstance(fail, Fail)
        assert fail.head is not None
        return fail.reason, fail.head["ran"]
