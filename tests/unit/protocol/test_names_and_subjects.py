"""A name is a token of a subject: one strict pattern, never normalised."""

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.protocol import names
from bus_mesh.protocol.errors import InvalidName
from bus_mesh.protocol.subjects import Subjects

SUBJECTS = Subjects("demo")
HOSTILE = [
    "",
    "*",
    ">",
    "a.b",
    "a b",
    "a\r\nPUB x 0",
    "a\n",
    "Orders",
    "ordérs",
    "оrders",
    "1a",
    "-a",
    "a" * 64,
    "a\0",
    "$SRV",
    "_",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_names_nothing(name: str) -> None:
    assert not (names.is_service(name) or names.is_method(name) or names.is_node(name))
    for check in (names.service_name, names.method_name, names.node_name, names.mesh_name):
        with pytest.raises(InvalidName, match="is not a"):
            check(name)


def test_of_a_hundred_thousand_hostile_names_none_gets_through_that_is_no_name() -> None:
    rng, letters = random.Random(7), string.printable + "éоʼ\u2028\u202e\x00*>."
    allowed = set(string.ascii_lowercase + string.digits + "-_")
    for _ in range(100_000):
        name = "".join(rng.choices(letters, k=rng.randrange(1, 9)))
        if names.is_service(name) or names.is_method(name):
            assert set(name) <= allowed
            assert name[0] in string.ascii_lowercase
            assert SUBJECTS.parse_rpc(SUBJECTS.rpc("a", name)) == (("a", name) if names.is_method(name) else None)


@given(st.from_regex(r"[a-z][a-z0-9-]{0,62}", fullmatch=True), st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True))
def test_what_is_built_of_names_is_taken_apart_into_the_same_names(service: str, method: str) -> None:
    assert SUBJECTS.parse_rpc(SUBJECTS.rpc(service, method)) == (service, method)
    assert SUBJECTS.parse_find(SUBJECTS.find(service, service)) == (service, service)
    assert SUBJECTS.parse_found(SUBJECTS.found(service, service)) == (service, service)


@pytest.mark.parametrize(
    "subject",
    [
        "mesh.demo.rpc.pay.*",
        "mesh.demo.rpc.*.get",
        "mesh.demo.rpc.pay.a.b",
        "mesh.demo.rpc.pay",
        "mesh.other.rpc.pay.get",
        "",
    ],
)
def test_a_literal_wildcard_or_another_mesh_is_no_call(subject: str) -> None:
    assert SUBJECTS.parse_rpc(subject) is None


@pytest.mark.parametrize(
    ("subject", "counter"),
    [
        ("mesh.demo.none.a.b.17", 17),
        ("mesh.demo.none.a.b.x", None),
        ("mesh.demo.none.a.b.²", None),
        ("x." + "9" * 21, None),
    ],
)
def test_the_counter_of_a_503_is_a_short_decimal_number(subject: str, counter: int | None) -> None:
    assert SUBJECTS.parse_none(subject) == counter


def test_a_find_for_everyone_is_told_apart_from_one_for_a_service() -> None:
    assert SUBJECTS.parse_find(SUBJECTS.find_everyone("node-a")) == ("_", "node-a")
