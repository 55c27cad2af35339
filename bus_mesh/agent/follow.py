"""How an agent follows the policy of the control plane.

It hears heads, fetches what is lacking, checks all of it, keeps it on disk, puts it into force in one step, and says
so.

    head ──verified──▶ TAKE ──fetch──▶ whole ──check──▶ on disk ──▶ in force ──▶ acknowledged
                        └── refused, with the reason ◀──┘        what was in force stays

Who is out (`Revocation/revoked`) is fetched first and holds at once, whatever becomes of the rest of its bundle.
What a head means and when a bundle is whole is decided in `policy/follow.py` and `policy/assemble.py`. What takes long,
reading documents and the disk, is done beside the loop: calls go on meanwhile.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, NamedTuple

import msgpack

from bus_mesh.agent.control import Control
from bus_mesh.agent.kept_policy import KeptPolicy
from bus_mesh.agent.revocation import Revocations
from bus_mesh.agent.watch import Watch
from bus_mesh.identity import document
from bus_mesh.identity.head import Head, verify_head, verify_kept_head
from bus_mesh.identity.keyring import Now, Own, Peer, Untrusted
from bus_mesh.policy.access import Access
from bus_mesh.policy.assemble import Assembly, BundleRefused, Documents
from bus_mesh.policy.bundle import NO_POLICY, PolicySet
from bus_mesh.policy.follow import Follower, Freshness, InForce, Meaning
from bus_mesh.policy.manifest import MANIFEST_LIMIT, hash_of
from bus_mesh.protocol.errors import MeshError
from bus_mesh.telemetry.log import get_logger

HEADS_PER_SECOND: Final = 20
"""Heads looked at; more are dropped."""
ASK_SECONDS: Final = 5.0
"""How long a part may take to come."""
SHORTEST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
"""Seconds between two attempts to fetch a bundle, doubling, each with jitter of half its length."""
AGAIN_SECONDS: Final = 4.0
"""Within how long after a head the last word is repeated: less than the time between two heads."""
KEEP_SECONDS: Final = 600.0
"""How often the newer expiry of an unchanged bundle is written to disk."""
_PARTS: Final = 256


class Wanted(NamedTuple):
    """A bundle to be taken: its head as it came, and when."""

    bundle: InForce
    head: bytes
    heard_at: float


class Follow:
    """Keeps one agent's policy that of the control plane.

    `enforce(policy, access)` puts a checked bundle into force; `revocations` puts out whom any newer one lists.
    """

    def __init__(
        self,
        own: Own,
        control: Control,
        watch: Watch,
        kept: KeptPolicy,
        clock: Callable[[], Now],
        jitter: Callable[[], float],
        enforce: Callable[[PolicySet, Access], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        revocations: Revocations,
    ) -> None:
        self.follower = Follower()
        self.refused = 0
        """Heads and bundles that were not believed, or not understood."""
        self.forks = 0
        """Heads that gave a number to another bundle than the one in force."""
        self._own = own
        self._control = control
        self._watch = watch
        self._kept = kept
        self._clock = clock
        self._jitter = jitter
        self._enforce = enforce
        self._spawn = spawn
        self._revocations = revocations
        self._log = get_logger("policy")
        self._in_force = NO_POLICY, Access(NO_POLICY)
        self._denying = False
        self._parts: Mapping[str, bytes] = {}
        self._documents: Documents = {}
        self._wanted: Wanted | None = None
        self._fetching = False
        self._second = 0, 0
        self._last_ack = b""
        self._kept_at = -KEEP_SECONDS
        self._writing = asyncio.Lock()
        self._saying: asyncio.TimerHandle | None = None
        self._alarmed = 0, b""
        self._put_out_by = ""

    def __repr__(self) -> str:
        return f"Follow({self.follower}, refused={self.refused})"

    def start(self) -> None:
        """Put what was kept on disk into force, if anything was, and is whole."""
        self._revocations.start()
        try:
            data = self._kept.head()
            if data is None:
                self._log.warning("no policy yet: every call is denied until the policy agent is heard")
                return
            head = verify_kept_head(data, self._own.mesh, self._own.root)
            parts = self._kept.parts()
            assembly = Assembly(_bundle(head), parts)
            for hash in assembly.wants():
                assembly.supply(parts.get(hash, b""))
            policy, access = self._read(assembly)
        except (OSError, Untrusted, LookupError, BundleRefused) as error:
            self._log.error("the policy on disk is not taken; the policy agent is waited for", why=str(error))
            return
        self.follower = Follower(_bundle(head))
        self._parts, self._kept_at = parts, self._clock().monotonic
        self._last_ack = _ack(self.follower.in_force or _bundle(head), "", 0)
        self._revocations.add(policy.revocation)
        self._put(policy, access)
        self._log.info("policy from disk in force", number=head.number, services=len(policy.services))

    def greet(self) -> None:
        """Ask for the head now, instead of waiting for the next one: after the start, and when the bus is back."""
        self._control.greet(self._watch.document)

    @property
    def freshness(self) -> Freshness:
        """How sure it is that the policy in force is the newest."""
        now = self._clock()
        return self.follower.freshness(now.monotonic, now.wall_us)

    def look(self) -> None:
        """Deny every call once the policy has expired and wants that, and no longer; to be called every second."""
        policy, access = self._in_force
        denying = policy.mesh.on_expired == "deny" and self.freshness is Freshness.EXPIRED
        if denying != self._denying:
            self._denying = denying
            self._log.error("policy expired: every call is denied" if denying else "policy is fresh again")
            self._enforce(policy, access.expired() if denying else access)

    def on_policy(self, subject: str, reply: str, data: bytes, status: int) -> None:
        """Take in what is said on the control subject."""
        now = self._clock()
        if not self._allowed(now.monotonic):
            return
        try:
            signed, announcement = document.read_row(data, 2)
            head = verify_head(signed, self._own.mesh, self._own.root, now.wall_us)
        except (Untrusted, ValueError) as error:
            self._distrust(str(error))
            return
        self._watch.publishers.add(head.node)
        # The signer vouches for the name, so the check goes on that node's account, which others cannot use up.
        accepted = self._watch.learn(announcement, head.node)
        if accepted is None or accepted.peer.node != head.node:
            self._distrust(f"head {head.number} came without the announcement of {head.node}, which it names")
            return
        bundle = _bundle(head)
        meaning = self.follower.hear(bundle, now.monotonic, now.wall_us)
        if meaning in (Meaning.TAKE, Meaning.KEEP):
            self._control.appoint(accepted.peer)
        if meaning is Meaning.TAKE:
            self._want(Wanted(bundle, signed, now.monotonic))
        elif meaning is Meaning.KEEP:
            self._still(signed, now.monotonic)
        else:
            self._odd(meaning, head, accepted.peer)

    # Inside.

    def _allowed(self, now: float) -> bool:
        second, used = self._second
        used = used + 1 if int(now) == second else 1
        self._second = int(now), used
        return used <= HEADS_PER_SECOND

    def _distrust(self, why: str) -> None:
        self.refused += 1
        self._log.warning("policy head refused; what is in force stays", why=why)

    def _odd(self, meaning: Meaning, head: Head, publisher: Peer) -> None:
        """A head beside or behind the one in force: refuse it, tell a person, and tell who published it."""
        held = self.follower.in_force
        assert held is not None
        if meaning is Meaning.FORK:
            self.forks += 1
            why = f"FORK: bundle {head.term}.{head.number} is another one than that in force here"
        else:
            why = f"OLD: {head.term}.{head.number} is behind {held.term}.{held.number}, which is in force here"
        self.refused += 1
        office = self._control.office
        if office is None or office.node == publisher.node:
            self._control.appoint(publisher)
        self._control.tell("ack", _ack(_bundle(head), why, 0))
        if (head.number, head.manifest) != self._alarmed:
            self._alarmed = head.number, head.manifest
            self._log.error("ALARM: two policies claim to be the one in force", why=why, published_by=head.node)

    def _still(self, signed: bytes, now: float) -> None:
        """The bundle in force still is: say so again, and note now and then until when."""
        self.look()
        self._say_again()
        if now - self._kept_at > KEEP_SECONDS and not self._fetching:
            self._kept_at = now
            self._spawn(self._keep(self.follower.in_force, signed, self._parts))

    def _say_again(self) -> None:
        """Repeat the last word, some time before the next head: all agents at once would be a flood."""
        if self._last_ack and self._saying is None:
            self._saying = asyncio.get_running_loop().call_later(AGAIN_SECONDS * self._jitter(), self._say)

    def _say(self) -> None:
        self._saying = None
        self._control.tell("ack", self._last_ack)

    async def _keep(self, bundle: InForce | None, head: bytes, parts: Mapping[str, bytes]) -> None:
        """Write a bundle to disk, one at a time, and none that was replaced meanwhile; try again at the next head."""
        async with self._writing:
            held = self.follower.in_force
            if bundle is None or (held is not None and bundle[:2] < held[:2]):
                return
            try:
                await asyncio.to_thread(self._kept.write, head, parts)
            except OSError as error:
                # In force all the same: a full disk must not keep a revocation out.
                self._kept_at = -KEEP_SECONDS
                self._log.error("policy not written to disk; it is tried again", why=str(error))
            else:
                self._kept_at = self._clock().monotonic

    def _want(self, wanted: Wanted) -> None:
        if self._wanted is not None and wanted.bundle[:2] <= self._wanted.bundle[:2]:
            if not self._fetching:  # refused before, and still
                self._say_again()
            return
        self._wanted = wanted
        if not self._fetching:
            self._fetching = True
            self._spawn(self._fetch())

    async def _fetch(self) -> None:
        """Fetch and take what is wanted, until there is nothing newer; what is refused waits for a newer head."""
        pause = SHORTEST_PAUSE
        try:
            while (wanted := self._wanted) is not None and self._is_news(wanted) and not self._revocations.barred:
                try:
                    await self._take(wanted)
                    pause = SHORTEST_PAUSE
                except BundleRefused as error:
                    self.refused += 1
                    self._log.error(
                        "policy refused; what is in force stays", number=wanted.bundle.number, why=str(error)
                    )
                    self._acknowledge(wanted, str(error))
                    if self._wanted is wanted:
                        return
                except Exception as error:
                    if not isinstance(error, MeshError):
                        self._log.error("policy not taken; it is tried again", exc_info=error)
                    self._log.warning("policy not fetched yet", number=wanted.bundle.number, why=str(error))
                    await asyncio.sleep(pause * (0.5 + self._jitter()))
                    pause = min(LONGEST_PAUSE, pause * 2)
        finally:
            self._fetching = False

    def _is_news(self, wanted: Wanted) -> bool:
        held = self.follower.in_force
        return held is None or wanted.bundle[:2] > held[:2]

    async def _take(self, wanted: Wanted) -> None:
        assembly = Assembly(wanted.bundle, self._parts)
        while wants := assembly.wants():
            if self._wanted is not wanted:
                return
            if not sum(map(assembly.supply, await self._parts_of(wants[:_PARTS]))):
                raise MeshError("the policy agent sent other parts than those that it lists")
            self._put_out(assembly)
        self._put_out(assembly)
        policy, access = await asyncio.to_thread(self._read, assembly)
        parts = assembly.parts()
        await self._keep(wanted.bundle, wanted.head, parts)
        now = self._clock()
        if not self.follower.take(wanted.bundle, now.monotonic, now.wall_us):
            return
        self._parts = parts
        self._put(policy, access)
        self._acknowledge(wanted, "")
        took = (self._clock().monotonic - wanted.heard_at) * 1000
        self._log.info(
            "policy in force", number=wanted.bundle.number, services=len(policy.services), took_ms=round(took, 1)
        )

    def _put_out(self, assembly: Assembly) -> None:
        """Put out whom a bundle lists, once that document is at hand."""
        document = assembly.revocation
        if document is not None and (hash := hash_of(document)) != self._put_out_by:
            self._put_out_by = hash
            self._revocations.take(document)

    def _read(self, assembly: Assembly) -> tuple[PolicySet, Access]:
        policy = assembly.policy(self._documents)
        return policy, Access(policy)

    def _put(self, policy: PolicySet, access: Access) -> None:
        self._in_force, self._denying = (policy, access), False
        self._enforce(policy, access)
        self.look()

    async def _parts_of(self, hashes: list[str]) -> list[bytes]:
        """Return some of these parts, the first among them."""
        said = await self._get(hashes, 0)
        size: int = said["size"]
        parts: list[bytes] = said["parts"]
        while parts and len(parts[0]) < size <= MANIFEST_LIMIT:
            more = (await self._get(hashes[:1], len(parts[0])))["parts"][0]
            if not more:
                break
            parts = [parts[0] + more]
        return parts

    async def _get(self, hashes: list[str], offset: int) -> dict[str, Any]:
        asked = msgpack.packb({"hashes": hashes, "offset": offset})
        return _answer(await self._control.ask("get", asked, ASK_SECONDS))

    def _acknowledge(self, wanted: Wanted, reason: str) -> None:
        """Say that a bundle is in force here (no reason), or why it is not."""
        took_us = int((self._clock().monotonic - wanted.heard_at) * 1e6)
        self._last_ack = _ack(wanted.bundle, reason, took_us)
        self._control.tell("ack", self._last_ack)


def _bundle(head: Head) -> InForce:
    return InForce(head.term, head.number, head.manifest, head.expires_us, head.issued_us)


def _ack(bundle: InForce, reason: str, took_us: int) -> bytes:
    """Return what is said of a bundle: in force here (no reason), or why it is not."""
    said = {"term": bundle.term, "number": bundle.number, "reason": reason[:1000], "took_us": took_us}
    packed: bytes = msgpack.packb(said)
    return packed


def _answer(data: bytes) -> dict[str, Any]:
    """Return the answer to a `get`; MeshError for what is none, as if it had not come."""
    try:
        said = msgpack.unpackb(data, use_list=True, strict_map_key=True, max_ext_len=0)
        fits = type(said["size"]) is int and said["parts"] and all(type(part) is bytes for part in said["parts"])
    except Exception:  # msgpack raises a dozen unrelated classes
        fits = False
    if not fits:
        raise MeshError("the policy agent's answer makes no sense")
    return dict(said)
