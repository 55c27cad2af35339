import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from identity_world import stream

from bus_mesh.identity import keys
from bus_mesh.identity.keys import EpochKey, NodeKey, key_id, prefixed, strong, verifies
from bus_mesh.identity.refusal import Untrusted

P = 2**255 - 19
D = -121665 * pow(121666, P - 2, P) % P


def times_eight_is_neutral(y: int) -> bool:
    """Ed25519 in affine coordinates: does the point with this y have an order that divides 8?"""
    y %= P
    xx = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(xx, (P + 3) // 8, P)
    if (x * x - xx) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    assert (x * x - xx) % P == 0, "not a point of the curve"
    for _ in range(3):
        xy, dd = x * y % P, D * x * x * y * y % P
        x, y = 2 * xy * pow(1 + dd, P - 2, P) % P, (y * y + x * x) * pow(1 - dd, P - 2, P) % P
    return (x, y) == (0, 1)


@pytest.mark.parametrize("point", sorted(keys._SMALL_ED25519), ids=bytes.hex)
def test_each_refused_signing_key_is_a_point_of_small_order(point: bytes) -> None:
    assert times_eight_is_neutral(int.from_bytes(point, "little"))
    for sign in (0, 0x80):
        with pytest.raises(Untrusted, match="WEAK_KEY"):
            strong(point[:31] + bytes((point[31] | sign,)), signing=True)


@pytest.mark.parametrize("point", sorted(keys._SMALL_X25519), ids=bytes.hex)
def test_each_refused_epoch_key_shares_no_secret(point: bytes) -> None:
    with pytest.raises(ValueError, match="shared key"):
        X25519PrivateKey.from_private_bytes(b"k" * 32).exchange(X25519PublicKey.from_public_bytes(point))
    for ignored in (0, 0x80):
        with pytest.raises(Untrusted, match="WEAK_KEY"):
            strong(point[:31] + bytes((point[31] | ignored,)), signing=False)


def test_an_honest_key_is_strong() -> None:
    signing, epoch = NodeKey.generate(stream("a")).public, EpochKey(b"e" * 32).public

    assert strong(signing, signing=True) == signing
    assert strong(epoch, signing=False) == epoch


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(Untrusted, match="WEAK_KEY"):
        strong(b"k" * size, signing=True)


def test_a_key_comes_back_from_its_bytes() -> None:
    key = NodeKey.generate(stream("a"))

    assert NodeKey.from_bytes(key.raw).public == key.public
    assert verifies(key.public, key.sign(b"word"), b"word")
    assert not verifies(key.public, key.sign(b"word"), b"other word")


def test_a_private_key_is_not_in_its_repr() -> None:
    key = NodeKey.generate(stream("a"))

    assert key.raw.hex() not in repr(key)


def test_the_same_key_has_another_id_under_another_node_or_mesh() -> None:
    ids = {key_id(mesh, node, b"k" * 32) for mesh in ("demo", "prod") for node in ("a", "b")}

    assert len(ids) == 4
    assert {len(id) for id in ids} == {8}


@given(st.lists(st.binary(max_size=9)), st.lists(st.binary(max_size=9)))
def test_two_rows_of_parts_never_read_the_same(one: list[bytes], other: list[bytes]) -> None:
    assert (prefixed(*one) == prefixed(*other)) == (one == other)


def test_both_ends_derive_the_same_two_ciphers_and_the_directions_differ() -> None:
    a, b = EpochKey(b"a" * 32), EpochKey(b"b" * 32)
    ours, theirs = a.pair("demo", "a", "b", b.public), b.pair("demo", "b", "a", a.public)
    nonce = bytes(12)

    assert theirs.open(nonce, ours.seal(nonce, b"there", b""), b"") == b"there"
    assert ours.open(nonce, theirs.seal(nonce, b"back", b""), b"") == b"back"
    assert ours.seal(nonce, b"same", b"") != theirs.seal(nonce, b"same", b"")


def test_a_pair_key_differs_with_mesh_and_node_names() -> None:
    a, b = EpochKey(b"a" * 32), EpochKey(b"b" * 32)
    sealed = {
        a.pair(mesh, me, peer, b.public).seal(bytes(12), b"text", b"")
        for mesh, me, peer in (("demo", "a", "b"), ("prod", "a", "b"), ("demo", "x", "b"), ("demo", "a", "x"))
    }

    assert len(sealed) == 4
