"""Who is let in: by a token, once, in time, as the node that it names; and how certificates are renewed."""

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from desk_world import NOW_US, TIMES, Desks, command

from bus_mesh.control.admission import LIFE_US, Admission, Issuer, RenewalRefused, RenewalSpent, Way
from bus_mesh.control.desk import Asked, CommandRefused
from bus_mesh.control.nats_authority import Authority
from bus_mesh.control.nats_jwt import decode
from bus_mesh.identity.certificate import May, NodeCertificate, certify_node, verify_chain
from bus_mesh.identity.enrolment import (
    Admitted,
    EnrolmentRefused,
    Request,
    Token,
    secret_key,
    sign_request,
    verify_answer,
)
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.nkeys import Kind, Nkey
from bus_mesh.identity.renewal import Renewal, pack_asked, read_answered, sign_renewal
from bus_mesh.protocol.errors import FailedPrecondition, InvalidArgument, MeshError

KEY, OTHER = (NodeKey.generate(lambda size, n=n: bytes([n]) * size) for n in (8, 9))
AUTHORITY = Authority.generate("demo", os.urandom)


class Reception:
    """A desk that holds the issuer's key, and who comes to it."""

    def __init__(self, desks: Desks, users: bool = False) -> None:
        self.desks = desks
        way = Way(("tls://bus.test:4222",), "ca", True, AUTHORITY.signer if users else None)
        issuer = Issuer(desks.issuer, desks.delegation)
        self.admission = Admission(desks._store, "demo", desks.root.public, issuer, way, os.urandom)
        desks.desk.admission = self.admission

    def token(self, node: str = "node-c", **other: Any) -> Token:
        asked = {"node": node, "serve": ["orders"], "call_as": ["web"], "ttl": 600.0, "urls": [], **other}
        return Token.parse(self.desks.do("token", **asked)["token"])

    def asks(self, token: Token, key: NodeKey = KEY, **other: Any) -> Admitted:
        """Ask as a joiner does that has this token."""
        said = Request(token.mesh, token.id, token.node, key.public, "", b"n" * 16)._replace(**other)
        request = sign_request(said, key, secret_key(token.id, token.secret))
        answer = self.desks.desk.enrol(token.id, request, self.desks.now_us)
        return verify_answer(answer, token, request, key.public, self.desks.now_us)

    def certificate(self, admitted: Admitted) -> NodeCertificate:
        return verify_chain(admitted.chain, "demo", self.desks.root.public, self.desks.now_us)

    def renews(self, held: NodeCertificate, key: NodeKey = KEY, nonce: bytes = b"r" * 16, **other: Any) -> bytes:
        """Ask as a node does that is known by this certificate; return the new chain."""
        said = Renewal("demo", held.node, held.serial, key.public, "", nonce)._replace(**other)
        payload = pack_asked(sign_renewal(said, key))
        asked = Asked(held.node, self.desks.now_us, self.desks.targets, held)
        return read_answered(self.desks.desk.answer("renew", payload, asked))[0]


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    with Desks(tmp_path) as made:
        yield Reception(made)


def refused(reception: Reception, token: Token, reason: str, **other: Any) -> None:
    with pytest.raises(EnrolmentRefused) as error:
        reception.asks(token, **other)
    assert error.value.reason == reason


def test_a_token_says_where_the_bus_is_and_admits_its_node_for_a_day(reception: Reception) -> None:
    token = reception.token()

    held = reception.certificate(reception.asks(token))

    assert (token.urls, token.ca, token.jwt) == (("tls://bus.test:4222",), "ca", "")
    assert (held.node, held.serve, held.call_as) == ("node-c", {"orders"}, {"web"})
    assert held.key == KEY.public
    assert held.not_after_us == NOW_US + LIFE_US


def test_the_same_request_again_gets_the_same_answer_also_after_the_tokens_end(reception: Reception) -> None:
    token = reception.token()
    first = reception.asks(token)
    reception.desks.now_us += 700_000_000

    assert reception.asks(token) == first
    assert reception.admission.alarms == 0


@pytest.mark.parametrize("other", [{"key": OTHER}, {"nonce": b"m" * 16}, {"user": Nkey(Kind.USER, b"u" * 32).public}])
def test_another_request_under_a_spent_token_is_refused_with_an_alarm(
    reception: Reception, other: dict[str, Any]
) -> None:
    token = reception.token()
    reception.asks(token)

    refused(reception, token, "TOKEN_SPENT", **other)
    assert reception.admission.alarms == 1


def test_a_token_that_is_late_is_refused(reception: Reception) -> None:
    token = reception.token(ttl=2.0)
    reception.desks.now_us += 2_000_000

    refused(reception, token, "TOKEN_EXPIRED")


def test_a_token_does_not_admit_another_node(reception: Reception) -> None:
    refused(reception, reception.token()._replace(node="node-d"), "WRONG_NODE")


def test_a_wrong_secret_is_refused_and_does_not_spend_the_token(reception: Reception) -> None:
    token = reception.token()

    refused(reception, token._replace(secret=b"x" * 16), "BAD_REQUEST")
    assert reception.asks(token)


def test_a_token_that_was_never_made_is_refused(reception: Reception) -> None:
    refused(reception, reception.token()._replace(id="0" * 16), "UNKNOWN_TOKEN")


def test_a_weak_key_is_not_certified(reception: Reception) -> None:
    token = reception.token()
    said = Request("demo", token.id, "node-c", bytes(32), "", b"n" * 16)
    request = sign_request(said, KEY, secret_key(token.id, token.secret))

    with pytest.raises(EnrolmentRefused, match="large order"):
        verify_answer(reception.desks.desk.enrol(token.id, request, NOW_US), token, request, KEY.public, NOW_US)
    assert reception.asks(token)


