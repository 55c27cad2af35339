from hashlib import sha256

import pytest
from identity_world import START_US, World

from bus_mesh.identity import announcement, document
from bus_mesh.identity.announcement import (
    ANNOUNCEMENT_LIMIT,
    Announcement,
    Instance,
    Offer,
    decode_announcement,
    encode_announcement,
    read_announcement,
)
from bus_mesh.identity.keys import EpochKey
from bus_mesh.identity.refusal import Reason, Untrusted
from bus_mesh.protocol.frames import Method

LABELS = {"track": "canary"}
OFFER = Offer("orders", (Instance("a-1", "1.2", LABELS, "up", 3),), (Method("get", True, 2000, "abc"),))
KEY, PREVIOUS = EpochKey(b"e" * 32).public, EpochKey(b"p" * 32).public


def word(world: World, **changed: object) -> Announcement:
    chain = world.own("a").chain
    times = (START_US, 1, START_US, START_US + 15_000_000)
    return Announcement("demo", "a", chain, "b1", *times, KEY, b"", (OFFER,), False, "0.1.0")._replace(**changed)


def heard(world: World, said: Announcement) -> Announcement:
    own = world.own("a")
    return decode_announcement(read_announcement(encode_announcement(said, own.key)), own.certificate)


@pytest.mark.parametrize("changed", [{}, {"previous": PREVIOUS}, {"withdrawn": True}, {"offers": ()}])
def test_what_a_node_says_is_what_is_heard(world: World, changed: dict) -> None:
    said = word(world, **changed)

    assert heard(world, said) == said


def test_a_service_that_the_certificate_does_not_grant_is_not_heard(world: World) -> None:
    said = word(world, offers=(OFFER, OFFER._replace(service="pay")))

    assert heard(world, said).offers == (OFFER,)


@pytest.mark.parametrize("id", ["b-1", "a-b-1", "a1", "-1"])
def test_a_node_cannot_announce_an_instance_under_the_name_of_another(world: World, id: str) -> None:
    stolen = OFFER._replace(instances=(OFFER.instances[0]._replace(id=id),))
    with pytest.raises(Untrusted, match=f"node a announces an instance '{id}'") as caught:
        heard(world, word(world, offers=(stolen,)))

    assert caught.value.reason == Reason.WRONG_NODE


WRONG = {
    "mesh": "prod",
    "node": "b",
    "boot": "b.1",
    "sequence": 0,
    "issued_us": 0,
    "expires_us": START_US,
    "key": bytes(32),
    "previous": bytes(32),
    "version": "1\n2",
}


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_field_is_refused(world: World, field: str) -> None:
    with pytest.raises(Untrusted):
        heard(world, word(world, **{field: WRONG[field]}))


def test_a_lease_over_a_minute_is_refused(world: World) -> None:
    with pytest.raises(Untrusted, match="MALFORMED"):
        heard(world, word(world, expires_us=START_US + 60_000_001))


def test_a_key_that_is_its_own_predecessor_is_refused(world: World) -> None:
    with pytest.raises(Untrusted, match="previous key"):
        heard(world, word(world, previous=KEY))


INSTANCE, METHOD = OFFER.instances[0], OFFER.methods[0]
HOSTILE = [
    OFFER._replace(service="*"),
    OFFER._replace(instances=(INSTANCE._replace(id="i.1"),)),
    OFFER._replace(instances=(INSTANCE._replace(version="v" * 129),)),
    OFFER._replace(instances=(INSTANCE._replace(labels={"a" * 129: ""}),)),
    OFFER._replace(instances=(INSTANCE._replace(labels={"a": 1}),)),  # type: ignore[dict-item]
    OFFER._replace(instances=(INSTANCE._replace(labels={str(i): "" for i in range(33)}),)),
    OFFER._replace(instances=(INSTANCE._replace(state="full\n"),)),
    OFFER._replace(instances=(INSTANCE._replace(load=-1),)),
    OFFER._replace(methods=(METHOD._replace(name="get >"),)),
    OFFER._replace(methods=(METHOD._replace(timeout_ms=-1),)),
    OFFER._replace(methods=(METHOD._replace(schema="s" * 129),)),
    OFFER._replace(methods=(("get",),)),  # type: ignore[arg-type]
    (),
    "orders",
]


@pytest.mark.parametrize("offer", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_offer_is_refused(world: World, offer: Offer) -> None:
    with pytest.raises(Untrusted, match="MALFORMED"):
        heard(world, word(world, offers=(offer,)))


def test_a_state_of_a_later_version_is_heard_as_it_was_said(world: World) -> None:
    said = word(world, offers=(OFFER._replace(instances=(INSTANCE._replace(state="resting"),)),))

    assert heard(world, said) == said


def test_an_announcement_is_bound_to_the_certificate_that_it_was_made_with(world: World) -> None:
    own = world.own("a")
    older = world.own("a", serve=("orders", "pay"), key=own.key)
    found = read_announcement(encode_announcement(word(world), own.key))._replace(hint=older.chain)

    with pytest.raises(Untrusted, match="another certificate"):
        decode_announcement(found, older.certificate)


def test_an_announcement_over_the_limit_is_not_made_and_not_read(world: World) -> None:
    many = tuple(Method(f"method_{i}", True, 0, "s" * 64) for i in range(1000))
    said = word(world, offers=(OFFER._replace(methods=many),))

    with pytest.raises(ValueError, match="over the limit of 65536: serve fewer"):
        encode_announcement(said, world.own("a").key)
    with pytest.raises(Untrusted, match="TOO_LARGE"):
        read_announcement(bytes(ANNOUNCEMENT_LIMIT + 1))


def test_three_hundred_methods_fit(world: World) -> None:
    many = tuple(Method(f"a_method_of_a_service_{i}", True, 5000, "s" * 64) for i in range(300))

    assert heard(world, word(world, offers=(OFFER._replace(methods=many),))).offers[0].methods == many


def test_a_body_of_another_length_is_refused(world: World) -> None:
    own = world.own("a")
    said = word(world)
    fields = (*said[:2], sha256(said.chain).digest(), *said[3:], "more")
    signed = document.sign(announcement._TYPE, fields, own.key, hint=said.chain)

    with pytest.raises(Untrusted, match="MALFORMED"):
        decode_announcement(read_announcement(signed), own.certificate)
