"""A node that is revoked is out at every agent, also where the rest of the bundle is refused, and stays out."""

import asyncio
from functools import partial
from pathlib import Path

import msgpack
import pytest
from control_world import Follower, Plane, service, until

from bus_mesh.agent.apps import Peer
from bus_mesh.control.office import Office
from bus_mesh.policy.models import REVOKED, Revocation
from bus_mesh.protocol.errors import MeshError, NodeRevoked

pytestmark = pytest.mark.timeout(60)
SOMEBODY = Peer(0, -1, frozenset(), None)


@pytest.fixture
def plane(tmp_path: Path) -> Plane:
    return Plane(tmp_path)


async def settled(*agents: Follower, number: int) -> None:
    await until(lambda: all(agent.number == number for agent in agents))


async def acquainted(a: Follower, b: Follower) -> None:
    """Wait until `a` knows the process of `b`."""
    a.node.watch.learn(b.node.watch.document)
    await until(lambda: knows(a, b))


def knows(a: Follower, b: Follower) -> bool:
    return a.node.keyring.peer_of("b", b.node.keyring.boot) is not None


async def published(office: Office, documents: dict[str, bytes]) -> None:
    """Store and publish what no policy agent of this version would take."""
    desk = office._desk
    store = partial(desk._store.apply, documents, made_by="x", made_us=1)
    desk.bundle = await asyncio.get_running_loop().run_in_executor(office._work, store)
    office.publish()


async def test_a_revoked_node_is_believed_no_more_and_ends_by_itself(plane: Plane) -> None:
    async with plane.office() as office, plane.agent("a") as a, plane.agent("b") as b:
        await settled(a, b, number=1)
        await acquainted(a, b)

        said = await plane.command(a, "revoke", node="b")

        await settled(a, number=said["number"])
        await until(lambda: b.node.barred is not None)
        assert not knows(a, b)
        assert a.node.watch.learn(b.node.watch.document) is None
        assert isinstance(b.node.refusal("web", SOMEBODY), NodeRevoked)
        assert b.node.status()["revoked"] is True
        assert a.node.barred is None
        await until(lambda: "b" not in office._desk.acks)
        with pytest.raises(NodeRevoked):
            await b.node.control.ask("history", msgpack.packb({}), 5.0)


async def test_a_revocation_holds_where_the_rest_of_its_bundle_is_refused(plane: Plane) -> None:
    async with plane.office() as office, plane.agent("a") as a, plane.agent("b") as b:
        await settled(a, b, number=1)
        await acquainted(a, b)
        bad = {"Service/orders": b"kind: Service\nname: orders\nfrom_the_future: 1\n"}

        await published(office, {**bad, REVOKED: Revocation(nodes=("b",)).text.encode()})

        await until(lambda: not knows(a, b) and a.follow.refused > 0)
        assert a.number == 1
        assert a.revocations.said.nodes == ("b",)


async def test_a_bundle_that_lists_fewer_takes_nobody_back(plane: Plane) -> None:
    async with plane.office() as office, plane.agent("a") as a, plane.agent("b") as b:
        await settled(a, b, number=1)
        await acquainted(a, b)
        await plane.command(a, "revoke", node="b")
        await settled(a, number=2)

        await published(office, {REVOKED: Revocation().text.encode()})

        await settled(a, number=3)
        assert a.node.watch.learn(b.node.watch.document) is None
        assert a.revocations.said.nodes == ("b",)


async def test_who_is_out_stays_out_after_a_start_without_the_control_plane(plane: Plane) -> None:
    async with plane.agent("a") as a, plane.agent("b") as b, plane.office() as office:
        await settled(a, b, number=1)
        await published(office, {"Service/x": b"?", REVOKED: Revocation(nodes=("b",)).text.encode()})
        await until(lambda: b.node.barred is not None and a.revocations._kept.nodes == ("b",))
        await until(lambda: b.revocations._kept.nodes == ("b",))
    async with plane.agent("a") as a, plane.agent("b") as b:
        assert a.node.watch.learn(b.node.watch.document) is None
        assert b.node.barred is not None
        assert a.number == 1


async def test_a_file_of_the_revoked_that_is_damaged_is_said_and_the_rest_goes_on(plane: Plane) -> None:
    async with plane.office(), plane.agent("a") as a:
        await settled(a, number=1)
    (plane.folder / "a" / "revoked.yaml").write_bytes(b"kind: Revoc\xff")
    async with plane.office(), plane.agent("a") as a:
        await settled(a, number=1)
        assert a.node.barred is None


async def test_a_revocation_that_nobody_understands_puts_nobody_out(plane: Plane) -> None:
    async with plane.office() as office, plane.agent("a") as a:
        await settled(a, number=1)

        await published(office, {REVOKED: b"kind: Revocation\nname: revoked\nnodes: 7\n"})

        await until(lambda: a.follow.refused > 0)
        assert a.revocations.said == Revocation()


async def test_a_revoked_operator_is_refused_by_the_policy_agent(plane: Plane) -> None:
    async with plane.office(), plane.agent("a") as a:
        await settled(a, number=1)
        await plane.command(a, "revoke_operator", name="operator")

        with pytest.raises(MeshError, match="operator operator is revoked"):
            await plane.apply(a, orders=service("orders", "web"))
