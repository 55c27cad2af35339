"""Who serves what: asked on `find`, told on `found`, kept in the directory.

An agent follows only the services that its apps call, so announcements reach those who want them and nobody else. Every
announcement passes the keyring first: signature, chain, budget, order.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from itertools import count
from typing import Any, Final

from bus_mesh.balance.directory import Directory
from bus_mesh.bus.contract import Bus, Subscription
from bus_mesh.identity.announcement import Announcement
from bus_mesh.identity.keyring import Accepted, Keyring, Misfit, Now, Peer, Untrusted
from bus_mesh.protocol.subjects import Subjects

FIND_PAUSE: Final = 0.25
"""Seconds before the same question is asked again."""
ANSWERS_PER_SECOND: Final = 10.0
"""Answers to one asker's finds; one that comes sooner is put off, with all that come meanwhile."""
_FIRST_ASK: Final = 1 << 63


class Watch:
    """Asks who serves what, listens to announcements, and answers others' questions about this node."""

    def __init__(
        self,
        node: str,
        keyring: Keyring,
        bus: Bus,
        subjects: Subjects,
        directory: Directory[Peer],
        clock: Callable[[], Now],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        changed: Callable[[Iterable[str], float], None],
        distrust: Callable[[Untrusted], None],
    ) -> None:
        self._node = node
        self._keyring = keyring
        self._bus = bus
        self._subjects = subjects
        self._directory = directory
        self._clock = clock
        self._spawn = spawn
        self._changed = changed
        self._distrust = distrust
        self._numbers = count(_FIRST_ASK)
        self._asked: dict[str, float] = {}
        self._following: dict[str, Subscription] = {}
        self._questions: dict[int, str] = {}
        self._answered: dict[str, float] = {}
        self._put_off: set[tuple[str, str]] = set()
        self.document = b""
        """This node's own announcement, as it goes to whoever asks."""
        self.publishers: set[str] = set()
        """Nodes that publish policy, as its signer says: no agents, where they serve nothing."""
        self.watchers: list[Callable[[Announcement], None]] = []
        """Where every announcement that comes goes besides, while somebody looks at the whole mesh."""

    def __repr__(self) -> str:
        return f"Watch(followed={len(self._asked)})"

    def number(self) -> int:
        """Return a number for the reply subject of a question or a probe, apart from those of envelopes."""
        return next(self._numbers)

    def ask(self, service: str) -> None:
        """Find out who serves `service`, and follow it from now on."""
        now = self._clock().monotonic
        if service not in self._directory.followed:
            if not self._directory.follow(service) and not (self._make_room() and self._directory.follow(service)):
                return
            self._spawn(self._follow(service))
        if self._asked.get(service, 0.0) > now:
            return
        self._asked[service] = now + FIND_PAUSE
        self._find(service)

    def ask_everyone(self) -> bool:
        """Ask every node for its announcement; False when the bus is away."""
        return self._bus.publish(self._subjects.find_everyone(self._node), self.document)

    def ask_again(self) -> None:
        """Repeat all questions, after the bus was away."""
        for service in self._directory.followed:
            self._find(service)

    def nobody(self, number: int, now: float) -> bool:
        """Take in the broker's word that nobody answers a question; False when it was not one of ours."""
        service = self._questions.pop(number, None)
        if service is None:
            return False
        self._directory.missing(service, now)
        self._changed((service,), now)
        return True

    def on_found(self, subject: str, reply: str, data: bytes, status: int) -> None:
        """Take in an announcement of a service that this agent follows."""
        pair = self._subjects.parse_found(subject)
        if pair is not None:
            self.learn(data, pair[1])

    def on_find(self, subject: str, reply: str, data: bytes, status: int) -> None:
        """Answer a question, to the inbox that the asker's announcement names."""
        pair = self._subjects.parse_find(subject)
        if pair is None or pair[1] == self._node:
            return
        accepted = self.learn(data, pair[1], asked=True)
        if accepted is None:
            return
        peer = accepted.peer
        self._say(peer.node, peer.boot)

    def _say(self, node: str, boot: str) -> None:
        """Answer a process that has asked, soon."""
        now = self._clock().monotonic
        until = self._answered.get(node, 0.0)
        if until > now:
            # Put off, never dropped: who asks for two services at once must not go without the second answer.
            if (node, boot) not in self._put_off:
                self._put_off.add((node, boot))
                self._spawn(self._answer_later(node, boot, until - now))
            return
        self._answer(node, boot, now)

    def _answer(self, node: str, boot: str, now: float) -> None:
        if len(self._answered) > 4096:
            self._answered = {node: until for node, until in self._answered.items() if until > now}
        self._answered[node] = now + 1 / ANSWERS_PER_SECOND
        self._bus.publish(self._subjects.inbox(node, boot), self.document)

    async def _answer_later(self, node: str, boot: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._put_off.discard((node, boot))
        self._answer(node, boot, self._clock().monotonic)

    def learn(self, data: bytes, claimed: str | None = None, *, asked: bool = False) -> Accepted | None:
        """Take in an announcement, wherever it came from; None when it is not to be trusted. `asked`: by a find."""
        now = self._clock()
        try:
            accepted = self._keyring.accept(data, now, claimed)
        except Untrusted as error:
            self._distrust(error)
            if asked and isinstance(error, Misfit):  # one of the two clocks is wrong: let the other side know too
                self._say(error.node, error.boot)
            return None
        self.learned(accepted.peer, accepted.announcement, now)
        return accepted

    def learned(self, peer: Peer, announcement: Announcement, now: Now) -> None:
        """Enter a trusted announcement into the directory."""
        if announcement.offers or announcement.node not in self.publishers:
            for watcher in self.watchers:
                watcher(announcement)
        if peer.announcement is not announcement or not (announcement.withdrawn or self._keyring.is_leased(peer.node)):
            return  # not its last word, or one that is out of date, however often it comes
        services = self._enter(peer, announcement, now)
        if services:
            self._changed(services, now.monotonic)

    def _enter(self, peer: Peer, announcement: Announcement, now: Now) -> set[str]:
        """Enter what a node said last into the directory; return the services for which something changed."""
        offers = () if announcement.withdrawn else announcement.offers
        left = (announcement.expires_us - announcement.issued_us) / 1e6
        certified = [offer for offer in offers if offer.service in peer.certificate.serve]
        return self._directory.update(peer.node, peer.boot, peer, certified, now.monotonic + left, now.monotonic)

    def _recall(self, service: str) -> None:
        """Enter all that is known of who serves it: this node, which does not answer its own questions, and others.

        All in one step: of a group that is known in part, the broker chooses members that cannot open what was sealed.
        """
        now, changed = self._clock(), set[str]()
        for said in self._keyring.leased():
            peer = self._keyring.latest(said.node)
            if peer is not None and any(offer.service == service for offer in said.offers):
                changed |= self._enter(peer, said, now)
        if changed:
            self._changed(changed, now.monotonic)

    def gone(self, node: str, boot: str, now: float) -> None:
        """Forget a process that is known to be dead."""
        services = self._directory.gone(node, boot)
        if services:
            self._changed(services, now)
            for service in services:
                self.ask(service)

    def _find(self, service: str) -> None:
        number = self.number()
        if len(self._questions) > 4096:
            self._questions.clear()
        self._questions[number] = service
        reply = self._subjects.none(self._node, self._keyring.boot, number)
        self._bus.publish(self._subjects.find(service, self._node), self.document, reply)

    async def _follow(self, service: str) -> None:
        self._recall(service)
        following = await self._bus.subscribe(self._subjects.found_of(service), self.on_found)
        if service not in self._directory.followed or service in self._following:
            await following.unsubscribe()  # given up meanwhile
            return
        self._following[service] = following
        self._find(service)

    def _make_room(self) -> bool:
        """Stop following what nobody serves, when the table is full of it."""
        empty = [service for service in self._directory.followed if self._directory.view(service) is None]
        for service in empty[: len(empty) // 2 + 1]:
            self._directory.unfollow(service)
            self._asked.pop(service, None)
            following = self._following.pop(service, None)
            if following is not None:
                self._spawn(following.unsubscribe())
        return bool(empty)
