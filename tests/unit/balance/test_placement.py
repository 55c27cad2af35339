"""Placement beside a short reference: split, then locality, then a key or the picker; and what keys are promised."""

from collections.abc import Callable
from math import ceil, sqrt
from typing import NamedTuple

import pytest
from balance_world import Announced, member
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.balance.directory import Member, Tally, View
from bus_mesh.balance.locality import Locality
from bus_mesh.balance.pick import Picker
from bus_mesh.balance.placement import KEY_MISSING, SUBSET_MISSING, Placement
from bus_mesh.balance.ring import POINTS, Ring
from bus_mesh.balance.split import Split, fits

KEYS = [f"user-{number}" for number in range(1000)]
ROLLS = st.floats(0.0, 1.0, exclude_max=True)
SPLITS = st.none() | st.dictionaries(st.sampled_from(["1", "2", "track=canary"]), st.integers(0, 9), min_size=1).filter(
    lambda weights: any(weights.values())
)


class Way(NamedTuple):
    """What policy says, with the roll that every call gets."""

    hashed: bool = False
    split: dict[str, int] | None = None
    spill_below: float | None = None
    roll: float = 0.5

    def placement(self, told: Callable[[str], None] = lambda why: None) -> Placement[Member[str]]:
        return Placement(
            Picker("first", lambda members: members[0]),
            lambda: self.roll,
            hashed=self.hashed,
            split=Split(self.split) if self.split else None,
            locality=Locality("zone", "a", self.spill_below) if self.spill_below is not None else None,
            astray=told,
        )


WAYS = st.builds(Way, st.booleans(), SPLITS, st.none() | st.sampled_from([0.0, 50.0, 100.0]), ROLLS)


@st.composite
def services(draw: st.DrawFn) -> list[Member[str]]:
    """Instances of up to two versions in up to two zones, with calls under way."""
    tally = Tally()
    found = []
    for number in range(draw(st.integers(1, 6))):
        labels = {"zone": draw(st.sampled_from("ab"))} | ({"track": "canary"} if draw(st.booleans()) else {})
        said = Announced(f"i{number}", draw(st.sampled_from(["1.0", "2.3"])), labels)
        made = Member(f"n{number}", "peer", "orders", said, tally)
        for _ in range(draw(st.integers(0, 3))):
            made.begin()
        found.append(made)
    return found


def candidates(
    way: Way, those: list[Member[str]], fit: list[Member[str]], avoid: tuple[str, ...]
) -> list[list[Member[str]]]:
    """All the lists that a call may be picked from, whatever is rolled: one part of the split, one level of it."""
    parts = [(those, fit)]
    if way.split:
        named = [name for name, weight in way.split.items() if weight]
        parts = [([it for it in those if fits(it, name)], [it for it in fit if fits(it, name)]) for name in named]
    parts = [part for part in parts if part[1]]
    if way.spill_below is None:
        return [part for _, part in parts]
    levels = []
    for known, part in parts:
        near_known = [it for it in known if it.labels.get("zone") == "a"]
        near = [it for it in part if it in near_known]
        far = [it for it in part if it not in near]
        enough = bool(near) and len(near) / len(near_known) >= way.spill_below / 100
        tried = [level for level in (near, far) if level and all(it.id in avoid for it in level)]
        if near and far and len(tried) == 1:  # who has just failed is left for the other level
            levels += [far if tried == [near] else near]
        elif len(tried) == 2 or not (enough or not far):
            levels += [near, far] if near else [far]
        else:
            levels += [near]
    return levels


