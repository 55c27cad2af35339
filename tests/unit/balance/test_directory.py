"""The directory: what is known of who serves what, and for how long."""

import sys
from math import inf
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.balance.directory import ABSENT_SECONDS, LEAVING_SECONDS, MOST_SERVICES, Directory, Member
from bus_mesh.balance.pick import Picker
from bus_mesh.protocol.frames import Method


class Instance(NamedTuple):
    id: str
    state: str = "up"
    version: str = "1"
    labels: dict[str, str] = {}  # noqa: RUF012 - never changed
    load: int = 0


class Offer(NamedTuple):
    service: str
    instances: tuple[Instance, ...]
    methods: tuple[Method, ...] = ()


@pytest.fixture
def directory() -> Directory[str]:
    directory = Directory[str](draw=lambda n: 0)
    directory.follow("orders")
    return directory


def announce(directory: Directory[str], *instances: Instance, node: str = "a", at: float = 0.0) -> set[str]:
    peer = sys.intern(f"peer-{node}")  # peers are told apart by which object they are
    return directory.update(node, f"boot-{node}", peer, [Offer("orders", instances)], at + 15.0, at)


def test_only_what_is_followed_is_kept(directory: Directory[str]) -> None:
    directory.update("a", "b", "p", [Offer("stock", (Instance("s1"),))], 15.0, 0.0)

    assert directory.view("stock") is None
    assert directory.instances == 0


def test_an_instance_can_be_picked_once_it_is_up(directory: Directory[str]) -> None:
    announce(directory, Instance("i1", "joining"), Instance("i2"))
    view = directory.view("orders")

    assert view is not None
    assert [member.id for member in view.ready] == ["i2"]
    assert view.peers == ["peer-a"], "who joins is sealed for already"


def test_a_beat_is_no_news_and_renews_the_lease(directory: Directory[str]) -> None:
    assert announce(directory, Instance("i1")) == {"orders"}
    assert announce(directory, Instance("i1"), at=10.0) == set()
    assert directory.expire(20.0) == set()
    assert directory.expire(25.0) == {"orders"}
    assert directory.view("orders") is None


def test_a_member_stays_the_same_object_while_it_lives(directory: Directory[str]) -> None:
    announce(directory, Instance("i1"))
    view = directory.view("orders")
    assert view is not None
    view.ready[0].inflight = 3
    announce(directory, Instance("i1", load=9), Instance("i2"), at=1.0)
    after = directory.view("orders")

    assert after is not None
    assert [(member.id, member.inflight, member.load) for member in after.ready] == [("i1", 3, 9), ("i2", 0, 0)]
    assert after.ready[0] is view.ready[0]


def test_a_new_boot_of_a_node_has_new_members(directory: Directory[str]) -> None:
    announce(directory, Instance("i1"))
    directory.update("a", "boot-2", "peer-2", [Offer("orders", (Instance("i9"),))], 15.0, 0.0)
    view = directory.view("orders")

    assert view is not None
    assert ([member.id for member in view.members], view.peers) == (["i9"], ["peer-2"])


def test_while_a_member_is_leaving_calls_go_direct(directory: Directory[str]) -> None:
    announce(directory, Instance("i1"), Instance("i2"))
    announce(directory, Instance("i1", "leaving"), Instance("i2"), at=1.0)
    view = directory.view("orders")

    assert view is not None
    assert view.grouped_from > 1.0
    assert view.grouped_from <= 1.0 + LEAVING_SECONDS
    assert [member.id for member in view.ready] == ["i2"]


@pytest.mark.parametrize("state", ["full", "unwell", "a-word-of-later"])
def test_while_somebody_is_up_those_who_shed_are_not_picked_and_the_broker_goes_on(
    directory: Directory[str], state: str
) -> None:
    announce(directory, Instance("i1"), Instance("i2"))
    announce(directory, Instance("i1", state), Instance("i2"), at=1.0)
    view = directory.view("orders")

    assert view is not None
    assert [member.id for member in view.ready] == ["i2"]
    assert view.grouped_from == 1.0 + LEAVING_SECONDS, "until then the broker may still choose it"
    assert view.peers == ["peer-a"], "what the broker had delivered before is sealed for it too"
    announce(directory, Instance("i1"), Instance("i2"), at=3.0)
    back = directory.view("orders")
    assert back is not None
    assert ([member.id for member in back.ready], back.grouped_from) == (["i1", "i2"], 1.0 + LEAVING_SECONDS)


def test_when_nobody_is_up_the_full_are_picked_and_then_the_unwell_and_never_by_the_broker(
    directory: Directory[str],
) -> None:
    announce(directory, Instance("i1", "unwell"), Instance("i2", "full"), Instance("i3", "joining"))
    view = directory.view("orders")
    assert view is not None
    assert ([member.id for member in view.ready], view.grouped_from) == (["i2"], inf)

    announce(directory, Instance("i1", "unwell"), Instance("i2", "leaving"), at=1.0)
    view = directory.view("orders")
    assert view is not None
    assert ([member.id for member in view.ready], view.grouped_from) == (["i1"], inf)


