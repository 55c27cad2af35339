"""Tokens, requests and answers of admission: whole and by whom they should be, or refused. Every bit counts."""

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.identity import document
from bus_mesh.identity.certificate import Role, certify_node, delegate
from bus_mesh.identity.enrolment import (
    Answer,
    BadToken,
    EnrolmentRefused,
    Request,
    Token,
    fingerprint,
    read_request,
    secret_key,
    sign_answer,
    sign_request,
    verify_answer,
)
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.refusal import Reason, Untrusted
from bus_mesh.identity.renewal import Renewal, pack_asked, read_answered, read_renewal, sign_renewal

NOW_US = 1_780_000_000_000_000
TIMES: dict[str, Any] = {"not_before_us": NOW_US - 60_000_000, "not_after_us": NOW_US + 86_400_000_000}
ROOT, ISSUER, JOINER, OTHER = (NodeKey.generate(lambda size, n=n: bytes([n]) * size) for n in (1, 2, 3, 4))
DELEGATION = delegate(ROOT, "demo", Role.ISSUER, ISSUER.public, term=1, **TIMES)
SECRET = bytes(range(16))
TOKEN = Token(
    "demo", "node-c", ("nats://127.0.0.1:4222",), "", True, fingerprint(ROOT.public), "id-1", SECRET, NOW_US, "", ""
)
KEY = secret_key("id-1", SECRET)
ASKED = Request("demo", "id-1", "node-c", JOINER.public, "", b"n" * 16)
REQUEST = sign_request(ASKED, JOINER, KEY)


def chain(node: str = "node-c", key: NodeKey = JOINER) -> bytes:
    granted: dict[str, Any] = {"serve": ["orders"], "call_as": []}
    return certify_node(ISSUER, DELEGATION, mesh="demo", node=node, key=key.public, serial="1", **granted, **TIMES)


def said(**other: Any) -> Answer:
    plain: dict[str, Any] = {
        "mesh": "demo",
        "id": "id-1",
        "request": sha256(REQUEST).digest(),
        "root": ROOT.public,
        "delegation": DELEGATION,
        "chain": chain(),
        "jwt": "",
        "reason": "",
        "message": "",
    }
    return Answer(**{**plain, **other})


ANSWER = sign_answer(said(), ISSUER, KEY)
REFUSAL = sign_answer(said(chain=b"", reason="TOKEN_SPENT", message="used"), ISSUER, None)


def verify(data: bytes) -> object:
    return verify_answer(data, TOKEN, REQUEST, JOINER.public, NOW_US)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# Tokens.


def test_a_token_is_one_line_that_reads_back_and_hides_its_secret() -> None:
    text = TOKEN.text()

    assert Token.parse(f"  {text}\n") == TOKEN
    assert text.isascii()
    assert not set(text) & set(" \n/+=")
    assert SECRET.hex() not in repr(TOKEN)
    assert repr(SECRET) not in repr(TOKEN)


def test_a_token_cut_anywhere_is_said_to_be_cut() -> None:
    text = TOKEN.text()

    for end in range(len("busmesh-join-1."), len(text)):
        with pytest.raises(BadToken, match=r"cut or changed") as error:
            Token.parse(text[:end])
        assert text[20:60] not in str(error.value)


@given(
    st.integers(0, len(TOKEN.text()) - 1),
    st.characters(min_codepoint=33, max_codepoint=126),
)
def test_a_token_with_any_other_character_is_refused(at: int, character: str) -> None:
    text = TOKEN.text()
    changed = text[:at] + character + text[at + 1 :]

    if changed != text:
        with pytest.raises(BadToken):
            Token.parse(changed)


@given(st.text())
def test_no_text_at_all_breaks_the_reader(text: str) -> None:
    for given_text in (text, f"busmesh-join-1.{text}"):
        with pytest.raises(BadToken):
            Token.parse(given_text)


@pytest.mark.parametrize(
    "other", [{"node": "no node"}, {"mesh": "*"}, {"id": "a.b"}, {"urls": ()}, {"secret": b"short"}, {"urls": (7,)}]
)
def test_a_token_that_is_whole_and_makes_no_sense_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(BadToken, match="no sense"):
        Token.parse(TOKEN._replace(**other).text())


# Requests.


def test_a_request_reads_back_and_is_the_same_for_the_same_key_and_nonce() -> None:
    assert read_request(REQUEST, KEY) == ASKED
    assert sign_request(ASKED, JOINER, KEY) == REQUEST


@given(st.integers(0, len(REQUEST) * 8 - 1))
def test_any_flipped_bit_of_a_request_is_refused(bit: int) -> None:
    with pytest.raises(Untrusted):
        read_request(flipped(REQUEST, bit), KEY)


@given(st.binary(max_size=300))
def test_bytes_that_are_no_request_answer_or_renewal_raise_nothing_but_untrusted(data: bytes) -> None:
    for reader in (lambda: read_request(data, KEY), lambda: verify(data), lambda: read_renewal(data)):
        with pytest.raises(Untrusted):
            reader()
    with pytest.raises(Untrusted):
        read_answered(data)


