"""Tokens of operator mode: what they say, and which are believed."""

import base64
import hashlib
import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.control import nats_jwt, permissions
from bus_mesh.control.nats_authority import KEYS, Authority
from bus_mesh.control.nats_jwt import BadToken
from bus_mesh.control.permissions import Permissions
from bus_mesh.identity.nkeys import BadNkey, Kind, Nkey

NOW = 1_800_000_000


def fixed(size: int, _count: list[int] = [0]) -> bytes:  # noqa: B006 - a counter
    """Entropy that is none: the same keys in every run."""
    _count[0] += 1
    return hashlib.sha256(b"%d" % _count[0]).digest()[:size]


@pytest.fixture
def authority() -> Authority:
    return Authority.generate("demo", fixed)


def said(token: str, issuer: Nkey) -> dict[str, Any]:
    return nats_jwt.decode(token, {issuer.public})


def test_an_operator_names_the_keys_that_sign_for_it(authority: Authority) -> None:
    claims = said(authority.operator_token(NOW), authority.operator)

    assert (claims["iss"], claims["sub"], claims["iat"]) == (authority.operator.public, authority.operator.public, NOW)
    assert claims["nats"] == {
        "type": "operator",
        "version": 2,
        "signing_keys": [authority.operator_signing.public],
        "system_account": authority.system.public,
    }


def test_an_account_names_its_signing_keys_and_may_not_use_jetstream(authority: Authority) -> None:
    claims = said(authority.account_token(NOW), authority.operator_signing)

    assert claims["sub"] == authority.account.public
    assert claims["nats"]["signing_keys"] == [authority.account_signing.public]
    assert claims["nats"]["revocations"] == {}
    assert not {"mem_storage", "disk_storage", "streams", "consumer"} & set(claims["nats"]["limits"])


def test_a_user_of_a_signing_key_names_its_account_and_ends(authority: Authority) -> None:
    allowed = permissions.node("demo", "node-a", ["orders"])
    made = authority.signer.user("node-a", allowed, now=NOW, life=600, entropy=fixed)
    claims = said(made.jwt, authority.account_signing)

    assert (claims["sub"], claims["exp"], claims["name"]) == (made.key.public, NOW + 600, "node-a")
    assert claims["nats"]["issuer_account"] == authority.account.public
    assert claims["nats"]["pub"] == {"allow": list(allowed.publish), "deny": ["mesh.demo.none.>"]}
    assert claims["nats"]["sub"] == {"allow": list(allowed.subscribe), "deny": []}
    assert "resp" not in claims["nats"], "allow_responses goes past what is denied"


def test_a_user_who_may_nothing_is_denied_all_because_an_empty_list_allows_all(authority: Authority) -> None:
    made = authority.signer.user("x", Permissions((), ()), now=NOW, life=600, entropy=fixed)
    claims = said(made.jwt, authority.account_signing)

    assert claims["nats"]["pub"] == claims["nats"]["sub"] == {"deny": [">"]}


def test_a_revoked_user_is_noted_in_a_token_that_is_newer_also_within_a_second(authority: Authority) -> None:
    first, user = authority.account_token(NOW), Nkey.generate(Kind.USER, fixed).public
    second = authority.signer.revoked(first, [user], NOW)
    third = authority.signer.revoked(second, ["*"], NOW)
    claims = [said(token, authority.operator_signing) for token in (first, second, third)]

    assert [one["iat"] for one in claims] == [NOW, NOW + 1, NOW + 2]
    assert claims[2]["nats"]["revocations"] == {user: NOW + 1, "*": NOW + 2}
    assert claims[2]["nats"]["signing_keys"] == claims[0]["nats"]["signing_keys"]
    assert len({one["jti"] for one in claims}) == 3


def test_what_is_no_user_cannot_be_revoked(authority: Authority) -> None:
    with pytest.raises(BadNkey):
        authority.signer.revoked(authority.account_token(NOW), ["node-a"], NOW)


def test_a_token_of_another_operator_is_not_revoked_in(authority: Authority) -> None:
    other = Authority.generate("demo", os.urandom)

    with pytest.raises(BadToken, match="not signed by who should have"):
        authority.signer.revoked(other.account_token(NOW), [], NOW)


def test_a_token_reads_the_same_for_the_same_words(authority: Authority) -> None:
    assert authority.account_token(NOW) == authority.account_token(NOW)
    assert authority.account_token(NOW) != authority.account_token(NOW + 1)


def test_the_head_is_spelled_as_servers_want_it(authority: Authority) -> None:
    head = authority.account_token(NOW).partition(".")[0]

    assert json.loads(base64.urlsafe_b64decode(head + "==")) == {"typ": "JWT", "alg": "ed25519-nkey"}


@given(st.data())
def test_a_token_with_one_changed_character_is_not_believed(data: st.DataObject) -> None:
    authority = Authority.generate("demo", fixed)
    token = authority.account_token(NOW)
    at = data.draw(st.integers(0, len(token) - 1))
    changed = token[:at] + data.draw(st.sampled_from("Aa0-_.=é")) + token[at + 1 :]
    before = base64.urlsafe_b64decode(token.rpartition(".")[2] + "==")

    try:
        found = said(changed, authority.operator_signing)
    except BadToken:
        return
    # The last character of a signature has bits that no byte needs.
    assert found == said(token, authority.operator_signing)
    assert base64.urlsafe_b64decode(changed.rpartition(".")[2] + "==") == before


@given(st.text(max_size=200))
def test_any_text_is_a_token_or_one_kind_of_error(text: str) -> None:
    with pytest.raises(BadToken):
        nats_jwt.decode(text, {Nkey(Kind.ACCOUNT, bytes(32)).public})


@given(
    st.lists(st.from_regex(r"[a-z]{1,9}", fullmatch=True), max_size=5),
    st.lists(st.from_regex(r"[a-z]{1,9}( [a-z]{1,9})?", fullmatch=True), max_size=5),
    st.integers(0, 2**40),
)
def test_what_is_said_of_a_user_is_read_back(publish: list[str], subscribe: list[str], now: int) -> None:
    account, user = Nkey(Kind.ACCOUNT, bytes(32)), Nkey(Kind.USER, bytes(32))
    allowed = Permissions(tuple(publish), tuple(subscribe))
    token = nats_jwt.user_token(account, user.public, name="n", issued_at=now, expires_at=now + 1, permissions=allowed)
    claims = nats_jwt.decode(token, {account.public})

    assert (claims["iat"], claims["exp"]) == (now, now + 1)
    assert claims["nats"]["pub"].get("allow", []) == publish
    assert claims["nats"]["sub"].get("allow", []) == subscribe
    assert "issuer_account" not in claims["nats"]


def test_a_user_must_be_one(authority: Authority) -> None:
    with pytest.raises(BadNkey):
        authority.signer.user_token("x", authority.account.public, Permissions((), ()), now=NOW, life=1)


def test_the_pusher_may_push_and_hear_and_is_over_in_a_minute(authority: Authority) -> None:
    claims = said(authority.signer.pusher(now=NOW, entropy=fixed).jwt, authority.system)

    assert claims["nats"]["pub"]["allow"] == ["$SYS.REQ.CLAIMS.UPDATE"]
    assert claims["nats"]["sub"]["allow"] == ["_INBOX.>"]
    assert claims["exp"] == NOW + 60


def test_no_seed_is_in_what_an_authority_shows(authority: Authority) -> None:
    shown = f"{authority} {authority.signer}"

    assert not [name for name in KEYS if getattr(authority, name).seed in shown]