@given(st.lists(st.sampled_from(["joining", "up", "full", "unwell", "leaving", "other"]), min_size=1, max_size=6))
def test_only_who_is_best_is_ready_and_the_group_is_used_only_for_who_is_up(states: list[str]) -> None:
    directory = Directory[str](draw=lambda n: 0)
    directory.follow("orders")
    announce(directory, *(Instance(f"i{number}", state) for number, state in enumerate(states)))
    view = directory.view("orders")

    assert view is not None
    best = next((state for state in ("up", "full", "unwell") if state in states), "")
    assert [member.state for member in view.ready] == [state for state in states if state == best]
    assert (view.grouped_from == inf) == ("up" not in states)


def test_a_dead_process_is_forgotten_and_no_other(directory: Directory[str]) -> None:
    announce(directory, Instance("i1"), node="a")
    announce(directory, Instance("i2"), node="b")

    assert directory.gone("a", "another boot") == set()
    assert directory.gone("a", "boot-a") == {"orders"}
    view = directory.view("orders")
    assert view is not None
    assert [member.id for member in view.members] == ["i2"]


def test_too_many_agents_do_not_fit_into_one_envelope(directory: Directory[str]) -> None:
    for number in range(17):
        announce(directory, Instance(f"i{number}"), node=f"n{number}")
    view = directory.view("orders")

    assert view is not None
    assert view.grouped_from == inf
    assert len(view.peers) == 17


def test_nobody_there_is_remembered_for_a_moment_and_news_ends_it(directory: Directory[str]) -> None:
    directory.missing("orders", 1.0)
    directory.missing("never-followed", 1.0)

    assert directory.absent("orders", 1.0 + ABSENT_SECONDS / 2)
    assert not directory.absent("orders", 1.0 + ABSENT_SECONDS)
    assert not directory.absent("never-followed", 1.0)
    directory.missing("orders", 2.0)
    announce(directory, Instance("i1"), at=2.0)
    assert not directory.absent("orders", 2.0)


def test_a_million_names_make_no_table_grow() -> None:
    directory = Directory[str](draw=lambda n: 0)
    followed = sum(directory.follow(f"s{number}") for number in range(1_000_000))
    for number in range(100_000):
        directory.missing(f"s{number}", 0.0)

    assert followed == MOST_SERVICES == len(directory.followed) >= len(directory._absent)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sets(st.sampled_from(["i1", "i2", "i3"])), st.booleans()), max_size=30
    )
)
def test_views_are_what_the_last_words_of_all_nodes_add_up_to(steps: list[tuple[str, set[str], bool]]) -> None:
    directory, model = Directory[str](draw=lambda n: 0), dict[str, set[str]]()
    directory.follow("orders")
    for node, ids, dies in steps:
        own = {f"{node}-{id}" for id in ids}
        if dies:
            directory.gone(node, f"boot-{node}")
            model.pop(node, None)
        else:
            announce(directory, *map(Instance, sorted(own)), node=node)
            model[node] = own
    view = directory.view("orders")

    expected = set().union(*model.values()) if model else set()
    assert {member.id for member in view.members} == expected if view else not expected
    assert directory.instances == len(expected)


def members(*inflight: int) -> list[Member[str]]:
    found = [Member("a", "p", "orders", Instance(f"i{number}")) for number in range(len(inflight))]
    for member, number in zip(found, inflight, strict=True):
        member.inflight = number
    return found


def test_round_robin_takes_turns() -> None:
    picker, three = Picker.round_robin(), members(0, 0, 0)

    assert [picker.pick(three, ()).id for _ in range(4)] == ["i0", "i1", "i2", "i0"]  # type: ignore[union-attr]


@given(st.integers(2, 20), st.data())
def test_least_request_never_picks_the_busier_of_its_two(count: int, data: st.DataObject) -> None:
    busy = data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    drawn: list[int] = []

    def draw(n: int) -> int:
        drawn.append(data.draw(st.integers(0, n - 1)))
        return drawn[-1]

    picked = Picker.least_request(draw).pick(members(*busy), ())
    first, second = drawn[0], drawn[1] + (drawn[1] >= drawn[0])

    assert picked is not None
    assert picked.inflight == min(busy[first], busy[second])


def test_an_instance_to_avoid_is_picked_only_when_there_is_no_other() -> None:
    picker, two = Picker.random(lambda n: 0), members(0, 0)

    assert picker.pick(two, ("i0",)) is two[1]
    assert picker.pick(two[:1], ("i0",)) is two[0]
    assert picker.pick([], ()) is None
