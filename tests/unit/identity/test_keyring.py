import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identity_world import RPC, START_US, World, at, befriend, call, inbox, known, meet, packed, stream

from bus_mesh.identity.announcement import Instance, Offer
from bus_mesh.identity.envelope import INTRODUCED, parse_header
from bus_mesh.identity.keyring import Dropped, EnvelopeKind, NotARecipient, Untrusted
from bus_mesh.identity.keys import verifies
from bus_mesh.protocol.bunches import bunches

OFFER = Offer("orders", (Instance("a-1", "1", {}, "up", 0),), ())


def introduced(data: bytes) -> bool:
    return bool(parse_header(data).flags & INTRODUCED)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_what_is_sealed_is_what_every_recipient_opens(world: World, n: int) -> None:
    a, group = world.ring("a"), [world.ring(f"b{i}") for i in range(n)]
    for b in group:
        meet(a, b)

    sent = call(a, group, b"one", b"", b"three")

    for b in group:
        opened = b.open(RPC, sent.data, at(0.001))
        assert opened.frames == [b"one", b"", b"three"]
        assert opened.peer is known(b, a)
        assert opened.kind is EnvelopeKind.CALLS
        assert (opened.counter, opened.late_us, opened.skew_us) == (sent.counter, 0, 0)


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=64), st.integers(1, 5))
@settings(max_examples=30)
def test_any_frames_come_through(frames: list[bytes], n: int) -> None:
    world = World()
    a, group = world.ring("a"), [world.ring(f"b{i}") for i in range(n)]
    for b in group:
        meet(a, b)

    assert group[-1].open(RPC, call(a, group, *frames).data, at(0)).frames == frames


