"""Every role and every subject of the table on a real server in operator mode with TLS, by the server's own words."""

import os
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from broker_world import Broker, attempt, broker, client, settled, until
from nats.aio.msg import Msg

from bus_mesh.bus.access import Access, trusting
from bus_mesh.bus.contract import BusRejected, BusUnreachable
from bus_mesh.bus.embedded import EmbeddedServer
from bus_mesh.bus.nats_bus import NatsBus
from bus_mesh.cli.nats import config
from bus_mesh.control import permissions
from bus_mesh.control.nats_account import PushRefused
from bus_mesh.identity.bus_credentials import Credentials
from bus_mesh.identity.nkeys import Kind, Nkey
from bus_mesh.process.kept import Keeper

NODE, POLICY, JOINER = "node", "policy agent", "joiner"
ROLES = {
    NODE: permissions.node("demo", "node-a", ["orders"], ["web"]),
    POLICY: permissions.policy_agent("demo", "control"),
    JOINER: permissions.joiner("demo", "j1"),
}
NAMED = {NODE: "node-a", POLICY: "control", JOINER: "j1"}


class Row(NamedTuple):
    """A subject, ME standing for who tries it; which roles may publish there, and which may subscribe."""

    subject: str
    publish: set[str]
    subscribe: set[str]


BOTH, NOBODY = {NODE, POLICY}, set[str]()
TABLE = [
    # Calls: published by who speaks for a service; joined as the group of a granted service, and in no other way.
    Row("rpc.orders.get", {NODE}, NOBODY),
    Row("rpc.orders.* orders", NOBODY, {NODE}),
    Row("rpc.orders.get orders", NOBODY, {NODE}),
    Row("rpc.orders.*", NOBODY, NOBODY),
    Row("rpc.orders.* stock", NOBODY, NOBODY),
    # To the server `>` is one of the tokens that `*` stands for; there is nothing deeper to hear.
    Row("rpc.orders.> orders", NOBODY, {NODE}),
    Row("rpc.orders.get.deeper", NOBODY, NOBODY),
    Row("rpc.stock.get", {NODE}, NOBODY),
    Row("rpc.stock.* stock", NOBODY, NOBODY),
    Row("rpc.stock.* orders", NOBODY, NOBODY),
    Row("rpc.*.* orders", NOBODY, NOBODY),
    Row("rpc.>", NOBODY, NOBODY),
    # Inboxes: anybody's for whoever has something to say, one's own to listen.
    Row("node.ME.boot1", BOTH, BOTH),
    Row("node.ME.*", NOBODY, BOTH),
    Row("node.node-b.boot1", BOTH, NOBODY),
    Row("node.node-b.boot1 group", NOBODY, NOBODY),
    Row("node.*.*", NOBODY, NOBODY),
    Row("*.ME.boot1", NOBODY, NOBODY),
    # Only the server says that nobody is there.
    Row("none.ME.boot1.7", NOBODY, BOTH),
    Row("none.ME.boot1.*", NOBODY, BOTH),
    Row("none.node-b.boot1.7", NOBODY, NOBODY),
    Row("none.>", NOBODY, NOBODY),
    # Questions in one's own name; heard by who serves it, and those to all by all.
    Row("find.orders.ME", BOTH, {NODE}),
    Row("find.orders.*", NOBODY, {NODE}),
    Row("find.stock.ME", BOTH, NOBODY),
    Row("find.stock.*", NOBODY, NOBODY),
    Row("find._.ME", BOTH, BOTH),
    Row("find._.*", NOBODY, BOTH),
    Row("find.orders.node-b", NOBODY, {NODE}),
    Row("find.*.*", NOBODY, NOBODY),
    # Announcements in one's own name.
    Row("found.orders.ME", BOTH, BOTH),
    Row("found.orders.*", NOBODY, BOTH),
    Row("found.orders.node-b", NOBODY, BOTH),
    Row("found.*.*", NOBODY, BOTH),
    # Events are granted to nobody yet.
    Row("event.paid", NOBODY, NOBODY),
    # The control plane.
    Row("ctl.policy", {POLICY}, BOTH),
    Row("ctl.policy.get.ME", BOTH, {POLICY}),
    Row("ctl.policy.get.node-b", NOBODY, {POLICY}),
    Row("ctl.policy.get.*", NOBODY, {POLICY}),
    Row("ctl.ack.ME", BOTH, {POLICY}),
    Row("ctl.ack.node-b", NOBODY, {POLICY}),
    Row("ctl.ack.*", NOBODY, {POLICY}),
    Row("ctl.node.ME", BOTH, BOTH),
    Row("ctl.node.node-b", BOTH, NOBODY),
    Row("ctl.node.*", NOBODY, NOBODY),
    Row("ctl.api.revoke.ME", BOTH, {POLICY}),
    Row("ctl.api.revoke.node-b", NOBODY, {POLICY}),
    Row("ctl.api.*.*", NOBODY, {POLICY}),
    Row("ctl.>", NOBODY, NOBODY),
    # Observation, told in one's own name, seen by operators through any agent.
    Row("obs.ME", BOTH, BOTH),
    Row("obs.node-b", NOBODY, BOTH),
    Row("obs.*", NOBODY, BOTH),
    Row("tap.ME.t1", BOTH, BOTH),
    Row("tap.node-b.t1", NOBODY, BOTH),
    Row("tap.*.*", NOBODY, BOTH),
    # Admission: one's own answer, and no other joiner's.
    Row("enrol.j1", {JOINER}, {POLICY}),
    Row("enrol.j2", NOBODY, {POLICY}),
    Row("enrol.*", NOBODY, {POLICY}),
    Row("enrolled.j1", {POLICY}, {JOINER}),
    Row("enrolled.j2", {POLICY}, NOBODY),
    Row("enrolled.*", NOBODY, NOBODY),
    # All of it.
    Row(">", NOBODY, NOBODY),
]
OUTSIDE = [
    Row("$SRV.PING", NOBODY, BOTH),
    Row("$SRV.INFO.orders", NOBODY, BOTH),
    Row("$SRV.STATS.orders.id1", NOBODY, BOTH),
    Row("$SRV.>", NOBODY, NOBODY),
    Row("_INBOX.someone", BOTH, NOBODY),
    Row("_INBOX.>", NOBODY, NOBODY),
    Row("$SYS.REQ.CLAIMS.UPDATE", NOBODY, NOBODY),
    Row("$SYS.REQ.SERVER.PING", NOBODY, NOBODY),
    Row("$SYS.>", NOBODY, NOBODY),
    Row("$JS.API.INFO", NOBODY, NOBODY),
    Row("mesh.other.rpc.orders.get", NOBODY, NOBODY),
    Row("mesh.other.node.node-a.boot1", NOBODY, NOBODY),
    Row("anything", NOBODY, NOBODY),
    Row(">", NOBODY, NOBODY),
]


