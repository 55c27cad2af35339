"""Policy from an operator to every agent: signed, in order, whole, kept, and acknowledged; and nothing else gets in."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
import pytest
from control_world import Follower, Plane, service, until

from bus_mesh.agent.kept_policy import KeptPolicy
from bus_mesh.control.desk import CHUNK
from bus_mesh.control.office import Office
from bus_mesh.identity import document
from bus_mesh.identity.certificate import Role, delegate
from bus_mesh.identity.head import verify_kept_head
from bus_mesh.identity.keys import NodeKey
from bus_mesh.policy.follow import Freshness
from bus_mesh.protocol.errors import MeshError
from bus_mesh.protocol.frames import Call, Frame, Kind

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def plane(tmp_path: Path) -> Plane:
    return Plane(tmp_path)


async def settled(*agents: Follower, number: int) -> None:
    await until(lambda: all(agent.number == number for agent in agents))


async def greeted(*agents: Follower) -> None:
    """Wait until these agents follow the policy agent, whose first bundle is empty."""
    await settled(*agents, number=1)


async def changed(office: Office, documents: dict[str, bytes]) -> None:
    """Store and publish what no policy agent of this version would take."""
    desk = office._desk
    store = partial(desk._store.apply, documents, made_by="x", made_us=1)
    desk.bundle = await asyncio.get_running_loop().run_in_executor(office._work, store)
    office.publish()


async def test_what_is_applied_is_in_force_everywhere_and_acknowledged(plane: Plane) -> None:
    async with plane.office() as office, plane.agent("a") as a, plane.agent("b") as b:
        await greeted(a, b)
        number = await plane.apply(a, orders=service("orders", "web"))

        await settled(a, b, number=number)
        assert a.allows("web", "orders")
        assert not b.allows("cli", "orders")
        await until(lambda: {n: ack.number for n, ack in office._desk.acks.items()} == {"a": 2, "b": 2})
        assert all(ack.applied for ack in office._desk.acks.values())
        assert a.follow.freshness is Freshness.FRESH


async def test_an_agent_that_comes_later_is_told_at_once(plane: Plane) -> None:
    async with plane.office(), plane.agent("a") as a:
        await greeted(a)
        await plane.apply(a, orders=service("orders", "web"))
        began = asyncio.get_running_loop().time()
        async with plane.agent("b") as b:
            await settled(b, number=2)
        assert asyncio.get_running_loop().time() - began < 2.0


async def test_an_agent_starts_with_the_last_policy_while_the_control_plane_is_away(plane: Plane) -> None:
    async with plane.office(), plane.agent("a") as a:
        await greeted(a)
        await plane.apply(a, orders=service("orders", "web"))
        await settled(a, number=2)
    async with plane.agent("a") as again:
        assert again.number == 2
        assert again.allows("web", "orders")
        assert again.follow.freshness is Freshness.STALE
        async with plane.office():
            await until(lambda: again.follow.freshness is Freshness.FRESH)


@pytest.mark.parametrize("damage", ["head", "part", "all parts", "head of another mesh"])
async def test_what_is_damaged_on_disk_is_not_taken_and_comes_again(plane: Plane, damage: str) -> None:
    async with plane.office(), plane.agent("a") as a:
        await greeted(a)
        await plane.apply(a, orders=service("orders", "web"))
        await settled(a, number=2)
        kept = a.folder
    parts = sorted((kept / "parts").iterdir())
    if damage == "head":
        (kept / "head").write_bytes((kept / "head").read_bytes()[:-1])
    elif damage == "part":
        parts[0].write_bytes(parts[0].read_bytes() + b"#")
    elif damage == "all parts":
        shutil.rmtree(kept / "parts")
    else:
        other = Plane(plane.folder / "other")
        (kept / "head").write_bytes(other.head())
    async with plane.agent("a") as again:
        assert again.number == 0
        assert not again.allows("web", "orders")
        async with plane.office():
            await settled(again, number=2)


async def test_a_policy_agent_that_is_gone_leaves_policy_in_force_and_its_successor_goes_on(plane: Plane) -> None:
    async with plane.agent("a") as a:
        async with plane.office():
            await greeted(a)
            await plane.apply(a, orders=service("orders", "web"))
            await settled(a, number=2)
        assert a.allows("web", "orders")
        with pytest.raises(MeshError):
            await a.node.control.ask("history", msgpack.packb({"most": 1}), 0.2)
        async with plane.office("control-2"):
            await until(lambda: (peer := a.node.control.office) is not None and peer.node == "control-2")
            assert await plane.apply(a, orders=service("orders", "cli")) == 3
            await settled(a, number=3)


async def test_a_bundle_of_many_and_large_documents_comes_whole(plane: Plane) -> None:
    async with plane.office(), plane.agent("a") as a:
        await greeted(a)
        documents = {f"s{number}": service(f"s{number}", "web") for number in range(300)}
        await plane.apply(a, **documents, big=service("big", "web") + b"#" + b"x" * (CHUNK + 99) + b"\n")
        async with plane.agent("b") as b:
            await settled(a, b, number=2)
            assert b.allows("web", "s299")
            assert b.allows("web", "big")


Bad = Callable[[Plane, Office], bytes]


def of_the_issuer(plane: Plane, office: Office) -> bytes:
    key = NodeKey.from_bytes((plane.home.path / "issuer.key").read_bytes())
    return plane.head(number=9, key=key, delegation=(plane.home.path / "issuer.delegation").read_bytes())


def of_a_stranger(plane: Plane, office: Office) -> bytes:
    root, key = (NodeKey.generate(os.urandom) for _ in range(2))
    granted = delegate(
        root, "test", Role.POLICY, key.public, term=1, not_before_us=0, not_after_us=1 << 60, name="stranger"
    )
    return plane.head(number=9, key=key, delegation=granted)


HEADS: dict[str, Bad] = {
    "older": lambda plane, office: plane.head(number=2, manifest=b"o" * 32),
    "forked": lambda plane, office: plane.head(number=3, manifest=b"f" * 32),
    "of a later term than its signer's": lambda plane, office: plane.head(number=9, term=2),
    "expired": lambda plane, office: plane.head(number=9, issued_us=1_700_000_000_000_000),
    "dated ahead": lambda plane, office: plane.head(number=9, issued_us=4_000_000_000_000_000),
    "of another mesh": lambda plane, office: plane.head(number=9, mesh="other"),
    "by the issuer": of_the_issuer,
    "by a stranger": of_a_stranger,
    "cut short": lambda plane, office: plane.head(number=9)[:-9],
    "longer": lambda plane, office: plane.head(number=9) + b"x",
    "empty": lambda plane, office: b"",
    "of a policy agent that did not send it": lambda plane, office: plane.head(number=9, node="a"),
}


@pytest.mark.parametrize("kind", HEADS)
async def test_a_head_that_does_not_hold_changes_nothing(plane: Plane, kind: str) -> None:
    async with plane.office() as office, plane.agent("a") as a:
        await greeted(a)
        await plane.apply(a, orders=service("orders", "web"))
        await plane.apply(a, orders=service("orders", "web", "cli"))
        await settled(a, number=3)
        before = a.follow.refused

        row = document.pack_row((HEADS[kind](plane, office), office._keyring.announcement))
        a.bus.publish(plane.subjects.policy, row)

        await until(lambda: a.follow.refused > before)
        assert a.number == 3
        assert a.follow.forks == (kind == "forked")
        assert await plane.apply(a, orders=service("orders", "web")) == 4
        await settled(a, number=4)


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\x92\xc4\x01a", b"\x92\xc0\xc0", b"\xdd\xff\xff\xff\xff" * 3, os.urandom(999)]
)
async def test_junk_on_the_control_subject_changes_nothing(plane: Plane, data: bytes) -> None:
    async with plane.office(), plane.agent("a") as a:
        await greeted(a)
        await plane.apply(a, orders=service("orders", "web"))
        await settled(a, number=2)

        a.bus.publish(plane.subjects.policy, data)

        await until(lambda: a.follow.refused == 1)
        assert a.number == 2


Documents = dict[str, bytes]
BUNDLES: dict[str, Documents] = {
    "a key that no agent knows": {"Service/orders": b"kind: Service\nname: orders\ntimout: 3\n"},
    "a key that agents do not enforce yet": {"Service/orders": b"kind: Service\nname: orders\nevents: {}\n"},
    "an unknown kind": {"Ghost/orders": b"kind: Ghost\nname: orders\n"},
    "a name that is another's": {"Service/orders": b"kind: Service\nname: stock\n"},
    "a list": {"Service/orders": b"- 1\n"},
    "aliases that expand": {"Service/orders": b"a: &a [x, x]\nb: [*a, *a]\n"},
    "no text": {"Service/orders": b"\xff\xfe\x00"},
    "two about the mesh": {"Mesh/one": b"kind: Mesh\nname: one\n", "Mesh/two": b"kind: Mesh\nname: two\n"},
    "nothing inside": {"Service/orders": b""},
}


@pytest.mark.parametrize("kind", BUNDLES)
async def test_a_bundle_that_is_not_understood_is_refused_whole_and_said(plane: Plane, kind: str) -> None:
    """As a policy agent of a later version, or a broken one, would publish it: signed, stored, and wrong here."""
    async with plane.office() as office, plane.agent("a") as a:
        await greeted(a)
        await plane.apply(a, orders=service("orders", "web"))
        await settled(a, number=2)

        await changed(office, {**BUNDLES[kind], "Service/good": service("good", "web")})

        acks = office._desk.acks
        await until(lambda: "a" in acks and not acks["a"].applied)
        assert acks["a"].number == 3
        assert a.number == 2
        assert a.allows("web", "orders")
        assert not a.allows("web", "good")


async def test_a_manifest_that_is_none_is_refused_and_said(plane: Plane) -> None:
    async with plane.office() as office, plane.agent("a") as a:
        await greeted(a)
        text = b"busmesh manifest 1\nnonsense\n"
        await asyncio.get_running_loop().run_in_executor(office._work, put, office, text)

        head = plane.head(number=2, manifest=sha256(text).digest())
        a.bus.publish(plane.subjects.policy, document.pack_row((head, office._keyring.announcement)))

        acks = office._desk.acks
        await until(lambda: "a" in acks and not acks["a"].applied)
        assert "manifest" in acks["a"].reason
        assert a.number == 1


def put(office: Office, data: bytes) -> None:
    row = sha256(data).hexdigest(), data
    office._desk._store._database.execute("INSERT INTO document VALUES (?, ?)", row)


async def test_a_bundle_that_is_not_to_be_had_is_asked_for_until_a_newer_one_comes(plane: Plane) -> None:
    async with plane.office() as office, plane.agent("a") as a:
        await greeted(a)
        head = plane.head(number=2, manifest=b"m" * 32)
        a.bus.publish(plane.subjects.policy, document.pack_row((head, office._keyring.announcement)))
        await until(lambda: a.follow._wanted is not None and a.follow._wanted.bundle.number == 2)

        assert await plane.apply(a, orders=service("orders", "cli")) == 2  # beside the one that never came
        assert a.number == 1
        assert await plane.apply(a, orders=service("orders", "web", "cli")) == 3

        await settled(a, number=3)


async def test_a_recorded_head_of_an_earlier_bundle_does_not_bring_it_back(plane: Plane) -> None:
    recorded: list[bytes] = []
    async with plane.office(), plane.agent("a") as a:
        await a.bus.subscribe(plane.subjects.policy, lambda subject, reply, data, status: recorded.append(data))
        await greeted(a)
        await plane.apply(a, orders=service("orders", "web"))
        await settled(a, number=2)
        await plane.apply(a, orders=service("orders", "cli"))
        await settled(a, number=3)

        before = a.follow.refused
        a.bus.publish(plane.subjects.policy, recorded[0])

        await until(lambda: a.follow.refused > before)
        assert a.number == 3


async def test_a_store_that_was_set_back_is_refused_by_everybody_and_says_so(plane: Plane) -> None:
    async with plane.agent("a") as a:
        async with plane.office(store="new.sqlite"):
            await greeted(a)
            await plane.apply(a, orders=service("orders", "web"))
            await plane.apply(a, orders=service("orders", "cli"))
            await settled(a, number=3)
        async with plane.office(store="old.sqlite") as back:
            acks = back._desk.acks
            await until(lambda: "a" in acks and acks["a"].reason.startswith("OLD"))
        assert a.number == 3


async def test_a_second_policy_agent_in_office_raises_the_alarm_everywhere(plane: Plane) -> None:
    ours, theirs = ({"Service/orders": service("orders", caller)} for caller in ("web", "cli"))
    async with plane.office(first=ours) as one, plane.agent("a") as a:
        await greeted(a)
        async with plane.office("control-2", "other.sqlite", theirs) as two:
            one.publish()
            await until(lambda: one.alarms > 0 and two.alarms > 0 and a.follow.forks > 0)
        assert a.number == 1
        assert a.allows("web", "orders")


async def test_what_one_node_asks_in_the_name_of_another_is_dropped(plane: Plane) -> None:
    async with plane.office() as office, plane.agent("a") as a, plane.agent("b") as b:
        await greeted(a, b)
        taken: list[bytes] = []
        await b.bus.subscribe(plane.subjects.control("ack", "a"), lambda s, r, data, status: taken.append(data))
        a.node.control.tell("ack", msgpack.packb({"number": 1, "reason": "", "took_us": 1}))
        await until(lambda: len(taken) == 1)

        b.bus.publish(plane.subjects.control("ack", "b"), taken[0])  # another subject than it was sealed for
        b.bus.publish(plane.subjects.control("ack", "a"), taken[0])  # the same again
        b.bus.publish(plane.subjects.control("ack", "a"), os.urandom(200))

        await until(lambda: office.dropped.total() == 3)
        assert office.dropped == {"FORGED": 1, "REPLAYED": 1, "FORMAT": 1}


async def test_requests_over_the_limit_are_refused_with_a_pause(plane: Plane) -> None:
    async with plane.office(), plane.agent("a") as a:
        await greeted(a)
        asked = [a.node.control.ask("history", msgpack.packb({"most": 1}), 5.0) for _ in range(200)]
        found = await asyncio.gather(*asked, return_exceptions=True)

        codes = {str(getattr(one, "reason", "ok")) for one in found}
        assert codes <= {"ok", "RESOURCE_EXHAUSTED"}
        assert sum(isinstance(one, bytes) for one in found) >= 8


async def test_a_bus_that_comes_back_brings_the_head_at_once(plane: Plane) -> None:
    async with plane.office() as office, plane.agent("a") as a:
        await greeted(a)
        await plane.apply(a, orders=service("orders", "web"))
        await settled(a, number=2)
        plane.broker.stop()
        await changed(office, {"Service/orders": service("orders", "cli")})
        plane.broker.start()
        a.follow.greet()

        await settled(a, number=3)
        assert a.allows("cli", "orders")


@pytest.mark.parametrize("word", ["keep", "deny"])
async def test_an_expired_policy_is_kept_or_denies_all_as_it_says_itself(plane: Plane, word: str) -> None:
    first = {
        "Service/orders": service("orders", "web"),
        "Mesh/mesh": f"kind: Mesh\nname: mesh\non_expired: {word}\n".encode(),
    }
    async with plane.office(first=first) as office, plane.agent("a") as a:
        await greeted(a)
        held = a.follow.follower.in_force
        assert held is not None
        a.follow.follower.in_force = held._replace(expires_us=1)  # as if a day had passed in silence

        a.follow.look()

        assert a.follow.freshness is Freshness.EXPIRED
        verdict = a.node.access.check("web", "orders", "get")
        assert (verdict.allowed, verdict.rule) == (
            (False, "policy expired") if word == "deny" else (True, "orders/access.allow[0]")
        )
        office.publish()
        await until(lambda: a.follow.freshness is Freshness.FRESH)
        assert a.allows("web", "orders")


async def test_an_agent_that_starts_from_its_disk_says_what_it_has_in_force(plane: Plane) -> None:
    async with plane.office(), plane.agent("a") as a:
        await greeted(a)
        await plane.apply(a, orders=service("orders", "web"))
        await settled(a, number=2)
    async with plane.office("control-2") as office:
        office._desk.acks.clear()
        async with plane.agent("a"):
            await until(lambda: "a" in office._desk.acks)
            assert office._desk.acks["a"].number == 2


@pytest.mark.parametrize("number", [1e300, -1, 1 << 63, "7", None, True])
async def test_an_acknowledgement_that_makes_no_sense_is_dropped_and_others_are_kept(plane: Plane, number: Any) -> None:
    async with plane.office() as office, plane.agent("a") as a, plane.agent("b") as b:
        await greeted(a, b)
        a.node.control.tell("ack", msgpack.packb({"number": number, "reason": "", "took_us": 1}))
        await until(lambda: office.dropped["BAD_ACK"] == 1)

        await plane.apply(b, orders=service("orders", "web"))
        loop, store = asyncio.get_running_loop(), office._desk._store
        async with asyncio.timeout(10):
            while {a.number for a in await loop.run_in_executor(office._work, store.acks)} != {2}:
                await asyncio.sleep(0.05)


async def test_two_writes_of_policy_to_one_disk_leave_the_newer_one(plane: Plane) -> None:
    async with plane.office(), plane.agent("a") as a:
        await greeted(a)
        follow, write = a.follow, a.follow._kept.write

        def slow(head: bytes, parts: dict[str, bytes]) -> None:
            time.sleep(0.05)
            write(head, parts)

        follow._kept.write = slow  # type: ignore[method-assign, assignment]
        follow._spawn(follow._keep(follow.follower.in_force, follow._kept.head() or b"", follow._parts))
        await plane.apply(a, orders=service("orders", "web"))
        follow._spawn(follow._keep(follow.follower.in_force, follow._kept.head() or b"", follow._parts))
        await settled(a, number=2)
        async with follow._writing:
            pass
    async with plane.agent("a") as again:
        assert again.number == 2


async def test_a_disk_that_was_full_gets_the_policy_as_soon_as_it_has_room(plane: Plane) -> None:
    async with plane.office() as office, plane.agent("a") as a:
        await greeted(a)
        write = a.follow._kept.write

        def full(head: bytes, parts: dict[str, bytes]) -> None:
            raise OSError(28, "No space left on device")

        a.follow._kept.write = full  # type: ignore[method-assign, assignment]
        await plane.apply(a, orders=service("orders", "web"))
        await settled(a, number=2)
        a.follow._kept.write = write  # type: ignore[method-assign]
        office.publish()
        kept = KeptPolicy(a.folder)
        await until(lambda: verify_kept_head(kept.head() or b"", "test", a.node.own.root).number == 2)


async def test_an_app_cannot_speak_for_its_node_or_use_up_its_requests(plane: Plane) -> None:
    async with plane.office(), plane.agent("a") as a:
        await greeted(a)
        session = Session()
        for verb in ["ack", "renew", *["history"] * 40]:
            asked = msgpack.packb({"verb": verb, "payload": msgpack.packb({"most": 1})})
            call = Call(int(Kind.CALL), session.next(), "busmesh", "control", 5000, "", None, asked)
            a.node.console(session, call)  # type: ignore[arg-type]

        await until(lambda: len(session.sent) == 42)
        reasons = [getattr(frame, "reason", "ok") for frame in session.sent]
        assert reasons.count("UNIMPLEMENTED") == 2
        assert reasons.count("RESOURCE_EXHAUSTED") >= 8


class Session:
    """A local session that keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[Frame] = []
        self._numbers = 0

    def next(self) -> int:
        self._numbers += 1
        return self._numbers

    def send(self, frame: Frame) -> None:
        self.sent.append(frame)


async def test_another_node_cannot_use_up_the_account_of_the_policy_agents_announcements(plane: Plane) -> None:
    async with plane.office() as office, plane.agent("a") as a, plane.agent("b") as b:
        await greeted(a, b)
        inbox = plane.subjects.inbox("a", a.node.keyring.boot)
        for number in range(200):
            junk = bytearray(office._keyring.announcement)
            junk[-1 - number % 60] ^= 1 + number % 250
            b.bus.publish(inbox, bytes(junk))

        await plane.apply(b, orders=service("orders", "web"))
        await settled(a, b, number=2)


async def test_a_signer_whose_time_is_over_says_so_and_publishes_nothing(plane: Plane) -> None:
    async with plane.office() as office, plane.agent("a") as a:
        await greeted(a)
        office._signer = office._signer._replace(not_after_us=1)

        with pytest.raises(MeshError, match="has ended"):
            await plane.apply(a, orders=service("orders", "web"))
        assert "has ended" in office.trouble