def test_an_answer_goes_to_the_inbox_of_the_process_that_called(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    meet(a, b)
    asker = b.open(RPC, call(a, [b]).data, at(0)).peer

    sent = b.seal(EnvelopeKind.ANSWERS, inbox(a), [packed(b"answer")], [asker], at(0))

    assert a.open(inbox(a), sent.data, at(0)).frames == [b"answer"]


def test_an_envelope_to_oneself_opens(world: World) -> None:
    a = world.ring("a")

    sent = call(a, [a])

    assert not introduced(sent.data)
    assert a.open(RPC, sent.data, at(0)).peer is known(a, a)


def test_a_stranger_introduces_itself_inside_its_envelope(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    a.accept(b.announcement, at(0))
    a.announce([OFFER], at(0))

    opened = b.open(RPC, call(a, [b]).data, at(0))

    assert opened.introduced is not None
    assert opened.introduced.offers == (OFFER,)
    assert b.open(RPC, call(a, [b]).data, at(0)).introduced is None


def test_introductions_go_on_until_the_recipient_has_sealed_something_for_our_key(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    meet(a, b)

    assert introduced(call(a, [b]).data)
    a.open(RPC, call(b, [a]).data, at(0))
    assert not introduced(call(a, [b]).data)
    known(a, b).knows_me = False
    assert introduced(call(a, [b]).data)


def test_one_recipient_that_may_not_know_us_is_enough_for_an_introduction(world: World) -> None:
    a, b, c = (world.ring(node) for node in "abc")
    befriend(a, b)
    meet(a, c)

    assert introduced(call(a, [b, c]).data)


def test_after_a_rotation_we_introduce_ourselves_again(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    befriend(a, b)

    a.rotate(at(1))

    sent = call(a, [b], now=at(1))
    assert introduced(sent.data)
    assert b.open(RPC, sent.data, at(1)).peer.key_id == a.key_id


def test_an_introduction_that_has_lapsed_is_signed_anew(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    meet(a, b)
    before = a.announcement

    opened = b.open(RPC, call(a, [b], now=at(600)).data, at(600))

    assert a.announcement != before
    assert opened.skew_us == 0


def test_a_known_sender_and_another_recipient_is_told_apart_from_a_stranger(world: World) -> None:
    a, b, c = (world.ring(node) for node in "abc")
    befriend(a, b)
    befriend(a, c)
    sent = call(a, [b])

    with pytest.raises(NotARecipient) as caught:
        c.open(RPC, sent.data, at(0))
    assert (caught.value.peer, caught.value.counter) == (known(c, a), sent.counter)
    with pytest.raises(Dropped, match="STRANGER"):
        world.ring("d").open(RPC, sent.data, at(0))


def test_an_introduction_in_an_envelope_for_others_is_news_all_the_same(world: World) -> None:
    a, b, c = (world.ring(node) for node in "abc")
    meet(a, b)

    with pytest.raises(NotARecipient) as caught:
        c.open(RPC, call(a, [b]).data, at(0))
    assert caught.value.introduced == known(a, a).announcement


def test_what_an_envelope_took_beyond_the_fastest_is_its_lateness(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    meet(a, b)
    b.open(RPC, call(a, [b], now=at(1)).data, at(1.010))

    assert b.open(RPC, call(a, [b], now=at(2)).data, at(4.010)).late_us == 2_000_000
    assert b.open(RPC, call(a, [b], now=at(5)).data, at(5.002)).late_us == 0
    assert b.open(RPC, call(a, [b], now=at(6)).data, at(6.010)).late_us == 8_000


def test_lateness_does_not_notice_a_clock_that_is_wrong_by_less_than_a_minute(world: World) -> None:
    a, b = world.ring("a", now=at(0, ahead=-50)), world.ring("b")
    meet(a, b, at(0))
    b.open(RPC, call(a, [b], now=at(1, ahead=-50)).data, at(1))

    opened = b.open(RPC, call(a, [b], now=at(2, ahead=-50)).data, at(2.3))

    assert (opened.late_us, opened.skew_us) == (300_000, 0)


def test_a_sender_whose_clock_was_set_back_is_told_so(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    meet(a, b)
    a.rotate(at(1, ahead=-200))

    opened = b.open(RPC, call(a, [b], now=at(1, ahead=-200)).data, at(1))

    assert opened.skew_us == 200_000_000
    assert opened.introduced is None


def test_a_node_whose_clock_is_behind_hears_that_the_others_are_ahead(world: World) -> None:
    a, b = world.ring("a", now=at(0, ahead=-200)), world.ring("b")

    with pytest.raises(Untrusted, match="node b is 200s ahead of ours"):
        a.accept(b.announcement, at(0, ahead=-59))


def test_an_announcement_from_the_past_is_not_for_the_directory(world: World) -> None:
    a, b = world.ring("a", now=at(0, ahead=-200)), world.ring("b")

    with pytest.raises(Untrusted, match="CLOCK_SKEW"):
        b.accept(a.announcement, at(0))
    assert b.dropped["CLOCK_SKEW"] == 1
    assert b.peer_of("a", "b1") is not None
    assert b.sweep(at(20)) == []


def test_an_announcement_from_the_future_is_refused(world: World) -> None:
    a, b = world.ring("a", now=at(0, ahead=61)), world.ring("b")

    with pytest.raises(Untrusted, match="61s ahead"):
        b.accept(a.announcement, at(0))
    assert b.peer_of("a", "b1") is None


def test_it_is_due_to_rotate_after_an_hour_or_when_the_clock_steps(world: World) -> None:
    a = world.ring("a")

    assert not a.due(at(3599))
    assert a.due(at(3600))
    assert not a.due(at(10, ahead=0.9))
    assert a.due(at(10, ahead=1.1))
    assert a.due(at(10, ahead=-1.1))


def test_the_clock_does_not_step_while_a_key_is_in_use(world: World) -> None:
    a = world.ring("a")

    assert a.clock_us(at(10, ahead=-3000)) == START_US + 10_000_000
    a.rotate(at(10, ahead=-3000))
    assert a.clock_us(at(10, ahead=-3000)) == START_US - 2_990_000_000


def test_a_retired_key_opens_for_two_minutes(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    befriend(a, b)
    early, late = (call(a, [b], now=at(1)).data for _ in range(2))
    b.rotate(at(2))

    assert b.open(RPC, early, at(3)).frames
    b.sweep(at(121.9))
    assert b.open(RPC, late, at(121.9)).skew_us != 0
    b.sweep(at(122))
    with pytest.raises(NotARecipient):
        b.open(RPC, call(a, [b], now=at(122)).data, at(122))


def test_a_retired_key_that_is_held_opens_as_long_as_it_is_held(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    befriend(a, b)
    held = b.hold()
    b.rotate(at(1))
    b.sweep(at(500))

    assert b.open(RPC, call(a, [b], now=at(500)).data, at(500)).frames
    b.release(held)
    b.sweep(at(501))
    with pytest.raises(NotARecipient):
        b.open(RPC, call(a, [b], now=at(501)).data, at(501))


def test_an_envelope_to_our_old_key_does_not_mean_that_the_sender_knows_the_new_one(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    befriend(a, b)
    b.rotate(at(1))

    b.open(RPC, call(a, [b], now=at(1)).data, at(1))

    assert not known(b, a).knows_me


def test_both_of_a_nodes_two_last_epochs_are_heard(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    befriend(a, b)
    old = call(a, [b], b"old", now=at(1)).data
    a.rotate(at(2))
    b.accept(a.announcement, at(2))

    assert b.open(RPC, old, at(2)).frames == [b"old"]
    assert b.open(RPC, call(a, [b], b"new", now=at(2)).data, at(2)).frames == [b"new"]


def test_who_meets_a_node_after_its_rotation_hears_its_previous_epoch_too(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    a.accept(b.announcement, at(0))
    known(a, b).knows_me = True
    old = call(a, [b], b"old", now=at(1)).data
    a.rotate(at(2))
    b.accept(a.announcement, at(2))

    assert b.open(RPC, old, at(2)).frames == [b"old"]


def test_a_peer_whose_key_was_replaced_twice_is_answered_under_its_present_one(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    meet(a, b)
    asker = known(b, a)
    for second in (1, 2):
        a.rotate(at(second))
        b.accept(a.announcement, at(second))

    sent = b.seal(EnvelopeKind.ANSWERS, inbox(a), [packed(b"answer")], [asker], at(3))

    assert a.open(inbox(a), sent.data, at(3)).frames == [b"answer"]


def test_a_signed_envelope_carries_a_proof_that_others_can_check(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    meet(a, b)

    sent = call(a, [b], b"pay 5", signed=True)
    opened = b.open(RPC, sent.data, at(0))

    assert opened.frames == [b"pay 5"]
    part = b"busmesh signed envelope 1" + sent.data[:40] + len(RPC).to_bytes(4, "big") + RPC.encode()
    assert opened.proof is not None
    assert verifies(a.own.key.public, opened.proof.signature, part + bunches([packed(b"pay 5")]))


def test_control_is_signed_and_for_one(world: World) -> None:
    a, b, c = (world.ring(node) for node in "abc")
    meet(a, b)
    meet(a, c)
    subject = "mesh.demo.ctl.node.b"

    sent = a.seal(EnvelopeKind.CONTROL, subject, [packed(b"stop")], [known(a, b)], at(0))

    proof = b.open(subject, sent.data, at(0)).proof
    assert proof is not None and len(proof.signature) == 64
    with pytest.raises(ValueError, match="2 recipients"):
        a.seal(EnvelopeKind.CONTROL, subject, [packed(b"stop")], [known(a, b), known(a, c)], at(0))


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        (EnvelopeKind.CALLS, "mesh.demo.event.orders"),
        (EnvelopeKind.CALLS, "mesh.prod.rpc.orders.get"),
        (EnvelopeKind.CALLS, "mesh.demo.rpc.orders.gét"),
        (EnvelopeKind.CALLS, "mesh.demo.node.b.b2"),
        (EnvelopeKind.ANSWERS, RPC),
        (EnvelopeKind.ANSWERS, "mesh.demo.node.b.b11"),
        (EnvelopeKind.EVENT, "mesh.demo.node.b.b1"),
        (EnvelopeKind.CONTROL, RPC),
    ],
)
def test_a_kind_on_a_subject_that_it_does_not_fit_is_dropped(world: World, kind: EnvelopeKind, subject: str) -> None:
    a, b = world.ring("a"), world.ring("b")
    meet(a, b)
    sent = a.seal(kind, subject, [packed(b"frame")], [known(a, b)], at(0))

    with pytest.raises(Dropped, match="KIND"):
        b.open(subject, sent.data, at(0))
    assert b.dropped["KIND"] == 1


@pytest.mark.parametrize("count", [0, 129])
def test_no_frame_and_too_many_frames_are_not_sealed(world: World, count: int) -> None:
    a = world.ring("a")

    with pytest.raises(ValueError, match=f"{count} frames"):
        a.seal(EnvelopeKind.CALLS, RPC, [b"frame"] * count, [known(a, a)], at(0))
    with pytest.raises(ValueError, match=f"{count} recipients"):
        a.seal(EnvelopeKind.CALLS, RPC, [packed(b"frame")], [known(a, a)] * count, at(0))


def test_a_renewed_certificate_is_announced_and_believed(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    meet(a, b)
    renewed = world.own("a", serve=("orders", "pay"))

    b.accept(a.renew(renewed, at(1)), at(1))

    assert known(b, a).certificate.serve == {"orders", "pay"}
    with pytest.raises(Untrusted, match="WRONG_NODE"):
        a.renew(world.own("b"), at(1))


def test_our_own_older_boot_on_the_bus_is_no_news(world: World) -> None:
    old, new = world.ring("a", "b1", at(0)), world.ring("a", "b2", at(1))

    accepted = new.accept(old.announcement, at(1))

    assert not accepted.news
    assert accepted.peer is known(new, new)


def test_our_own_announcement_is_no_news(world: World) -> None:
    a = world.ring("a")
    before = a.announcement
    a.announce([OFFER], at(1))

    assert not a.accept(a.announcement, at(1)).news
    assert not a.accept(before, at(1)).news


def test_a_withdrawal_is_announced(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    meet(a, b)

    accepted = b.accept(a.announce((), at(1), withdrawn=True), at(1))

    assert accepted.news
    assert accepted.announcement.withdrawn


def test_a_keyring_shows_its_state_and_no_secret(world: World) -> None:
    a = world.ring("a")
    text = repr(a)

    assert "a" in text
    assert "in use" in text
    assert stream("a b1")(32).hex() not in text
