"""How many calls a second a key may make, and how little is remembered of it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bus_mesh.policy import traffic
from bus_mesh.resilience.rate import TokenBuckets


def rate(limit: str = "4/s", burst: int = 3) -> traffic.Rate:
    return traffic.Rate.model_validate({"per": "caller", "limit": limit, "burst": burst})


class Bucket:
    """A bucket that is refilled, as a textbook has it."""

    def __init__(self, per_second: float, burst: int, now: float) -> None:
        self.per_second, self.burst, self.tokens, self.at = per_second, burst, float(burst), now

    def take(self, now: float) -> float:
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.per_second)
        self.at = now
        if self.tokens >= 1.0:
            self.tokens -= 1.0
            return 0.0
        return (1.0 - self.tokens) / self.per_second


# Sixty-fourths of a second and a rate of 4/s, so that both sum up without rounding.
STEPS = st.lists(st.tuples(st.integers(0, 40).map(lambda n: n / 64), st.sampled_from("abcdef")), max_size=150)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.integers(1, 5))
def test_it_answers_as_buckets_that_are_refilled(steps: list[tuple[float, str]], burst: int) -> None:
    buckets, reference, now = TokenBuckets(rate(burst=burst)), dict[str, Bucket](), 100.0
    for passed, key in steps:
        now += passed
        expected = reference.setdefault(key, Bucket(4.0, burst, now)).take(now)

        assert abs(buckets.take(key, now) - expected) < 1e-5


@settings(max_examples=200, deadline=None)
@given(STEPS, st.integers(1, 5))
def test_with_few_places_nobody_gets_more_and_memory_is_bounded(steps: list[tuple[float, str]], burst: int) -> None:
    buckets, reference, now = TokenBuckets(rate(burst=burst), most_keys=2), dict[str, Bucket](), 100.0
    for passed, key in steps:
        now += passed
        bucket = reference.setdefault(key, Bucket(4.0, burst, now))
        before = bucket.tokens, bucket.at

        delay = buckets.take(key, now)
        expected = bucket.take(now)

        if delay > 0.0 and expected == 0.0:  # refused for want of a place: then two others owe tokens
            bucket.tokens, bucket.at = before
            owing = [other for other in reference.values() if other.tokens + (now - other.at) * 4.0 < burst]
            assert len(owing) == 2
            assert bucket not in owing
        else:
            assert abs(delay - expected) < 1e-5
        assert len(buckets._full_at) <= 2


@settings(max_examples=200, deadline=None)
@given(
    st.floats(0.0, 1e7),
    st.sampled_from(["100/s", "7/m", "3/h", "1000000/s", "33.3/s"]),
    st.integers(1, 300),
)
def test_the_whole_burst_is_there_and_who_waits_as_told_is_let_in(now: float, limit: str, burst: int) -> None:
    buckets = TokenBuckets(rate(limit, burst))

    assert not any(buckets.take("web", now) for _ in range(burst))
    delay = buckets.take("web", now)
    if delay > 0.0:
        assert buckets.take("web", now + delay) == 0.0


def test_names_that_strangers_make_up_drive_nobody_out_who_owes() -> None:
    buckets = TokenBuckets(rate(), most_keys=100)
    for _ in range(3):
        buckets.take("greedy", 0.0)

    refused = sum(buckets.take(f"made-up-{number}", number / 10_000) > 0.0 for number in range(2000))

    assert refused == 2000 - 99
    assert buckets.take("greedy", 0.2) > 0.0
    assert buckets.take("made-up-5000", 0.26) == 0.0
    assert repr(buckets) == "TokenBuckets(keys=100)"
