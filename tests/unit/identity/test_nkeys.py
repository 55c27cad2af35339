"""The keys of NATS as text, and files of credentials."""

import json
import os
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.identity.bus_credentials import BadCredentials, Credentials
from bus_mesh.identity.keys import verifies
from bus_mesh.identity.nkeys import BadNkey, Kind, Nkey, public_bytes

# The pair in NATS's own documentation of nkey authentication: a public example, which opens nothing.
SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
PUBLIC = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
RAW = st.binary(min_size=32, max_size=32)
LETTERS = {Kind.OPERATOR: "O", Kind.ACCOUNT: "A", Kind.USER: "U"}


def test_the_documented_seed_has_the_documented_public_key() -> None:
    key = Nkey.from_seed(SEED, Kind.USER)

    assert (key.public, key.seed) == (PUBLIC, SEED)


@given(RAW, st.sampled_from(Kind))
def test_a_key_is_written_and_read_as_itself_and_says_what_it_is(raw: bytes, kind: Kind) -> None:
    key = Nkey(kind, raw)
    again = Nkey.from_seed(f" {key.seed}\n", kind)

    assert (again.public, again.seed, again.kind) == (key.public, key.seed, kind)
    assert (key.seed[:2], key.public[0]) == (f"S{LETTERS[kind]}", LETTERS[kind])
    assert verifies(public_bytes(key.public, kind), key.sign(b"nonce"), b"nonce")


@given(RAW, st.sampled_from(Kind), st.integers(0, 57), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
def test_one_changed_character_is_always_found(raw: bytes, kind: Kind, at: int, letter: str) -> None:
    seed = Nkey(kind, raw).seed
    changed = seed[:at] + letter + seed[at + 1 :]

    if changed != seed:
        with pytest.raises(BadNkey):
            Nkey.from_seed(changed, kind)


@given(st.text(max_size=80))
def test_any_text_is_a_key_or_one_kind_of_error(text: str) -> None:
    for read in (lambda: Nkey.from_seed(text, Kind.USER), lambda: public_bytes(text, Kind.USER)):
        with pytest.raises(BadNkey):
            read()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SEED[:-1], "has 58 characters, not 57: copy all of it"),
        (SEED.replace("Z", "1"), "A-Z and 2-7 alone"),
        (SEED.lower(), "A-Z and 2-7 alone"),
        (SEED[:-1] + "Z", "check sum"),
        (PUBLIC, "has 58 characters, not 56"),
        ("é" * 58, "A-Z and 2-7 alone"),
    ],
)
def test_a_seed_that_is_none_says_why_and_does_not_repeat_it(text: str, told: str) -> None:
    with pytest.raises(BadNkey, match=told) as caught:
        Nkey.from_seed(text, Kind.USER)

    assert text not in str(caught.value)


def test_a_key_of_another_kind_is_refused() -> None:
    with pytest.raises(BadNkey, match="another kind of key: a seed of this kind starts with SO"):
        Nkey.from_seed(SEED, Kind.OPERATOR)
    with pytest.raises(BadNkey, match="starts with A"):
        public_bytes(PUBLIC, Kind.ACCOUNT)


def test_credentials_are_read_as_written_and_as_other_tools_write_them() -> None:
    made = Credentials("a.b-c_d.e", Nkey.from_seed(SEED, Kind.USER))
    windows = made.text().replace("\n", "\r\n").replace("------END", "-----END")

    for text in (made.text(), windows):
        again = Credentials.parse(text)
        assert (again.jwt, again.key.public) == ("a.b-c_d.e", PUBLIC)
    assert again.sign(b"nonce") == made.key.sign(b"nonce")


@pytest.mark.parametrize("cut", [0, 100, 300])
def test_credentials_cut_short_say_so(cut: int) -> None:
    text = Credentials("a.b.c", Nkey.from_seed(SEED, Kind.USER)).text()

    with pytest.raises(BadCredentials, match="of the two parts of a credentials file"):
        Credentials.parse(text[:cut])


def test_credentials_with_a_damaged_seed_say_so() -> None:
    text = Credentials("a.b.c", Nkey.from_seed(SEED, Kind.USER)).text()

    with pytest.raises(BadCredentials, match="check sum"):
        Credentials.parse(text.replace(SEED, SEED[:-1] + "Z"))


def test_no_private_key_is_in_what_is_shown() -> None:
    key = Nkey.generate(Kind.USER, os.urandom)

    assert key.seed not in f"{key!r} {Credentials('a.b.c', key)!r} {Credentials('a.b.c', key)}"


def claims(said: object) -> str:
    return "head." + urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=") + ".signature"


@given(st.one_of(st.text(max_size=40), st.recursive(st.none() | st.text() | st.booleans(), st.lists).map(claims)))
def test_when_a_user_ends_is_read_from_any_text_and_nothing_for_never(jwt: str) -> None:
    assert Credentials(jwt, Nkey.from_seed(SEED, Kind.USER)).ends_us == 0


def test_a_user_says_when_it_ends() -> None:
    assert Credentials(claims({"exp": 1_800_000_000, "sub": "U"}), Nkey.from_seed(SEED, Kind.USER)).ends_us == 1.8e15
    assert Credentials(claims({"exp": True}), Nkey.from_seed(SEED, Kind.USER)).ends_us == 0