@given(st.data(), WAYS, services(), st.none() | st.sampled_from(KEYS[:9]), st.none() | st.sampled_from(KEYS[:9]))
def test_a_call_goes_to_one_of_its_part_then_its_level_and_by_its_key_or_the_picker(
    data: st.DataObject, way: Way, those: list[Member[str]], key: str | None, once: str | None
) -> None:
    fit = [it for it in those if data.draw(st.booleans())] or those
    avoid = tuple(data.draw(st.sets(st.sampled_from([it.id for it in those]))))
    told: list[str] = []
    placement = way.placement(told.append)
    placement.place(those, fit)
    chosen = placement.choose(key, avoid, once)
    by = key if way.hashed and key is not None else once
    lists = candidates(way, those, fit, avoid)

    if not lists:
        assert chosen is None
        return
    expected = set()
    for found in lists:
        if by is None:
            expected.add(([it for it in found if it.id not in avoid] or found)[0].id)
        else:
            ring = Ring[Member[str]]()
            ring.place(found)
            picked = ring.pick(by, sum(it.inflight for it in found) if once is None else None, avoid)
            assert picked is not None
            expected.add(picked.id)
    assert chosen is not None
    assert chosen.id in expected
    assert (KEY_MISSING in told) is (way.hashed and by is None)


@given(WAYS, services(), st.sampled_from(KEYS), ROLLS)
def test_a_key_stays_whatever_is_rolled(way: Way, those: list[Member[str]], key: str, roll: float) -> None:
    """With `hash`, one key goes to one instance, near or far; in a split any key stays in its part."""
    chosen = []
    for each in (way, way._replace(roll=roll)):
        placement = each.placement()
        placement.place(those, those)
        chosen.append(placement.choose(key))

    if way.hashed:
        assert chosen[0] is chosen[1]
    elif way.split and (found := [it for it in chosen if it is not None]):
        named = [name for name, weight in way.split.items() if weight]
        assert len(found) == 2
        assert any(fits(found[0], name) and fits(found[1], name) for name in named)


@given(st.data(), WAYS, services(), st.sampled_from(KEYS), st.none() | st.sampled_from(KEYS), ROLLS)
def test_the_same_idempotency_key_comes_to_the_same_instance_however_busy_that_is(
    data: st.DataObject, way: Way, those: list[Member[str]], once: str, key: str | None, roll: float
) -> None:
    placement = way.placement()
    placement.place(those, those)
    first = placement.choose(key, (), once)
    for it in those:
        for _ in range(data.draw(st.integers(0, 9))):
            it.begin()
    again = way._replace(roll=roll).placement()
    again.place(those[::-1], those[::-1])

    assert again.choose(key, (), once) is first


def service(count: int, version: Callable[[int], str] = lambda number: "1.0", **labels: str) -> list[Member[str]]:
    tally = Tally()
    return [
        Member(f"n{number}", "peer", "orders", Announced(f"i{number}", version(number), labels), tally)
        for number in range(count)
    ]


def placed(placement: Placement[Member[str]], kind: str = "key") -> dict[str, str]:
    found = {key: placement.choose(key) if kind == "key" else placement.choose(None, (), key) for key in KEYS}
    return {key: it.id for key, it in found.items() if it is not None}


@pytest.mark.parametrize("kind", ["key", "once"])
@pytest.mark.parametrize("split", [None, {"1": 1}, {"1": 3, "2": 1}])
def test_when_an_instance_leaves_only_its_own_keys_move(kind: str, split: dict[str, int] | None) -> None:
    those = service(20, lambda number: "2.0" if split and len(split) > 1 and number >= 15 else "1.0")
    placement = Way(hashed=True, split=split).placement()
    placement.place(those, those)
    before = placed(placement, kind)
    for leaving in (those[0], those[17]):
        left = [it for it in those if it is not leaving]
        placement.place(left, left)
        after = placed(placement, kind)
        moved = [key for key in KEYS if after[key] != before[key]]

        assert {before[key] for key in moved} == {leaving.id}
        assert len(moved) <= ceil(len(KEYS) / 20 * (1 + 4 / sqrt(POINTS)))
        placement.place(those, those)
        assert placed(placement, kind) == before