def test_a_request_with_another_secret_is_refused_before_it_is_read() -> None:
    with pytest.raises(Untrusted, match="secret") as error:
        read_request(REQUEST, secret_key("id-1", b"x" * 16))
    assert error.value.reason is Reason.FORGED


def test_a_request_for_a_key_that_its_asker_does_not_hold_is_refused() -> None:
    with pytest.raises(Untrusted) as error:
        read_request(sign_request(ASKED._replace(key=OTHER.public), JOINER, KEY), KEY)
    assert error.value.reason is Reason.BAD_SIGNATURE


def test_a_request_with_a_weak_key_is_refused() -> None:
    for weak in (bytes(32), bytes([1]) + bytes(31), b"short"):
        with pytest.raises(Untrusted) as error:
            read_request(sign_request(ASKED._replace(key=weak), JOINER, KEY), KEY)
        assert error.value.reason is Reason.WEAK_KEY


@pytest.mark.parametrize("other", [{"nonce": b"short"}, {"user": "U" * 65}, {"node": 7}])
def test_a_request_of_another_shape_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(Untrusted) as error:
        read_request(sign_request(ASKED._replace(**other), JOINER, KEY), KEY)
    assert error.value.reason is Reason.MALFORMED


# Answers.


def test_an_answer_makes_a_node_of_who_asked() -> None:
    admitted = verify_answer(ANSWER, TOKEN, REQUEST, JOINER.public, NOW_US)

    assert (admitted.chain, admitted.root, admitted.jwt) == (chain(), ROOT.public, "")


@given(st.integers(0, len(ANSWER) * 8 - 1))
def test_any_flipped_bit_of_an_answer_is_refused(bit: int) -> None:
    with pytest.raises(Untrusted):
        verify(flipped(ANSWER, bit))


@given(st.integers(0, len(REFUSAL) * 8 - 1))
def test_any_flipped_bit_of_a_refusal_makes_it_none(bit: int) -> None:
    with pytest.raises(Untrusted):
        verify(flipped(REFUSAL, bit))


def test_a_refusal_of_the_issuer_ends_it_with_its_reason() -> None:
    with pytest.raises(EnrolmentRefused, match="TOKEN_SPENT: used"):
        verify(REFUSAL)


OF_A_STRANGER = delegate(OTHER, "demo", Role.ISSUER, ISSUER.public, term=1, **TIMES)
OF_THE_SIGNER = delegate(ROOT, "demo", Role.POLICY, ISSUER.public, term=1, **TIMES)


@pytest.mark.parametrize(
    ("answer", "signer", "key"),
    [
        (said(root=OTHER.public, delegation=OF_A_STRANGER), ISSUER, KEY),
        (said(delegation=OF_A_STRANGER), ISSUER, KEY),
        (said(delegation=OF_THE_SIGNER), ISSUER, KEY),
        (said(), OTHER, KEY),
        (said(), ISSUER, secret_key("id-1", b"x" * 16)),
        (said(), ISSUER, None),
        (said(mesh="other"), ISSUER, KEY),
        (said(id="id-2"), ISSUER, KEY),
        (said(request=bytes(32)), ISSUER, KEY),
        (said(chain=chain("node-d")), ISSUER, KEY),
        (said(chain=chain(key=OTHER)), ISSUER, KEY),
        (said(chain=b""), ISSUER, KEY),
        (said(chain=b"", reason="NO", message=""), OTHER, None),
        (said(chain=b"", reason="NO", request=bytes(32)), ISSUER, None),
        (said(reason="NO"), ISSUER, None),
    ],
)
def test_an_answer_of_anybody_else_or_to_anything_else_is_not_believed(
    answer: Answer, signer: NodeKey, key: bytes | None
) -> None:
    with pytest.raises(Untrusted):
        verify(sign_answer(answer, signer, key))


# Renewals.

ANEW = Renewal("demo", "node-c", "serial-1", JOINER.public, "", b"n" * 16)
RENEWAL = sign_renewal(ANEW, JOINER)


def test_a_renewal_reads_back() -> None:
    assert read_renewal(RENEWAL) == ANEW
    assert pack_asked(RENEWAL)


@given(st.integers(0, len(RENEWAL) * 8 - 1))
def test_any_flipped_bit_of_a_renewal_is_refused(bit: int) -> None:
    with pytest.raises(Untrusted):
        read_renewal(flipped(RENEWAL, bit))


def test_a_renewal_for_a_weak_key_or_one_that_its_asker_does_not_hold_is_refused() -> None:
    for key, reason in ((bytes(32), Reason.WEAK_KEY), (OTHER.public, Reason.BAD_SIGNATURE)):
        with pytest.raises(Untrusted) as error:
            read_renewal(sign_renewal(ANEW._replace(key=key), JOINER))
        assert error.value.reason is reason


def test_a_document_of_one_kind_is_not_taken_for_another() -> None:
    signed, mac = document.read_row(REQUEST, 2)

    for wrong in (document.pack_row((RENEWAL, mac)), RENEWAL, signed):
        with pytest.raises(Untrusted):
            read_request(wrong, KEY)
    with pytest.raises(Untrusted):
        read_renewal(signed)
