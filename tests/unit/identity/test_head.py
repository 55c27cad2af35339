"""Heads are believed only from the signer that the root delegated, whole, of this mesh, and in their time."""

from typing import Any

import pytest
from identity_world import DAY_US, START_US, World, stream

from bus_mesh.identity import document
from bus_mesh.identity.certificate import Role, delegate
from bus_mesh.identity.head import HEAD_LIMIT, Head, sign_head, verify_head, verify_kept_head
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.refusal import Untrusted

SIGNER = NodeKey.generate(stream("signer"))
MANIFEST = b"m" * 32
TIMES = {"not_before_us": START_US - 60_000_000, "not_after_us": START_US + 365 * DAY_US}


def granted(world: World, role: Role = Role.POLICY, term: int = 3, key: NodeKey = SIGNER) -> bytes:
    return delegate(world.root, world.mesh, role, key.public, term=term, **TIMES)


def head(world: World, **other: Any) -> bytes:
    said: dict[str, Any] = {
        "mesh": "demo",
        "term": 3,
        "number": 7,
        "manifest": MANIFEST,
        "node": "control",
        "issued_us": START_US,
        "life_us": DAY_US,
    }
    signer, delegation = other.pop("signer", SIGNER), other.pop("delegation", None)
    return sign_head(signer, delegation or granted(world), **{**said, **other})


def refused(world: World, data: bytes, now_us: int = START_US) -> str:
    with pytest.raises(Untrusted) as error:
        verify_head(data, "demo", world.root.public, now_us)
    return str(error.value.reason)


def test_a_good_head_says_what_was_signed(world: World) -> None:
    assert verify_head(head(world), "demo", world.root.public, START_US) == Head(
        "demo", 3, 7, MANIFEST, "control", START_US, START_US + DAY_US
    )


@pytest.mark.parametrize(
    ("reason", "other"),
    [
        ("BAD_SIGNATURE", {"signer": NodeKey.generate(stream("somebody"))}),
        ("WRONG_ROLE", {"term": 4}),
        ("WRONG_MESH", {"mesh": "other"}),
        ("CLOCK_SKEW", {"issued_us": START_US + 61_000_000}),
        ("EXPIRED", {"issued_us": START_US - 2 * DAY_US}),
    ],
)
def test_a_head_that_does_not_hold_is_refused_with_the_reason(world: World, reason: str, other: dict[str, Any]) -> None:
    assert refused(world, head(world, **other)) == reason


def test_the_issuer_and_an_operator_may_not_sign_heads(world: World) -> None:
    for role in (Role.ISSUER, Role.OPERATOR):
        assert refused(world, head(world, delegation=granted(world, role))) == "WRONG_ROLE"


def test_a_delegation_of_another_root_does_not_hold(world: World) -> None:
    assert refused(world, head(world, delegation=granted(World(seed="other")))) == "BAD_SIGNATURE"


def test_every_flipped_bit_is_found(world: World) -> None:
    good = head(world)
    for at in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[at] ^= 1 << bit
            refused(world, bytes(bad))


def test_a_head_cut_anywhere_or_too_long_is_refused(world: World) -> None:
    good = head(world)

    assert {refused(world, good[:at]) for at in range(len(good))} == {"MALFORMED"}
    assert refused(world, good + b"x" * HEAD_LIMIT) == "TOO_LARGE"


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("demo", 3, 7, MANIFEST, "control", START_US),
        ("demo", 3, 0, MANIFEST, "control", START_US, START_US + 1),
        ("demo", 3, 7, b"short", "control", START_US, START_US + 1),
        ("demo", 3, 7, MANIFEST, "control", START_US, START_US),
        ("demo", 3, 7, MANIFEST, "no.node", START_US, START_US + 1),
        ("demo", 3, 7.0, MANIFEST, "control", START_US, START_US + 1),
        ("demo", True, 7, MANIFEST, "control", START_US, START_US + 1),
    ],
)
def test_signed_nonsense_is_refused(world: World, fields: tuple[Any, ...]) -> None:
    said = document.sign("busmesh policy head 1", fields, SIGNER, granted(world))

    assert refused(world, said) == "MALFORMED"


@pytest.mark.parametrize("other", [{"number": 0}, {"manifest": b""}, {"life_us": 0}])
def test_a_signer_is_stopped_from_signing_nonsense(world: World, other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no head"):
        head(world, **other)


def test_a_kept_head_holds_as_of_its_own_time_and_for_nobody_else(world: World) -> None:
    old = head(world, issued_us=START_US + 300 * DAY_US)

    assert refused(world, old, START_US + 400 * DAY_US) == "EXPIRED"
    assert verify_kept_head(old, "demo", world.root.public).number == 7
    for wrong, mesh, root in ((old[:-1], "demo", world.root), (old, "shop", world.root), (old, "demo", SIGNER)):
        with pytest.raises(Untrusted):
            verify_kept_head(wrong, mesh, root.public)
