"""From a token to a node of the mesh, and from one certificate to the next, over a bus in memory."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from control_world import Follower, Plane, until

from bus_mesh.agent import join
from bus_mesh.agent.join import JoinFailed
from bus_mesh.agent.renewal import Renewer, due_us
from bus_mesh.agent.run import read_clocks
from bus_mesh.clock import wall_us
from bus_mesh.control.office import ENROLMENTS_PER_SECOND, Office
from bus_mesh.identity.certificate import verify_chain
from bus_mesh.identity.enrolment import EnrolmentRefused, Token
from bus_mesh.identity.renewal import Renewal, pack_asked, sign_renewal
from bus_mesh.protocol.errors import MeshError

pytestmark = pytest.mark.timeout(60)
DAY_US = 86_400_000_000


@pytest.fixture
def plane(tmp_path: Path) -> Plane:
    return Plane(tmp_path)


async def token_for(plane: Plane, by: Follower, node: str = "c", **other: Any) -> Token:
    asked = {"node": node, "serve": ["orders"], "call_as": ["web", "cli"], "ttl": 600.0, "urls": [], **other}
    return Token.parse((await plane.command(by, "token", **asked))["token"])


async def joins(plane: Plane, token: Token, identity: Path, patience: float = 5.0) -> None:
    """Do what `busmesh agent --join` does, on the bus in memory."""
    bus = plane.broker.connect()
    try:
        asking = join.prepare(token, identity, os.urandom)
        join.write(token, asking, await join.ask(bus, token, asking, wall_us, patience), identity)
    finally:
        await bus.close()


async def ready(*agents: Follower) -> None:
    await until(lambda: all(agent.number == 1 for agent in agents))


async def test_a_machine_with_a_token_becomes_a_node_that_follows_policy(plane: Plane) -> None:
    async with plane.office(certificates_us=DAY_US) as office, plane.agent("a") as a:
        await ready(a)
        identity = plane.folder / "c" / "identity"
        identity.parent.mkdir()

        await joins(plane, await token_for(plane, a), identity)

        assert sorted(file.name for file in identity.iterdir()) == ["node.chain", "node.key", "root.pub"]
        assert (identity / "node.key").stat().st_mode & 0o777 == 0o600
        assert list(identity.parent.iterdir()) == [identity]
        async with plane.agent("c") as c:
            await ready(c)
            assert c.node.own.certificate.serve == {"orders"}
            await until(lambda: "c" in office._desk.acks)


async def test_an_answer_that_was_lost_comes_again_to_the_same_key(plane: Plane) -> None:
    async with plane.office(certificates_us=DAY_US), plane.agent("a") as a:
        await ready(a)
        token, identity = await token_for(plane, a), plane.folder / "c" / "identity"
        identity.parent.mkdir()
        asking = join.prepare(token, identity, os.urandom)
        bus = plane.broker.connect()
        first = await join.ask(bus, token, asking, wall_us)  # and now the machine loses its power
        await bus.close()

        await joins(plane, token, identity)

        assert (identity / "node.chain").read_bytes() == first.chain
        assert (identity / "node.key").read_bytes() == asking.key.raw


async def test_a_token_that_another_machine_has_used_admits_nobody_and_raises_the_alarm(plane: Plane) -> None:
    async with plane.office(certificates_us=DAY_US) as office, plane.agent("a") as a:
        await ready(a)
        token = await token_for(plane, a)
        for name in ("c", "d"):
            (plane.folder / name).mkdir()
        await joins(plane, token, plane.folder / "c" / "identity")

        with pytest.raises(EnrolmentRefused, match="TOKEN_SPENT"):
            await joins(plane, token, plane.folder / "d" / "identity")
        assert not (plane.folder / "d" / "identity").exists()
        assert office._desk.admission is not None
        assert office._desk.admission.alarms == 1


async def test_without_an_answer_the_joiner_says_so_and_what_to_do(plane: Plane) -> None:
    async with plane.office(certificates_us=DAY_US), plane.agent("a") as a:
        await ready(a)
        token = await token_for(plane, a)
    (plane.folder / "c").mkdir()

    with pytest.raises(JoinFailed, match="nobody answered; is a policy agent with the issuer's key running"):
        await joins(plane, token, plane.folder / "c" / "identity", patience=0.1)
    assert not (plane.folder / "c" / "identity").exists()
    with pytest.raises(JoinFailed, match="time is over; have another token made"):
        await joins(plane, token._replace(expires_us=1), plane.folder / "c" / "identity", patience=0.2)


async def test_an_answer_by_a_stranger_is_not_believed_and_the_right_one_waited_for(plane: Plane) -> None:
    async with plane.office(certificates_us=DAY_US), plane.agent("a") as a:
        await ready(a)
        token, identity = await token_for(plane, a), plane.folder / "c" / "identity"
        identity.parent.mkdir()
        asking, bus, stranger = (
            join.prepare(token, identity, os.urandom),
            plane.broker.connect(),
            plane.broker.connect(),
        )
        asked = asyncio.create_task(join.ask(bus, token, asking, wall_us))
        await asyncio.sleep(0)
        for junk in (b"", b"x", b"\x92\xc4\x01a\xc4\x00", os.urandom(999)):
            stranger.publish(plane.subjects.enrolled(token.id), junk)

        admitted = await asked

        assert verify_chain(admitted.chain, "test", admitted.root, wall_us()).node == "c"
        await bus.close()
        await stranger.close()


async def test_a_flood_of_requests_to_be_let_in_is_dropped_and_counted(plane: Plane) -> None:
    async with plane.office(certificates_us=DAY_US) as office, plane.agent("a") as a:
        await ready(a)
        for number in range(3 * ENROLMENTS_PER_SECOND):
            a.bus.publish(plane.subjects.enrol(f"x{number}"), os.urandom(64))

        await until(lambda: office.dropped["ENROLMENT"] >= ENROLMENTS_PER_SECOND)
        await joins_at_last(plane, a)


async def joins_at_last(plane: Plane, by: Follower) -> None:
    (plane.folder / "c").mkdir()
    await joins(plane, await token_for(plane, by), plane.folder / "c" / "identity")


def renewer(plane: Plane, of: Follower) -> Renewer:
    return Renewer(of.node, plane.folder / of.node.own.node / "identity", None, read_clocks, os.urandom, lambda: 0.0)


def known_serial(office: Office, of: Follower) -> str:
    peer = office._keyring.peer_of(of.node.own.node, of.node.keyring.boot)
    return peer.certificate.serial if peer is not None else ""


async def test_a_certificate_is_renewed_on_disk_in_force_and_known_to_others(plane: Plane) -> None:
    async with plane.office(certificates_us=DAY_US) as office, plane.agent("a") as a:
        await ready(a)
        before, file = a.node.own, plane.folder / "a" / "identity" / "node.chain"

        await renewer(plane, a).renew()

        assert a.node.own.certificate.serial != before.certificate.serial
        assert a.node.keyring.own is a.node.own
        assert file.read_bytes() == a.node.own.chain
        assert not (file.parent / "renewal").exists()
        await a.node.control.ask("acks", b"\x80", 5.0)
        assert known_serial(office, a) == a.node.own.certificate.serial


async def test_a_renewal_that_was_cut_off_is_asked_again_and_is_no_alarm(plane: Plane) -> None:
    async with plane.office(certificates_us=DAY_US) as office:
        async with plane.agent("a") as a:
            await ready(a)
            asked = renewer(plane, a)._request(a.node.own, "")
            await a.node.control.ask("renew", pack_asked(asked), 5.0)  # answered, and the agent dies before it is kept
        async with plane.agent("a") as again:
            await until(lambda: again.node.control.office is not None)
            await renewer(plane, again).renew()
            assert office._desk.admission is not None
            assert office._desk.admission.alarms == 0


async def test_a_copy_of_a_nodes_identity_that_renews_too_is_the_clone_alarm(plane: Plane) -> None:
    async with plane.office(certificates_us=DAY_US) as office, plane.agent("a") as a:
        await ready(a)
        own = a.node.own
        copy = Renewal("test", "a", own.certificate.serial, own.key.public, "", os.urandom(16))
        await a.node.control.ask("renew", pack_asked(sign_renewal(copy, own.key)), 5.0)

        with pytest.raises(MeshError, match="RENEWAL_SPENT"):
            await renewer(plane, a).renew()
        assert office._desk.admission is not None
        assert office._desk.admission.alarms == 1
        assert a.node.own is own


async def test_an_agent_renews_by_itself_at_half_life_again_and_again(plane: Plane) -> None:
    async with plane.office(certificates_us=1_500_000) as office, plane.agent("a") as a:
        await ready(a)
        work = renewer(plane, a)
        await work.renew()  # from 30 days to a second and a half, a minute of it gone before it began
        assert due_us(a.node.own.certificate) < wall_us()
        a.node.spawn(work.run())

        await until(lambda: work.renewals >= 4)
        await a.node.control.ask("acks", b"\x80", 5.0)
        assert office._desk.admission is not None
        assert office._desk.admission.alarms == 0
