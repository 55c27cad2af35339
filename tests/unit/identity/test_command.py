"""A command is carried out for an operator who may, for the process that it names, within its minute; or never."""

from typing import Any

import pytest
from identity_world import DAY_US, START_US, World, stream

from bus_mesh.identity import document
from bus_mesh.identity.certificate import May, Role, certify_operator, delegate
from bus_mesh.identity.command import COMMAND_LIFE_US, COMMAND_LIMIT, Command, sign_command, verify_command
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.refusal import Untrusted

KEY = NodeKey.generate(stream("operator"))
TIMES = {"not_before_us": START_US - 60_000_000, "not_after_us": START_US + DAY_US}
TARGET = b"a key id"


def first(world: World) -> bytes:
    return document.pack_row(
        (delegate(world.root, world.mesh, Role.OPERATOR, KEY.public, term=1, name="ops", **TIMES),)
    )


def certified(world: World, *may: May) -> bytes:
    return certify_operator(
        world.issuer, world.delegation, mesh="demo", name="eve", key=KEY.public, may=may, serial="7", **TIMES
    )


def command(world: World, **other: Any) -> bytes:
    said: dict[str, Any] = {
        "mesh": "demo",
        "verb": "apply",
        "arguments": b"what",
        "request": "r1",
        "target": TARGET,
        "issued_us": START_US,
    }
    key, chain = other.pop("key", KEY), other.pop("chain", None)
    return sign_command(key, chain or first(world), **{**said, **other})


def refused(world: World, data: bytes, now_us: int = START_US, may: May = May.POLICY) -> str:
    with pytest.raises(Untrusted) as error:
        verify_command(data, "demo", world.root.public, now_us, (TARGET,), may)
    return str(error.value.reason)


def test_the_first_operator_may_everything(world: World) -> None:
    for may in May:
        operator, said = verify_command(command(world), "demo", world.root.public, START_US, (TARGET,), may)
        assert operator.name == "ops"
        assert said == Command("demo", "apply", b"what", "r1", TARGET, START_US, START_US + COMMAND_LIFE_US)


def test_a_certified_operator_may_what_its_certificate_says(world: World) -> None:
    data = command(world, chain=certified(world, May.POLICY))

    operator, _ = verify_command(data, "demo", world.root.public, START_US, (TARGET,), May.POLICY)
    assert operator.name == "eve"
    assert refused(world, data, may=May.ADMIT) == "WRONG_ROLE"
    assert refused(world, command(world, chain=certified(world))) == "WRONG_ROLE"


@pytest.mark.parametrize(
    ("reason", "other"),
    [
        ("BAD_SIGNATURE", {"key": NodeKey.generate(stream("somebody"))}),
        ("WRONG_MESH", {"mesh": "other"}),
        ("NOT_A_RECIPIENT", {"target": b"another!"}),
        ("NOT_YET_VALID", {"issued_us": START_US + 61_000_000}),
        ("EXPIRED", {"issued_us": START_US - COMMAND_LIFE_US}),
        ("MALFORMED", {"request": ""}),
        ("MALFORMED", {"request": "x" * 65}),
        ("TOO_LARGE", {"arguments": bytes(COMMAND_LIMIT)}),
    ],
)
def test_a_command_that_does_not_hold_is_refused_with_the_reason(
    world: World, reason: str, other: dict[str, Any]
) -> None:
    assert refused(world, command(world, **other)) == reason


def test_every_flipped_bit_is_found(world: World) -> None:
    good = command(world)
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << (at % 8)
        refused(world, bytes(bad))


def test_a_node_is_no_operator(world: World) -> None:
    node = world.own("node-a")
    assert refused(world, command(world, key=node.key, chain=node.chain)) in ("MALFORMED", "BAD_SIGNATURE")


def test_a_command_good_for_longer_than_a_minute_is_refused(world: World) -> None:
    fields = ("demo", "apply", b"", "r", TARGET, START_US, START_US + COMMAND_LIFE_US + 1)

    assert refused(world, document.sign("busmesh command 1", fields, KEY, first(world))) == "MALFORMED"
