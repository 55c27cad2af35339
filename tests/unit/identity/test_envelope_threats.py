"""The attacks of the threat table that identity meets: each test is named after one."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identity_world import RPC, World, at, call, friends, inbox, known, meet, packed, stream

from bus_mesh.identity.announcement import Offer, encode_announcement
from bus_mesh.identity.envelope import HEADER, PREFIX, open_sealed, parse_header, recipients, seal_for_many
from bus_mesh.identity.keyring import Dropped, EnvelopeKind, Keyring, NotARecipient, Untrusted
from bus_mesh.identity.keys import EpochKey, Pair
from bus_mesh.protocol.bunches import bunches

NOT_BELIEVED = (Dropped, NotARecipient, Untrusted)


def state(ring: Keyring, sender: Keyring) -> tuple[int, bool]:
    peer = known(ring, sender)
    return peer.window.highest, peer.knows_me


# The broker alters


@pytest.mark.parametrize("introduced", [False, True])
def test_every_bit_of_a_sealed_envelope_flipped_is_refused(world: World, introduced: bool) -> None:
    a, (b,) = friends(world, 1)
    known(a, b).knows_me = not introduced
    sent = call(a, [b], b"x" * 20).data
    before = state(b, a)

    for bit in range(len(sent) * 8):
        flipped = bytearray(sent)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NOT_BELIEVED):
            b.open(RPC, bytes(flipped), at(0))
    assert state(b, a) == before
    assert b.open(RPC, sent, at(0)).frames == [b"x" * 20]


def test_every_bit_flipped_of_an_envelope_for_three_is_refused_and_in_a_wrap_by_that_one_only(world: World) -> None:
    a, group = friends(world, 3)
    sent = call(a, group, b"x" * 20).data
    wraps = 32 + 3 * 8

    for bit in range(len(sent) * 8):
        flipped = bytearray(sent)
        flipped[bit // 8] ^= 1 << bit % 8
        owner = (bit // 8 - wraps) // 48
        for place in range(3):
            if 0 <= owner < 3 and place != owner:
                continue
            with pytest.raises(NOT_BELIEVED):
                group[place].open(RPC, bytes(flipped), at(0))
    flipped = bytearray(sent)
    flipped[wraps + 48] ^= 1
    for place, b in enumerate(group):
        if place == 1:
            with pytest.raises(Dropped, match="FORGED"):
                b.open(RPC, bytes(flipped), at(0))
        else:
            assert b.open(RPC, bytes(flipped), at(0)).frames == [b"x" * 20]


def test_an_envelope_moved_to_another_subject_is_refused(world: World) -> None:
    a, (b,) = friends(world, 1)
    sent = call(a, [b]).data

    for other in ("mesh.demo.rpc.orders.drop", "mesh.demo.rpc.pay.get", "mesh.demo.rpc.orders.*", inbox(b)):
        with pytest.raises(Dropped, match="FORGED"):
            b.open(other, sent, at(0))
    assert b.open(RPC, sent, at(0)).frames == [b"frame"]


@given(st.integers(0, 400))
@settings(max_examples=60)
def test_an_envelope_cut_short_or_lengthened_is_refused(size: int) -> None:
    a, group = friends(World(), 2)
    sent = call(a, group, b"x" * 100).data

    for wrong in (sent[:size] if size < len(sent) else sent[:-1], sent + bytes(size + 1)):
        with pytest.raises(NOT_BELIEVED):
            group[0].open(RPC, wrong, at(0))


def test_a_fellow_recipient_cannot_change_the_body_for_the_others(world: World) -> None:
    a, (b, fellow) = friends(world, 2)
    sent = call(a, [b, fellow], b"give 1").data
    pair: Pair = known(fellow, a).pairs[fellow.key_id]
    stolen: list[bytes] = []

    def opens(nonce: bytes, wrapped: bytes, bound: bytes) -> bytes:
        stolen.append(pair.open(nonce, wrapped, bound))
        return stolen[0]

    assert open_sealed(sent, RPC.encode(), 2, 1, 32 + 2 * 56, opens) == bunches([packed(b"give 1")])
    head, wraps = sent[:48], sent[48:144]
    forged = seal_for_many(head, b"", RPC.encode(), bunches([packed(b"give 9")]), [], stolen[0])
    forged = forged[:48] + wraps + forged[48:]

    assert len(forged) == len(sent)
    with pytest.raises(Dropped, match="FORGED"):
        b.open(RPC, forged, at(0))


# The broker forges


def test_without_a_node_key_nothing_is_delivered(world: World) -> None:
    b = world.ring("b")
    outsider = World(seed="outsider").ring("a")
    outsider.accept(outsider.announcement, at(0))
    with pytest.raises(Untrusted, match="BAD_SIGNATURE"):
        b.accept(outsider.announcement, at(0))
    head = HEADER.pack(PREFIX, 1, 1, 1, 1, outsider.key_id, 1, at(0).wall_us) + b.key_id
    sent = head + len(outsider.announcement).to_bytes(4, "big") + outsider.announcement + bytes(40)

    with pytest.raises(Dropped, match="BAD_SIGNATURE"):
        b.open(RPC, sent, at(0))
    assert b.dropped["BAD_SIGNATURE"] == 2


def test_a_recipient_cannot_forge_to_a_third_party(world: World) -> None:
    a, (b, c) = friends(world, 2)
    sent = call(a, [b]).data
    onward = sent[:32] + c.key_id + sent[40:]

    with pytest.raises(Dropped, match="FORGED"):
        c.open(RPC, onward, at(0))


def test_an_envelope_sent_back_to_its_sender_is_refused(world: World) -> None:
    a, (b,) = friends(world, 1)
    sent = call(a, [b]).data
    back = sent[:8] + b.key_id + sent[16:32] + a.key_id + sent[40:]

    with pytest.raises(Dropped, match="FORGED"):
        a.open(RPC, back, at(0))


def test_another_suite_is_refused(world: World) -> None:
    a, (b,) = friends(world, 1)
    sent = bytearray(call(a, [b]).data)
    sent[4] = 0

    with pytest.raises(Dropped, match="SUITE"):
        b.open(RPC, bytes(sent), at(0))


def test_a_signature_of_another_node_inside_a_sealed_envelope_is_refused(world: World) -> None:
    a, (b,) = friends(world, 1)
    a._herald.own = a.own._replace(key=world.own("c").key)
    sent = call(a, [b], signed=True).data

    with pytest.raises(Dropped, match="FORGED"):
        b.open(RPC, sent, at(0))


# The broker replays


@pytest.mark.parametrize("later", [0.0, 1.0, 59.0, 3599.0])
def test_a_replay_is_dropped_however_much_later(world: World, later: float) -> None:
    a, (b,) = friends(world, 1)
    sent = call(a, [b]).data
    b.open(RPC, sent, at(0))
    b.sweep(at(later))

    with pytest.raises(Dropped, match="REPLAYED"):
        b.open(RPC, sent, at(later))


def test_a_replay_an_hour_and_a_rotation_later_is_refused(world: World) -> None:
    a, (b,) = friends(world, 1)
    sent = call(a, [b]).data
    b.open(RPC, sent, at(0))
    b.rotate(at(3600))
    b.sweep(at(3720))

    with pytest.raises(NotARecipient):
        b.open(RPC, sent, at(3721))


def test_a_replay_to_a_restarted_receiver_is_refused(world: World) -> None:
    a, (b,) = friends(world, 1)
    known(a, b).knows_me = False
    sent = call(a, [b]).data
    restarted = world.ring("b", "b2", at(1))
    restarted.accept(a.announcement, at(1))

    with pytest.raises(NotARecipient):
        restarted.open(RPC, sent, at(1))


def test_a_replay_of_a_restarted_sender_is_refused_with_its_introduction(world: World) -> None:
    a, (b,) = friends(world, 1)
    known(a, b).knows_me = False
    sent = call(a, [b]).data
    b.open(RPC, sent, at(0))
    b.accept(world.ring("a", "b2", at(1)).announcement, at(1))

    with pytest.raises(Dropped, match="STRANGER"):
        b.open(RPC, sent, at(1))


def test_a_replay_of_a_node_that_withdrew_is_never_opened_as_timely(world: World) -> None:
    a, b = world.ring("a", now=at(0, ahead=59)), world.ring("b")
    meet(a, b)
    sent = call(a, [b], now=at(1, ahead=59)).data
    b.open(RPC, sent, at(1))
    b.accept(a.announce((), at(2, ahead=59), withdrawn=True), at(2))

    for second in range(3, 400):
        b.sweep(at(second))
        try:
            assert b.open(RPC, sent, at(second)).skew_us != 0
        except Dropped as dropped:
            assert dropped.reason in ("REPLAYED", "STRANGER")


def test_a_forged_envelope_does_not_move_the_window(world: World) -> None:
    a, (b,) = friends(world, 1)
    sent = call(a, [b]).data
    forged = sent[:16] + (2**64 - 1).to_bytes(8, "big") + sent[24:]
    with pytest.raises(Dropped, match="FORGED"):
        b.open(RPC, forged, at(0))

    assert b.open(RPC, sent, at(0)).frames == [b"frame"]


def test_envelopes_that_overtake_each_other_are_all_opened(world: World) -> None:
    a, (b,) = friends(world, 1)
    sent = [call(a, [b]) for _ in range(200)]
    random.Random(1).shuffle(sent)

    assert {b.open(RPC, each.data, at(0)).counter for each in sent} == {each.counter for each in sent}


def test_no_counter_and_no_nonce_is_used_twice_under_one_key(world: World) -> None:
    a, group = friends(world, 2)
    used = set()
    for second in range(50):
        if second % 10 == 9:
            a.rotate(at(second))
        for to in (group[:1], group[1:], group):
            header = parse_header(call(a, to, now=at(second)).data)
            used.add((header.sender, header.counter, header.sent_at_us & 0xFFFFFFFF))

    assert len(used) == 150
    assert len({(sender, counter) for sender, counter, _ in used}) == 150


# Who speaks as whom


def test_copied_epoch_key_announced_by_another_node_is_refused(world: World) -> None:
    a, (b,) = friends(world, 1)
    thief = world.ring("thief")
    copied = known(b, a).announcement
    word = known(thief, thief).announcement._replace(key=copied.key)

    with pytest.raises(Untrusted, match="KEY_ID_HELD") as caught:
        b.accept(encode_announcement(word, thief.own.key), at(0), "thief")
    assert caught.value.alarm
    assert b.dropped["KEY_ID_HELD"] == 1
    assert b.peer_of("thief", "b1") is None
    assert b.open(RPC, call(a, [b]).data, at(0)).peer.node == "a"


def test_copied_epoch_key_announced_as_the_previous_one_is_refused(world: World) -> None:
    a, (b,) = friends(world, 1)
    thief = world.ring("thief")
    word = known(thief, thief).announcement._replace(previous=known(b, a).key)

    with pytest.raises(Untrusted, match="KEY_ID_HELD"):
        b.accept(encode_announcement(word, thief.own.key), at(0), "thief")


def test_epoch_key_of_small_order_is_refused(world: World) -> None:
    b, rogue = world.ring("b"), world.ring("rogue")
    word = known(rogue, rogue).announcement._replace(key=bytes(32))

    with pytest.raises(Untrusted, match="WEAK_KEY"):
        b.accept(encode_announcement(word, rogue.own.key), at(0))


def test_node_announces_itself_on_the_subject_of_another(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")

    with pytest.raises(Untrusted, match="WRONG_NODE"):
        b.accept(a.announcement, at(0), "c")
    assert b.peer_of("a", "b1") is None
    assert b.accept(a.announcement, at(0), "a").news


def test_node_signs_for_another_node(world: World) -> None:
    b, rogue = world.ring("b"), world.ring("rogue")
    word = known(rogue, rogue).announcement._replace(node="a")

    with pytest.raises(Untrusted, match="WRONG_NODE"):
        b.accept(encode_announcement(word, rogue.own.key), at(0))


def test_clone_of_our_node_raises_the_alarm(world: World) -> None:
    a = world.ring("a")
    clone = world.ring("a", "b2", at(1))

    with pytest.raises(Untrusted, match="CLONE") as caught:
        a.accept(clone.announcement, at(1))
    assert caught.value.alarm
    assert known(a, a).boot == "b1"


def test_clone_that_copies_our_boot_raises_the_alarm(world: World) -> None:
    a, clone = world.ring("a"), Keyring(world.own("a"), "b1", stream("clone"), at(0))
    for second in range(3):
        clone.announce((), at(second))

    with pytest.raises(Untrusted, match="CLONE"):
        a.accept(clone.announcement, at(2))


def test_clone_that_calls_us_is_dropped_with_the_alarm(world: World) -> None:
    a = world.ring("a")
    clone = world.ring("a", "b2", at(1))
    b = world.ring("b")
    b.accept(a.announcement, at(0))
    own_view = known(b, a)
    sent = clone.seal(EnvelopeKind.CALLS, RPC, [packed(b"frame")], [own_view], at(1))

    with pytest.raises(Dropped, match="CLONE") as caught:
        a.open(RPC, sent.data, at(1))
    assert caught.value.alarm


def test_revoked_node_is_neither_heard_nor_answered(world: World) -> None:
    a, (b,) = friends(world, 1)
    peer, before = known(b, a), call(a, [b]).data
    b.revoke("a")

    with pytest.raises(Dropped, match="STRANGER"):
        b.open(RPC, before, at(0))
    known(a, b).knows_me = False
    with pytest.raises(Dropped, match="REVOKED"):
        b.open(RPC, call(a, [b], now=at(20)).data, at(20))
    with pytest.raises(Untrusted, match="REVOKED"):
        b.accept(a.announce((), at(21)), at(21))
    with pytest.raises(Untrusted, match="EXPIRED"):
        b.seal(EnvelopeKind.ANSWERS, inbox(a), [packed(b"answer")], [peer], at(21))


def test_an_instance_of_a_service_that_was_not_granted_is_not_announced_to_anybody(world: World) -> None:
    b = world.ring("b")
    rogue = world.ring("rogue", own=world.own("rogue", serve=("mail",)))

    accepted = b.accept(rogue.announce([Offer("orders", (), ()), Offer("mail", (), ())], at(0)), at(0))

    assert [offer.service for offer in accepted.announcement.offers] == ["mail"]


def test_recipients_beyond_the_limit_are_dropped(world: World) -> None:
    a, (b,) = friends(world, 1)
    for n in (0, 65, 65535):
        head = HEADER.pack(PREFIX, 1, 1, 0, n, a.key_id, 9, at(0).wall_us)
        with pytest.raises(Dropped, match="FORMAT"):
            b.open(RPC, head + b.key_id * n + bytes(48 * n + 32), at(0))


def test_reserved_flags_are_dropped(world: World) -> None:
    a, (b,) = friends(world, 1)
    for flag in (4, 8, 128):
        sent = bytearray(call(a, [b]).data)
        sent[5] |= flag
        with pytest.raises(Dropped, match="FORMAT"):
            b.open(RPC, bytes(sent), at(0))


def test_no_private_key_is_in_what_is_announced_or_sealed(world: World) -> None:
    a, (b,) = friends(world, 1)
    private = stream("a b1")(32)
    assert EpochKey(private).public == known(b, a).key

    for data in (a.announcement, call(a, [b]).data):
        assert private not in data
        assert a.own.key.raw not in data
    assert recipients(call(a, [b]).data, 1) == [b.key_id]
