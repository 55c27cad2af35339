"""Every role and every subject of the table on a real server in operator mode with TLS, by the server's own words."""

import os
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from broker_world import Broker, broker, client, settled, until
from nats.aio.msg import Msg
from permission_table import NODE, POLICY, ROLES, hold_to_the_table

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
