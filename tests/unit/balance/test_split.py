"""Splits: whose turn it is by weight, who keeps a key, and what happens to the calls of a subset that is missing."""

from collections import Counter
from fractions import Fraction
from hashlib import blake2b

import pytest
from balance_world import member
from hypothesis import example, given
from hypothesis import strategies as st

from bus_mesh.balance.directory import Member
from bus_mesh.balance.ring import Ring
from bus_mesh.balance.split import Chosen, Split, Subsets, fits

NAMES = ("1", "2", "10", "track=canary")
WEIGHTS = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 1_000_000), min_size=1).filter(
    lambda weights: any(weights.values())
)
ROLLS = st.floats(0.0, 1.0, exclude_max=True)
KEYS = [f"user-{number}" for number in range(2000)]


def one(name: str) -> Member[str]:
    """An instance of one subset alone."""
    return member(name, "0.1", track="canary") if "=" in name else member(name, f"{name}.4.2")


def subsets(weights: dict[str, int], present: set[str]) -> Subsets[Member[str]]:
    return Split(weights).subsets([one(name) for name in sorted(present)])


def said(chosen: Chosen[Member[str]]) -> tuple[list[str], str | None]:
    return [it.id for it in chosen.members], chosen.missing


def never() -> float:
    raise AssertionError("a key leaves nothing to chance")


def reference(weights: dict[str, int], present: set[str], place: Fraction) -> tuple[list[str], str | None]:
    """Walk the shares in order, in fractions; in a missing one walk the present shares by the place within it."""
    missing, names = None, sorted(weights)
    while names:
        at = place * sum(weights[name] for name in names)
        for name in names:
            if at < weights[name]:
                break
            at -= weights[name]
        if name in present:
            return [name], missing
        missing, place = name, at / weights[name]
        names = [name for name in names if name in present and weights[name]]
    return [], missing


@given(WEIGHTS, st.sets(st.sampled_from(NAMES)), st.integers(0, 2**20 - 1))
def test_a_roll_chooses_the_subset_that_has_its_place(weights: dict[str, int], present: set[str], roll: int) -> None:
    place = Fraction(2 * roll + 1, 2**21)
    near = [reference(weights, present, place + off * Fraction(1, 2**40)) for off in (-1, 0, 1)]

    assert said(subsets(weights, present).choose(None, lambda: float(place))) in near, "floats may differ at a border"


@given(WEIGHTS, st.sets(st.sampled_from(NAMES)), ROLLS)
@example({"1": 3, "2": 999_999, "track=canary": 7}, {"1", "track=canary"}, (3 + 999_999) / 1_000_009 - 2**-53)
@example({"1": 999_999, "2": 3}, {"1"}, 1 - 2**-53)
def test_no_call_goes_to_a_subset_without_weight_and_each_goes_to_one_with_it(
    weights: dict[str, int], present: set[str], roll: float
) -> None:
    ids, missing = said(subsets(weights, present).choose(None, lambda: roll))
    able = {name for name in present if weights.get(name)}

    assert (set(ids) <= able) and bool(ids) is bool(able)
    assert missing is None or (weights[missing] > 0 and missing not in present)


@given(WEIGHTS, st.sets(st.sampled_from(NAMES)), st.text())
def test_a_key_keeps_its_subset_whatever_order_weights_are_written_in(
    weights: dict[str, int], present: set[str], key: str
) -> None:
    place = Fraction(int.from_bytes(blake2b(key.encode(), digest_size=8, person=b"split").digest()) >> 11, 2**53)
    turned = dict(reversed(weights.items()))

    first = said(subsets(weights, present).choose(key, never))

    assert first == said(subsets(turned, present).choose(key, never))
    assert first == said(subsets(weights, present).choose(None, lambda: float(place)))


@given(st.lists(st.integers(1, 1_000_000), min_size=4, max_size=4), st.sampled_from(NAMES), st.sampled_from(KEYS))
def test_only_the_calls_of_a_missing_subset_move(each: list[int], gone: str, key: str) -> None:
    weights = dict(zip(NAMES, each, strict=True))
    before = said(subsets(weights, set(NAMES)).choose(key, never))
    after = said(subsets(weights, set(NAMES) - {gone}).choose(key, never))

    if before == ([gone], None):
        assert after[0] != [gone]
        assert after[1] == gone
    else:
        assert after == before


def test_keys_are_shared_by_weight_and_those_of_a_missing_subset_by_the_weights_of_the_others() -> None:
    weights = {"1": 50, "2": 30, "track=canary": 20}
    full = Counter(said(subsets(weights, set(weights)).choose(key, never))[0][0] for key in KEYS)
    left = Counter(said(subsets(weights, {"2", "track=canary"}).choose(key, never))[0][0] for key in KEYS)

    assert {name: round(count / len(KEYS), 1) for name, count in full.items()} == {
        "1": 0.5,
        "2": 0.3,
        "track=canary": 0.2,
    }
    assert {name: round(count / len(KEYS), 1) for name, count in left.items()} == {"2": 0.6, "track=canary": 0.4}


def test_the_keys_of_a_small_subset_use_all_of_its_ring() -> None:
    chosen = subsets({"1": 95, "2": 5}, {"1", "2"})
    ring = Ring[Member[str]]()
    ring.place([member(f"i{number}") for number in range(5)])
    canary = [key for key in KEYS if said(chosen.choose(key, never))[0] == ["2"]]
    counted = Counter(it.id for key in canary if (it := ring.pick(key, 0)) is not None)

    assert len(counted) == 5
    assert max(counted.values()) < len(canary) / 2


@pytest.mark.parametrize("weights", [{}, {"1": 0}, {"1": 0, "track=canary": 0}])
def test_weights_that_sum_to_0_are_refused(weights: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="all weights are 0"):
        Split(weights)


@pytest.mark.parametrize(
    ("version", "name", "fit"),
    [
        ("1.2.0", "1", True),
        ("1", "1", True),
        ("10.0", "1", False),
        ("1.2.0", "2", False),
        ("", "0", False),
        ("1.2.0", "track=canary", True),
        ("1.2.0", "track=stable", False),
        ("1.2.0", "zone=canary", False),
    ],
)
def test_who_belongs_to_a_subset(version: str, name: str, fit: bool) -> None:
    assert fits(member("a", version, track="canary"), name) is fit


def test_a_roll_on_a_border_is_the_next_subset_s() -> None:
    halves = subsets({"1": 7, "2": 7}, {"1", "2"})

    assert said(halves.choose(None, lambda: 0.5 - 2**-53)) == (["1"], None)
    assert said(halves.choose(None, lambda: 0.5)) == (["2"], None)


def test_an_instance_can_be_in_several_subsets() -> None:
    both = member("both", "1.0", track="canary")
    chosen = Split({"1": 1, "track=canary": 1}).subsets([both])

    assert repr(chosen) == "Subsets({'1': 1, 'track=canary': 1})"
