import pytest
from identity_world import DAY_US, RPC, START_US, World, at, befriend, call, inbox, known, meet, packed, stream

from bus_mesh.identity.keyring import Dropped, EnvelopeKind, Keyring, Untrusted
from bus_mesh.identity.peers import Peers


def test_a_lease_ends_after_fifteen_seconds_without_an_announcement_and_is_reported_once(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    meet(a, b)
    peer = known(b, a)

    assert b.sweep(at(14.9)) == []
    assert b.sweep(at(15)) == [peer]
    assert b.sweep(at(16)) == []


def test_a_peer_whose_lease_ended_is_still_heard_and_answered(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    befriend(a, b)
    b.sweep(at(20))

    asker = b.open(RPC, call(a, [b], now=at(20)).data, at(20)).peer
    sent = b.seal(EnvelopeKind.ANSWERS, inbox(a), [packed(b"answer")], [asker], at(20))

    assert a.open(inbox(a), sent.data, at(20)).frames == [b"answer"]


def test_a_beat_after_the_lease_ended_is_news(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    meet(a, b)
    peer = known(b, a)
    b.sweep(at(20))

    accepted = b.accept(a.announce((), at(21)), at(21))

    assert accepted.news
    assert accepted.peer is peer
    assert b.sweep(at(35)) == []
    assert b.sweep(at(36)) == [peer]


def test_a_repeated_announcement_does_not_prolong_the_lease(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    meet(a, b)
    for second in range(1, 15):
        assert not b.accept(a.announcement, at(second)).news

    assert b.sweep(at(15)) == [known(b, a)]


def test_a_key_is_trusted_until_the_certificate_ends(world: World) -> None:
    end = START_US + 100_000_000
    a, b = world.ring("a", own=world.own("a", until_us=end)), world.ring("b")
    befriend(a, b)
    before, after = call(a, [b], now=at(99)).data, call(a, [b], now=at(99)).data

    assert b.open(RPC, before, at(99.9)).frames
    with pytest.raises(Dropped, match="EXPIRED"):
        b.open(RPC, after, at(100))
    with pytest.raises(Untrusted, match="EXPIRED"):
        call(b, [a], now=at(100))


def test_an_older_announcement_changes_nothing(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    older = a.announcement
    newer = a.announce((), at(1), withdrawn=True)
    b.accept(newer, at(1))

    accepted = b.accept(older, at(1))

    assert not accepted.news
    assert accepted.announcement.withdrawn


def test_a_withdrawn_node_is_not_brought_back_by_its_older_words(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    older = a.announcement
    b.accept(a.announce((), at(1), withdrawn=True), at(1))

    for second in (30, 61, 100, 120, 122, 200):
        b.sweep(at(second))
        try:
            assert not b.accept(older, at(second)).news
        except Untrusted as error:
            assert error.reason == "CLOCK_SKEW"


def test_a_withdrawn_node_is_forgotten_two_minutes_later(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    b.accept(a.announce((), at(1), withdrawn=True), at(1))

    b.sweep(at(120.9))
    assert b.peer_of("a", "b1") is not None
    assert b.sweep(at(121)) == []
    assert b.peer_of("a", "b1") is None


def test_a_newer_boot_replaces_the_older_one(world: World) -> None:
    old, b = world.ring("a", "b1"), world.ring("b")
    befriend(old, b)
    new = world.ring("a", "b2", at(5))

    b.accept(new.announcement, at(5))

    assert b.peer_of("a", "b1") is None
    assert known(b, new).boot == "b2"
    with pytest.raises(Dropped, match="STRANGER"):
        b.open(RPC, call(old, [b], now=at(5)).data, at(5))
    assert not b.accept(old.announce((), at(6)), at(6)).news


def test_a_boot_that_began_earlier_by_its_clock_is_heard_once_the_last_one_is_quiet(world: World) -> None:
    wrong, b = world.ring("a", "b1", at(0, ahead=50)), world.ring("b")
    b.accept(wrong.announcement, at(0))
    right = world.ring("a", "b2", at(10))

    assert not b.accept(right.announcement, at(10)).news
    assert b.accept(right.announce((), at(130)), at(130)).news
    assert known(b, right).boot == "b2"


def test_a_restarted_node_may_keep_its_boots_in_order_itself(world: World) -> None:
    wrong, b = world.ring("a", "b1", at(0, ahead=50)), world.ring("b")
    b.accept(wrong.announcement, at(0))
    next_us = START_US + 50_000_001
    right = Keyring(world.own("a"), "b2", stream("right"), at(10), boot_started_us=next_us)

    assert b.accept(right.announcement, at(10)).news


def test_at_most_two_epochs_of_a_node_are_kept(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    for second in range(20):
        a.rotate(at(second))
        b.accept(a.announcement, at(second))

    assert len(b._peers.epochs_of("a")) == 2
    assert len(b._by_id) == len(b._peers._holders) == 3  # two of a's, and our own


def test_a_newcomer_beyond_the_limit_is_refused_and_the_living_stay(world: World) -> None:
    b = world.ring("b")
    peers = b._peers = Peers("b", most=3)
    b._by_id = peers.by_id
    b.announce((), at(0))
    for node in ("a1", "a2"):
        b.accept(world.ring(node).announcement, at(0))

    with pytest.raises(Untrusted, match="FULL"):
        b.accept(world.ring("a3").announcement, at(0))
    assert b.dropped["FULL"] == 1
    assert b.peer_of("a1", "b1") is not None


def test_what_is_derived_goes_with_the_retired_key(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    befriend(a, b)
    b.rotate(at(1))
    b.accept(a.announce((), at(100)), at(100))
    call(b, [a], now=at(100))

    assert len(known(b, a).pairs) == 2
    b.sweep(at(121))
    assert len(known(b, a).pairs) == 1


def test_a_clock_set_forward_and_back_does_not_empty_a_window(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    befriend(a, b)
    recorded = call(a, [b], now=at(1)).data
    b.open(RPC, recorded, at(1))

    ahead = at(2, ahead=2 * DAY_US / 1e6)
    b.rotate(ahead)
    b.sweep(ahead)
    b.rotate(at(3))
    b.accept(a.announce((), at(3)), at(3))

    with pytest.raises(Dropped, match="REPLAYED"):
        b.open(RPC, recorded, at(4))