def rows(role: str) -> dict[str, Row]:
    """Return the table by the subjects that a role would name."""
    inside = {f"mesh.demo.{row.subject}".replace("ME", NAMED[role]): row for row in TABLE}
    return inside | {row.subject: row for row in OUTSIDE}


async def hold_to_the_table(role: str, url: str, access: Access) -> None:
    """Try every row both ways, and compare what the server let pass."""
    table = rows(role)
    # A wildcard, or a group, is nothing to publish to.
    literal = [subject for subject in table if not set(subject) & set("*> ")]
    may_publish, may_subscribe = await attempt(url, access, literal, table)

    assert may_publish == {subject for subject, row in table.items() if role in row.publish}
    assert may_subscribe == {subject for subject, row in table.items() if role in row.subscribe}


@pytest.mark.parametrize("role", ROLES)
async def test_the_server_keeps_each_role_to_its_rows_of_the_table(keeper: Keeper, tmp_path: Path, role: str) -> None:
    async with broker(keeper, tmp_path) as bus:
        await hold_to_the_table(role, bus.url, bus.access(bus.user(ROLES[role])))


async def test_without_a_user_nobody_gets_in(keeper: Keeper, tmp_path: Path) -> None:
    async with broker(keeper, tmp_path) as bus:
        stranger, elsewhere = bus.access(None), Broker(tmp_path / "other").user(ROLES[NODE])

        await refused(bus, stranger)
        await refused(bus, bus.access(elsewhere))


async def test_a_user_without_its_key_does_not_get_in(keeper: Keeper, tmp_path: Path) -> None:
    async with broker(keeper, tmp_path) as bus:
        seen, own = bus.user(ROLES[NODE]), Nkey.generate(Kind.USER, os.urandom)

        await refused(bus, bus.access(Credentials(seen.jwt, own)))


