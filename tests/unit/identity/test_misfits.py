"""Nodes that are heard and cannot be believed: whose clock is wrong, or whose certificate is of another time."""

import pytest
from identity_world import DAY_US, START_US, World, at, stream

from bus_mesh.identity.keyring import Keyring, Misfit, Reason, Untrusted
from bus_mesh.identity.keys import NodeKey


def refused(ring: Keyring, other: Keyring, seconds: float) -> Misfit:
    with pytest.raises(Misfit) as error:
        ring.accept(other.announcement, at(seconds))
    return error.value


@pytest.mark.parametrize("ahead", [75, 86_400, -90, -3000])
def test_a_clock_over_a_minute_off_is_known_by_how_much(world: World, ahead: int) -> None:
    ring, other = world.ring("a"), world.ring("b", now=at(0, ahead=ahead))
    refused(ring, other, 0)

    (misfit,) = ring.misfits.lately(at(1))
    assert (misfit.node, misfit.boot, misfit.reason) == ("b", "b1", "CLOCK_SKEW")
    assert misfit.by_us == ahead * 1_000_000
    assert ring.misfits.lately(at(31)) == [], "not heard any more"


def test_a_certificate_that_has_ended_is_known_by_when(world: World) -> None:
    ring = world.ring("a")
    other = world.ring("b", own=world.own("b", until_us=START_US + 10_000_000))
    ring.accept(other.announcement, at(0))
    assert ring.misfits.lately(at(0)) == []
    other.announce((), at(12))
    refused(ring, other, 12)

    (misfit,) = ring.misfits.lately(at(13))
    assert (misfit.node, misfit.reason, misfit.by_us) == ("b", "EXPIRED", 2_000_000)


def test_a_certificate_that_has_not_begun_is_known_by_when(world: World) -> None:
    ring = world.ring("a", now=at(0, ahead=-50))
    other = world.ring("b", own=world.own("b", from_us=START_US - 10_000_000))
    with pytest.raises(Misfit):
        ring.accept(other.announcement, at(0, ahead=-50))

    (misfit,) = ring.misfits.lately(at(1, ahead=-50))
    assert (misfit.reason, misfit.by_us) == ("NOT_YET_VALID", 40_000_000)


def test_a_copy_of_an_ended_chain_says_nothing_of_its_node(world: World) -> None:
    ring = world.ring("a")
    ended = world.own("b", until_us=START_US + 10_000_000)
    thief = NodeKey.generate(stream("thief"))
    forged = world.ring("b", own=ended._replace(key=thief)).announcement

    with pytest.raises(Untrusted, match="BAD_SIGNATURE"):
        ring.accept(forged, at(12))
    assert ring.misfits.lately(at(12)) == []


def test_a_node_that_is_right_again_is_no_misfit(world: World) -> None:
    ring, other = world.ring("a"), world.ring("b", now=at(0, ahead=75))
    refused(ring, other, 0)
    other = world.ring("b", boot="b2")
    ring.accept(other.announcement, at(1))

    assert ring.misfits.lately(at(1)) == []


def test_a_node_that_is_out_for_good_is_no_misfit_either(world: World) -> None:
    ring, other = world.ring("a"), world.ring("b", now=at(0, ahead=75))
    refused(ring, other, 0)
    ring.revoke("b")

    assert ring.misfits.lately(at(1)) == []


def test_an_ended_word_of_a_node_that_has_another_certificate_by_now_says_nothing_of_it(world: World) -> None:
    ring = world.ring("a")
    other = world.ring("b", own=world.own("b", until_us=START_US + 10_000_000))
    old = other.announcement
    ring.accept(other.renew(world.own("b"), at(8)), at(8))

    with pytest.raises(Misfit):
        ring.accept(old, at(12))
    assert ring.misfits.lately(at(12)) == []


@pytest.mark.parametrize("ended", [False, True])
def test_a_word_on_the_subject_of_another_node_says_nothing_of_either(world: World, ended: bool) -> None:
    ring = world.ring("a")
    other = world.ring("b", own=world.own("b", until_us=START_US + 10_000_000))
    seconds = 12 if ended else 1
    with pytest.raises(Untrusted, match="WRONG_NODE"):
        ring.accept(other.announcement, at(seconds), "c")

    assert ring.misfits.lately(at(seconds)) == []
    if ended:
        refused(ring, other, 12)  # nor is it held against the bytes
    else:
        assert ring.accept(other.announcement, at(seconds), "b").news


def test_who_is_out_for_good_is_no_misfit_when_its_certificate_has_ended(world: World) -> None:
    ring = world.ring("a")
    other = world.ring("b", own=world.own("b", until_us=START_US + 10_000_000))
    ring.revoke("b")

    with pytest.raises(Untrusted, match="REVOKED") as error:
        ring.accept(other.announcement, at(12))
    assert not isinstance(error.value, Misfit) and ring.misfits.lately(at(12)) == []


def test_misfits_are_few_however_many_there_are(world: World) -> None:
    ring = world.ring("a")
    for number in range(1100):
        ring.misfits.note(Misfit(Reason.CLOCK_SKEW, "text", f"n{number}", "b1", DAY_US, (0, number)), at(number / 1000))

    found = ring.misfits.lately(at(1.1))
    assert len(found) == 1024
    assert found[-1].node == "n1099"
