"""Consistent hashing with bounded loads, beside a model that looks at every instance."""

import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from hashlib import blake2b
from math import ceil, sqrt
from statistics import pstdev

from balance_world import member, members
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.balance.directory import Member
from bus_mesh.balance.ring import POINTS, Ring

KEYS = [f"user-{number}" for number in range(2000)]
IDS = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=7)
Owners = dict[str, str]


def ring_of(those: list[Member[str]]) -> Ring[Member[str]]:
    ring = Ring[Member[str]]()
    ring.place(those)
    return ring


def owners(ring: Ring[Member[str]]) -> Owners:
    return {key: it.id for key in KEYS if (it := ring.pick(key, 0)) is not None}


def digest(text: str, size: int, person: bytes) -> bytes:
    return blake2b(text.encode(), digest_size=size, person=person).digest()


def order(key: str, those: list[Member[str]]) -> list[Member[str]]:
    """Instances by how far their nearest point is, clockwise from the key."""
    at = int.from_bytes(digest(key, 8, b"key"))

    def distance(it: Member[str]) -> int:
        words = b"".join(digest(f"{it.id} {block}", 64, b"instance") for block in range(POINTS // 8))
        points = [int.from_bytes(words[i : i + 8]) for i in range(0, len(words), 8)]
        return min((point - at - 1) % 2**64 for point in points)

    return sorted(those, key=distance)


@given(IDS, st.text(max_size=8), st.data())
def test_a_key_goes_to_the_next_instance_that_has_room_and_is_not_avoided(
    ids: set[str], key: str, data: st.DataObject
) -> None:
    those = [member(id) for id in sorted(ids)]
    for it in those:
        it.inflight = data.draw(st.integers(0, 6))
    avoid = tuple(data.draw(st.sets(st.sampled_from(sorted(ids)))))
    total = sum(it.inflight for it in those)
    most = Fraction(5, 4) * Fraction(total + 1, len(those))
    offered = order(key, those)
    others = [it for it in offered if it.id not in avoid]
    room = [it for it in others if it.inflight + 1 <= ceil(most)]

    assert ring_of(those).pick(key, total, avoid) is (room or others or offered)[0]


@given(st.integers(1, 12), st.lists(st.sampled_from(KEYS[:5]), max_size=200))
def test_no_instance_ever_takes_more_than_its_bound(count: int, keys: list[str]) -> None:
    those = members(count)
    ring = ring_of(those)
    for total, key in enumerate(keys):
        it = ring.pick(key, total)
        assert it is not None
        it.inflight += 1

        assert it.inflight <= ceil(Fraction(5, 4) * Fraction(total + 1, count))


def test_keys_move_only_from_who_leaves_and_only_to_who_comes() -> None:
    those = members(20)
    ring = ring_of(those)
    before = owners(ring)
    for leaving in those:
        ring.place([it for it in those if it is not leaving])
        after = owners(ring)
        moved = [key for key in KEYS if after[key] != before[key]]

        assert {before[key] for key in moved} == {leaving.id}
        assert leaving.id not in after.values()
        assert len(moved) <= len(KEYS) / 20 * (1 + 4 / sqrt(POINTS)), "a twentieth, give or take four deviations"

        ring.place(those)
        assert owners(ring) == before


@given(st.lists(st.sets(st.sampled_from("abcdef")), min_size=1, max_size=6), st.sampled_from(KEYS))
def test_a_ring_that_changed_is_the_ring_that_is_made_anew(history: list[set[str]], key: str) -> None:
    changed = Ring[Member[str]]()
    for ids in history:
        those = [member(id) for id in ids]
        changed.place(those)

    assert changed.pick(key, 0) is ring_of(those[::-1]).pick(key, 0), "in any order, and the very objects of the last"
    assert repr(changed) == f"Ring(instances={len(those)}, points={POINTS * len(those)})"


def test_an_empty_ring_picks_nobody() -> None:
    ring = ring_of(members(3))
    ring.place([])

    assert ring.pick("k", 0) is None
    assert repr(ring) == "Ring(instances=0, points=0)"


def test_shares_of_the_keys_deviate_as_the_number_of_points_says() -> None:
    counted = Counter(owners(ring_of(members(20))).values())

    assert len(counted) == 20
    assert pstdev(counted.values()) <= 2 * len(KEYS) / 20 / sqrt(POINTS)


def test_every_process_places_keys_alike() -> None:
    script = "from test_ring import *; print(sorted(owners(ring_of(members(5))).items()))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    seen = {
        subprocess.run(
            [sys.executable, "-c", script], env={**env, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }

    assert seen == {f"{sorted(owners(ring_of(members(5))).items())}\n".encode()}