def test_a_key_whose_instance_has_a_quarter_more_than_the_average_goes_to_the_next_one() -> None:
    those = service(4)
    placement = Way(hashed=True).placement()
    placement.place(those, those)
    owner = placement.choose("k")
    assert owner is not None
    for _ in range(8):
        owner.begin()
    other = placement.choose("k")

    assert other is not owner
    assert placement.choose("k", (), "once") is owner


@pytest.mark.parametrize("split", [None, {"1": 1}])
def test_the_bound_is_that_of_those_a_call_may_go_to(split: dict[str, int] | None) -> None:
    """Calls at instances of another version leave no room at these."""
    those = service(4, lambda number: "1.0" if number < 2 else "2.0")
    placement = Way(hashed=True, split=split).placement()
    placement.place(those, those)
    for it in those[2:]:
        for _ in range(100):
            it.begin()
    taken = [placement.choose("k") for _ in range(1)]
    while len(taken) < 12:
        last = taken[-1]
        assert last is not None
        last.begin()
        taken.append(placement.choose("k"))

    assert len({it.id for it in taken if it is not None}) == (2 if split else 1)


def test_what_has_no_key_goes_by_the_picker_and_is_counted() -> None:
    told: list[str] = []
    placement = Way(hashed=True).placement(told.append)
    those = service(3)
    placement.place(those, those)

    assert placement.choose(None) is those[0]
    assert placement.choose("k", (), None) is not None
    assert placement.choose(None, (), "once") is not None
    assert told == [KEY_MISSING]


def test_calls_of_a_part_that_has_nobody_go_to_the_others_and_are_counted() -> None:
    told: list[str] = []
    placement = Way(split={"1": 1, "2": 1}, roll=0.1).placement(told.append)
    those = service(3, lambda number: "2.0")
    placement.place(those, those)

    assert placement.choose(None) is those[0]
    assert told == [SUBSET_MISSING]


def test_where_no_part_has_anybody_there_is_nobody() -> None:
    told: list[str] = []
    for way in (Way(split={"3": 1}), Way(split={"3": 1}, spill_below=70.0), Way(True, {"3": 1}, 70.0)):
        placement = way.placement(told.append)
        those = service(3)
        placement.place(those, those)

        assert [placement.choose(None), placement.choose("k"), placement.choose(None, (), "once")] == [None] * 3
        assert placement.reached(View("orders", those, {}, 0.0)) == []
    assert told.count(SUBSET_MISSING) == 9


def test_a_part_that_is_full_is_called_only_when_no_part_has_anybody_who_is_not() -> None:
    placement = Way(split={"1": 1, "2": 1}).placement(lambda why: None)
    one, two, other = service(3, lambda number: ("1.0", "2.0", "3.0")[number])

    for states, picked in ((("up", "full"), [one]), (("full", "full"), [one, two]), (("unwell", "full"), [two])):
        one.state, two.state = states
        assert placement.reached(View("orders", [one, two, other], {}, 0.0)) == picked


def test_what_is_avoided_is_taken_when_there_is_no_other() -> None:
    one = [member("i0")]
    for hashed in (False, True):
        placement = Way(hashed=hashed).placement()
        placement.place(one, one)

        assert placement.choose("k", ("i0",)) is one[0]
        assert placement.choose("k", ("i0",), "once") is one[0]


def test_a_try_that_failed_near_goes_far_when_all_near_ones_are_to_be_avoided() -> None:
    near, far = member("i0", zone="a"), member("i1", zone="b")
    for hashed in (False, True):
        placement = Way(hashed=hashed, spill_below=70.0).placement()
        placement.place([near, far], [near, far])

        assert placement.choose("k") is near
        assert placement.choose("k", ("i0",)) is far


@pytest.mark.parametrize(
    ("way", "said"),
    [
        (Way(), "first"),
        (Way(hashed=True), "hash"),
        (Way(True, {"1": 9, "2": 0}, 70.0), "Split({'1': 9}) > Locality(zone=a, spill_below=70%) > hash"),
    ],
)
def test_it_shows_the_order_in_which_it_decides(way: Way, said: str) -> None:
    assert repr(way.placement()) == said