async def test_without_tls_and_under_another_authority_nothing_is_said(keeper: Keeper, tmp_path: Path) -> None:
    async with broker(keeper, tmp_path) as bus:
        user = bus.user(ROLES[NODE])
        doubtful = Access.with_user(lambda: user, tls=ssl.create_default_context(), tls_first=True)
        knocking = NatsBus(bus.url, name="stranger", roll=random.random, access=doubtful)
        await knocking.start()

        with pytest.raises(BusUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
            await knocking.ready(0.5)
        await knocking.close()
        with socket.create_connection(("127.0.0.1", bus.port), timeout=5) as connection:
            connection.sendall(b"CONNECT {}\r\nPING\r\n")
            assert b"INFO" not in connection.recv(4096)


async def test_who_wants_tls_does_not_go_on_in_the_clear(server: EmbeddedServer) -> None:
    for url, first in (("nats", True), ("nats", False), ("tls", False)):
        access = Access(tls=trusting(None), tls_first=first)
        knocking = NatsBus(server.url.replace("nats", url, 1), name="agent", roll=random.random, access=access)
        await knocking.start()

        with pytest.raises(BusUnreachable, match="SSL" if first else "offers no TLS"):
            await knocking.ready(0.5)
        await knocking.close()


async def test_a_user_that_has_ended_is_refused_and_one_that_ends_is_cut_off(keeper: Keeper, tmp_path: Path) -> None:
    async with broker(keeper, tmp_path) as bus:
        await refused(bus, bus.access(bus.user(ROLES[NODE], life=-5)))

        short, ends = bus.access(bus.user(ROLES[NODE], life=2)), time.time() + 2
        async with client(bus.url, short) as (made, _):
            await until(lambda: made.is_closed)
        await until(lambda: time.time() > ends + 1)  # tokens count whole seconds
        await refused(bus, short)


async def test_a_node_hears_nothing_of_anothers_inbox_and_of_its_groups_calls(keeper: Keeper, tmp_path: Path) -> None:
    async with broker(keeper, tmp_path) as bus:
        other = bus.access(bus.user(permissions.node("demo", "node-b", ["stock"], ["web"])))
        mine = bus.access(bus.user(ROLES[NODE]))
        async with client(bus.url, mine) as (owner, _), client(bus.url, other) as (spy, told):
            own, stolen = list[str](), list[str]()
            for made, heard, subjects in (
                (owner, own, ["node.node-a.b1", "rpc.orders.* orders"]),
                (spy, stolen, ["node.node-a.b1", "node.*.*", "rpc.orders.* orders", "rpc.orders.*", ">"]),
            ):
                for pattern in subjects:
                    subject, _, queue = f"mesh.demo.{pattern}".partition(" ")
                    await made.subscribe(subject, queue, cb=hearing(heard))
                await settled(made)

            for _ in range(20):
                await spy.publish("mesh.demo.node.node-a.b1", b"for node-a alone")
                await spy.publish("mesh.demo.rpc.orders.get", b"for the group alone")
            await spy.publish("mesh.demo.ctl.policy", b"not mine to say")
            await settled(spy)
            await until(lambda: len(own) == 40)

            assert stolen == []
            assert len(told) == 6


async def test_a_revoked_user_is_cut_off_within_two_seconds_for_good(keeper: Keeper, tmp_path: Path) -> None:
    async with broker(keeper, tmp_path) as bus:
        doomed, spared = bus.user(ROLES[NODE]), bus.user(ROLES[POLICY])
        async with client(bus.url, bus.access(doomed)) as (gone, _), client(bus.url, bus.access(spared)) as (stays, __):
            token = bus.side.revoke([doomed.key.public])
            took = await bus.push(token)
            took += await until(lambda: gone.is_closed, 2.0)

            assert took < 2.0
            assert stays.is_connected
            await settled(stays)
        await refused(bus, bus.access(doomed))

        # The server's own files still say the old: what was pushed outlives it all the same.
        await bus.stop()
        await bus.start(keeper)
        await refused(bus, bus.access(doomed))
        async with client(bus.url, bus.access(spared)) as (made, _):
            await settled(made)


async def test_a_configuration_written_anew_keeps_keys_users_and_who_was_revoked(
    keeper: Keeper, tmp_path: Path
) -> None:
    bus = Broker(tmp_path)
    doomed, spared = bus.user(ROLES[NODE]), bus.user(ROLES[POLICY])
    bus.side.revoke([doomed.key.public])
    certificate = (bus.folder / "server.crt").read_bytes()

    config(bus.folder, home=bus.home.path)

    assert (bus.folder / "server.crt").read_bytes() != certificate
    await bus.start(keeper)
    await refused(bus, bus.access(doomed))
    async with client(bus.url, bus.access(spared)) as (made, _):
        await settled(made)
    await bus.stop()


async def test_what_is_no_token_is_refused_and_one_of_another_operator_opens_nothing(
    keeper: Keeper, tmp_path: Path
) -> None:
    async with broker(keeper, tmp_path) as bus:
        other = Broker(tmp_path / "other")

        with pytest.raises(PushRefused, match="the server did not take the token"):
            await bus.push("no token")
        await bus.push(other.side.account_token)  # taken, as an account that nobody vouches for

        await refused(bus, bus.access(other.user(ROLES[NODE])))
        async with client(bus.url, bus.access(bus.user(ROLES[NODE]))) as (made, _):
            await settled(made)


async def test_only_a_user_of_the_system_account_pushes(keeper: Keeper, tmp_path: Path) -> None:
    async with broker(keeper, tmp_path) as bus:
        with pytest.raises(PushRefused, match=r"no server answered within 0\.2 s"):
            await bus.push(bus.side.account_token, by=bus.user(ROLES[POLICY]), timeout=0.2)


def hearing(heard: list[str]) -> Callable[[Msg], Awaitable[None]]:
    """Return a handler that notes the subjects of messages."""

    async def hear(message: Msg) -> None:
        heard.append(message.subject)

    return hear


async def refused(bus: Broker, access: Access) -> str:
    """Return why an agent does not get in this way; fail when it does, or when the server is merely not reached."""
    knocking = NatsBus(bus.url, name="stranger", roll=random.random, access=access)
    await knocking.start()
    with pytest.raises(BusRejected) as caught:
        await knocking.ready(5.0)
    await knocking.close()
    return str(caught.value)
