"""Policy never goes backwards, whatever heads come in whatever order."""

from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.policy.follow import STALE_SECONDS, Follower, Freshness, InForce, Meaning

HOUR_US = 3_600_000_000
HEADS = st.builds(
    InForce,
    term=st.integers(1, 3),
    number=st.integers(1, 4),
    manifest=st.sampled_from([b"a" * 32, b"b" * 32]),
    expires_us=st.integers(1, 5).map(lambda hours: hours * HOUR_US),
    issued_us=st.integers(0, 3),
)


def bundle(
    number: int, term: int = 1, manifest: bytes = b"a" * 32, expires_us: int = HOUR_US, issued_us: int = 0
) -> InForce:
    return InForce(term, number, manifest, expires_us, issued_us)


@given(st.lists(st.tuples(HEADS, st.booleans()), max_size=30))
def test_what_is_in_force_only_ever_goes_forward(said: list[tuple[InForce, bool]]) -> None:
    follower, fetched = Follower(), list[InForce]()
    for head, arrives in said:
        before = follower.in_force
        if follower.hear(head, 0.0, 0) is Meaning.TAKE:
            fetched.append(head)
        if arrives and fetched:
            follower.take(fetched.pop(0), 0.0, 0)
        after = follower.in_force

        if before is not None:
            assert after is not None
            assert (after.term, after.number) >= (before.term, before.number)
            if (after.term, after.number) == (before.term, before.number):
                assert after.manifest == before.manifest, "the first under a number stays"
                assert after.expires_us >= before.expires_us


@given(HEADS, HEADS)
def test_the_meaning_of_a_head_is_that_of_the_table(held: InForce, head: InForce) -> None:
    newer, same = (head.term, head.number) > (held.term, held.number), head[:2] == held[:2]
    expected = Meaning.TAKE if newer else Meaning.OLD if not same else Meaning.KEEP
    if same and head.manifest != held.manifest:
        expected = Meaning.FORK

    assert Follower(held).hear(head, 0.0, 0) is expected


def test_a_new_term_goes_before_any_number_of_an_old_one() -> None:
    follower = Follower(bundle(99, term=1))

    assert follower.hear(bundle(1, term=2), 0.0, 0) is Meaning.TAKE
    assert follower.take(bundle(1, term=2), 0.0, 0)
    assert follower.hear(bundle(100, term=1), 0.0, 0) is Meaning.OLD


def test_a_bundle_whose_documents_came_late_does_not_replace_a_newer_one() -> None:
    follower = Follower()
    assert follower.hear(bundle(1), 0.0, 0) is follower.hear(bundle(2), 0.0, 0) is Meaning.TAKE

    assert follower.take(bundle(2), 0.0, 0)
    assert not follower.take(bundle(1), 0.0, 0)
    assert follower.in_force == bundle(2)


def test_what_was_kept_on_disk_is_in_force_and_stale_until_a_head_is_heard() -> None:
    follower = Follower(bundle(3))

    assert follower.freshness(0.0, 0) is Freshness.STALE
    assert follower.hear(bundle(3, issued_us=1), 1.0, 0) is Meaning.KEEP
    assert follower.freshness(1.0 + STALE_SECONDS, 0) is Freshness.FRESH
    assert follower.freshness(1.1 + STALE_SECONDS, 0) is Freshness.STALE


def test_a_head_of_another_bundle_proves_nothing_of_the_one_in_force() -> None:
    follower = Follower(bundle(3))
    for other in (bundle(2), bundle(3, manifest=b"b" * 32), bundle(4)):
        follower.hear(other, 1.0, 0)

    assert follower.freshness(1.0, 0) is Freshness.STALE


def test_it_expires_by_the_wall_clock_and_lives_again_with_the_next_head() -> None:
    follower = Follower()
    assert follower.freshness(0.0, 0) is Freshness.NOTHING
    follower.take(bundle(1), 0.0, 0)

    assert follower.freshness(0.0, HOUR_US - 1) is Freshness.FRESH
    assert follower.freshness(0.0, HOUR_US) is Freshness.EXPIRED
    follower.hear(bundle(1, expires_us=2 * HOUR_US, issued_us=1), 0.0, 0)
    assert follower.freshness(0.0, HOUR_US) is Freshness.FRESH


def test_a_recorded_head_does_not_keep_a_policy_fresh() -> None:
    follower = Follower()
    follower.take(bundle(1, issued_us=5), 0.0, 0)

    for later in range(1, 40):
        assert follower.hear(bundle(1, issued_us=5, expires_us=9 * HOUR_US), float(later), 0) is Meaning.KEEP
    assert follower.freshness(39.0, 0) is Freshness.STALE


def test_a_head_that_was_held_back_is_as_old_as_it_is() -> None:
    follower, minutes_us = Follower(), 60_000_000

    follower.take(bundle(1, issued_us=1), 1000.0, 2 * minutes_us)
    assert follower.freshness(1000.0, 0) is Freshness.STALE
    follower.hear(bundle(1, issued_us=3 * minutes_us), 1001.0, 3 * minutes_us)
    assert follower.freshness(1001.0, 0) is Freshness.FRESH