def test_a_revoked_node_is_not_let_in_again(reception: Reception) -> None:
    token = reception.token()
    reception.desks.do("revoke", node="node-c")

    refused(reception, token, "NODE_REVOKED")
    with pytest.raises(FailedPrecondition, match="is revoked"):
        reception.token()


def test_a_token_of_an_operator_who_is_revoked_since_admits_nobody(reception: Reception) -> None:
    token = reception.token()
    reception.desks.do("revoke_operator", name="ops")

    refused(reception, token, "OPERATOR_REVOKED")


def test_the_store_holds_no_secret_of_a_token(reception: Reception, tmp_path: Path) -> None:
    token = reception.token()
    reception.asks(token)

    held = b"".join(file.read_bytes() for file in tmp_path.glob("store.sqlite*"))
    assert token.secret not in held
    assert token.secret.hex().encode() not in held
    assert secret_key(token.id, token.secret) in held


def test_a_token_is_an_operators_who_may_admit(reception: Reception) -> None:
    asked = {"node": "node-c", "serve": [], "call_as": [], "ttl": 600.0, "urls": []}

    with pytest.raises(CommandRefused):
        reception.desks.answer("token", command(reception.desks, "token", asked, may=[May.POLICY, May.SERVICES]))
    assert reception.desks.answer("token", command(reception.desks, "token", asked, may=[May.ADMIT]))


@pytest.mark.parametrize(
    "other",
    [
        {"node": "A"},
        {"serve": ["a.b"]},
        {"call_as": [7]},
        {"ttl": 0.0},
        {"ttl": 3601.0},
        {"ttl": float("nan")},
        {"urls": ["http://x"]},
    ],
)
def test_a_token_for_nonsense_is_not_made(reception: Reception, other: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        reception.token(**other)


def test_without_the_issuers_key_nobody_is_admitted_or_renewed_and_the_error_says_why(tmp_path: Path) -> None:
    with Desks(tmp_path) as desks:
        for work in (
            lambda: desks.do("token", node="node-c", serve=[], call_as=[], ttl=600.0, urls=[]),
            lambda: desks.ask("renew", request=b""),
            lambda: desks.desk.enrol("id", b"", NOW_US),
        ):
            with pytest.raises(MeshError, match="set `issuer:` in its"):
                work()


def test_where_the_bus_wants_users_the_token_has_one_for_asking_and_the_answer_one_for_good(tmp_path: Path) -> None:
    with Desks(tmp_path) as desks:
        reception = Reception(desks, users=True)
        token, user = reception.token(), Nkey(Kind.USER, b"u" * 32)
        admitted = reception.asks(token, user=user.public)

        asking, node = (decode(jwt, {AUTHORITY.account_signing.public}) for jwt in (token.jwt, admitted.jwt))
        assert asking["nats"]["pub"]["allow"] == [f"mesh.demo.enrol.{token.id}"]
        assert asking["exp"] == NOW_US // 1_000_000 + 600
        assert Nkey.from_seed(token.seed, Kind.USER).public == asking["sub"]
        assert (node["sub"], node["name"]) == (user.public, "node-c")
        assert "mesh.demo.rpc.orders.* orders" in node["nats"]["sub"]["allow"]
        assert node["exp"] == NOW_US // 1_000_000 + LIFE_US // 1_000_000
        assert desks.do("revoke", node="node-c")["users"] == [user.public]


def held_by(reception: Reception) -> NodeCertificate:
    return reception.certificate(reception.asks(reception.token()))


def test_a_renewed_certificate_grants_the_same_for_another_day_under_another_serial(reception: Reception) -> None:
    held = held_by(reception)
    reception.desks.now_us += LIFE_US // 2

    new = verify_chain(reception.renews(held), "demo", reception.desks.root.public, reception.desks.now_us)

    assert (new.node, new.key, new.serve, new.call_as) == (held.node, held.key, held.serve, held.call_as)
    assert new.serial != held.serial
    assert new.not_after_us == min(reception.desks.now_us + LIFE_US, TIMES["not_after_us"])


def test_the_same_renewal_again_gets_the_same_certificate(reception: Reception) -> None:
    held = held_by(reception)

    assert reception.renews(held) == reception.renews(held)
    assert reception.admission.alarms == 0


@pytest.mark.parametrize("other", [{"nonce": b"s" * 16}, {"key": OTHER}])
def test_another_renewal_under_a_spent_serial_is_the_clone_alarm(reception: Reception, other: dict[str, Any]) -> None:
    held = held_by(reception)
    reception.renews(held)

    with pytest.raises(RenewalSpent):
        reception.renews(held, **other)
    assert reception.admission.alarms == 1


@pytest.mark.parametrize("other", [{"serial": "x"}, {"node": "node-d"}, {"mesh": "other"}])
def test_a_renewal_of_another_certificate_than_ones_own_is_refused(reception: Reception, other: dict[str, Any]) -> None:
    held = held_by(reception)

    with pytest.raises(RenewalRefused):
        reception.renews(held, **other)


def test_a_revoked_node_does_not_renew(reception: Reception) -> None:
    held = held_by(reception)
    reception.desks.do("revoke", node="node-c")

    with pytest.raises(MeshError, match="NODE_REVOKED"):
        reception.renews(held)


def test_a_node_that_was_admitted_by_hand_renews_as_well(reception: Reception) -> None:
    chain = certify_node(
        reception.desks.issuer,
        reception.desks.delegation,
        mesh="demo",
        node="node-b",
        key=KEY.public,
        serve=["stock"],
        call_as=[],
        serial="by-hand",
        **TIMES,
    )
    held = verify_chain(chain, "demo", reception.desks.root.public, NOW_US)

    assert sha256(reception.renews(held)).digest() != sha256(chain).digest()
