import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from identity_world import stream

from bus_mesh.identity import document
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.refusal import Untrusted

KEY = NodeKey.generate(stream("signer"))
SIGNED = document.sign("test 1", (1, "two"), KEY, hint=b"hint")


def test_what_was_signed_comes_back() -> None:
    found = document.read(SIGNED, "test 1")

    assert found.hint == b"hint"
    assert document.verified(found, KEY.public) == (1, "two")


def test_the_encoding_before_signing_is_the_one_of_dsse() -> None:
    # The example of secure-systems-lab/dsse, protocol.md.
    encoded = document.pre_authentication("http://example.com/HelloWorld", b"hello world")

    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_a_document_of_one_type_is_not_taken_for_another() -> None:
    with pytest.raises(Untrusted, match="MALFORMED"):
        document.read(SIGNED, "test 2")
    relabelled = document.read(SIGNED, "test 1")._replace(type="test 2")
    with pytest.raises(Untrusted, match="BAD_SIGNATURE"):
        document.verified(relabelled, KEY.public)


def test_a_document_of_another_signer_is_refused() -> None:
    with pytest.raises(Untrusted, match="BAD_SIGNATURE"):
        document.verified(document.read(SIGNED, "test 1"), NodeKey.generate(stream("other")).public)


@given(st.integers(0, len(SIGNED) * 8 - 1))
def test_every_flipped_bit_outside_the_hint_is_refused(bit: int) -> None:
    flipped = bytearray(SIGNED)
    flipped[bit // 8] ^= 1 << bit % 8

    try:
        found = document.read(bytes(flipped), "test 1")
        document.verified(found, KEY.public)
    except Untrusted:
        return
    assert found.hint != b"hint", "the hint is what the signature does not cover"


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_as_untrusted(data: bytes) -> None:
    head = SIGNED[: SIGNED.index(b"test 1") + 6]
    for tried in (data, head + data):
        with pytest.raises(Untrusted):
            document.verified(document.read(tried, "test 1"), KEY.public)


def test_a_nest_of_arrays_is_refused_without_being_built() -> None:
    nest = SIGNED[: SIGNED.index(b"test 1") + 6] + b"\x91" * 60_000

    with pytest.raises(Untrusted, match="no byte string"):
        document.read(nest, "test 1")


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(Untrusted, match="1 bytes too many"):
        document.read(SIGNED + b"\x00", "test 1")


@pytest.mark.parametrize("body", [{"a": 1}, 7, None])
def test_a_signed_body_that_is_no_array_is_refused(body: object) -> None:
    packed = msgpack.packb(body)
    signature = KEY.sign(document.pre_authentication("test 1", packed))

    with pytest.raises(Untrusted, match="not an array"):
        document.verified(document.Document("test 1", packed, b"", signature), KEY.public)


@given(st.lists(st.binary(max_size=70_000), min_size=1, max_size=3))
def test_a_row_of_byte_strings_comes_back(parts: list[bytes]) -> None:
    assert document.read_row(document.pack_row(parts), 3) == parts
