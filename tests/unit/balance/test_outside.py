"""Plain services of NATS say where their endpoints are; whatever they say leads out of the mesh or is not kept."""

import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.balance.outside import FIND_PATIENCE, HELD, SETTLE, Endpoint, Outside

SERVICE = "micro:MinMax"
SUBJECTS = st.one_of(
    st.text(max_size=300),
    st.lists(st.sampled_from(["a", "", "*", ">", "mesh", "$SRV", "_INBOX", "a b", "\u00e9", "a\r\nPUB"])).map(".".join),
)


def info(name: str = "MinMax", **endpoints: Any) -> bytes:
    listed = [{"name": end, "subject": subject} for end, subject in endpoints.items()]
    return json.dumps({"type": "io.nats.micro.v1.info_response", "name": name, "endpoints": listed}).encode()


def asked(now: float = 0.0) -> Outside:
    outside = Outside()
    outside.asked(SERVICE, now)
    return outside


def test_endpoints_are_known_once_the_service_has_said_them() -> None:
    outside = Outside()

    assert outside.due(SERVICE, "min", 0.0)
    assert not outside.learn(SERVICE, info(min="minmax.min"), 0.0), "nobody has asked"
    outside.asked(SERVICE, 1.0)
    assert outside.until(SERVICE) == 1.0 + FIND_PATIENCE
    assert outside.learn(SERVICE, info(min="minmax.min"), 1.5)

    assert outside.endpoint(SERVICE, "min") == Endpoint("minmax.min")
    assert outside.endpoints(SERVICE) == ["min"]
    assert outside.until(SERVICE) == 1.5 + SETTLE
    assert not outside.due(SERVICE, "min", 1.0 + HELD - 0.1)
    assert outside.due(SERVICE, "min", 1.0 + HELD)
    assert outside.due(SERVICE, "max", 1.0 + FIND_PATIENCE), "an endpoint that was not named is asked for anew"


def test_instances_complete_each_other_and_a_new_question_begins_anew() -> None:
    outside = asked()
    assert outside.learn(SERVICE, info(min="one.min"), 0.1)
    assert outside.learn(SERVICE, info(min="two.min", max="two.max"), 0.2)
    assert not outside.learn(SERVICE, info(min="three.min", max="three.max"), 0.3), "nothing new"
    assert outside.endpoint(SERVICE, "min") == Endpoint("one.min")
    assert outside.endpoint(SERVICE, "max") == Endpoint("two.max")

    outside.asked(SERVICE, HELD)
    assert outside.endpoint(SERVICE, "min") == Endpoint("one.min"), "used while it is asked again"
    assert outside.until(SERVICE) == HELD + FIND_PATIENCE, "for an endpoint that may be new there"
    outside.learn(SERVICE, info(min="three.min"), HELD + 0.1)
    assert outside.endpoints(SERVICE) == ["min"]
    assert outside.endpoint(SERVICE, "min") == Endpoint("three.min")

    outside.forget(SERVICE)
    assert outside.endpoint(SERVICE, "min") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"endpoints": 7}',
        info("Other", min="minmax.min"),
        info(min="minmax.min").replace(b"info_response", b"ping_response"),
        info(min=7),
        info(min="mesh.demo.ctl.policy"),
        info(min="$SYS.REQ.x"),
        info(min="_INBOX.a.b"),
        info(min=">"),
        info(min="minmax.*"),
        info(min="minmax..min"),
        info(min="minmax.min\r\nPUB mesh.demo.ctl.policy 0"),
        info(min="m" * 256),
        info(**{"a.b": "minmax.min"}),
        info(min="minmax.min") + b" " * 256 * 1024,
    ],
    ids=range(18),
)
def test_what_is_no_answer_or_leads_elsewhere_is_not_kept(data: bytes) -> None:
    outside = asked()

    assert not outside.learn(SERVICE, data, 0.1)
    assert outside.endpoints(SERVICE) == []


@given(SUBJECTS)
def test_no_subject_that_is_kept_is_a_meshs_or_breaks_a_line(subject: str) -> None:
    outside = asked()
    outside.learn(SERVICE, info(min=subject), 0.1)
    found = outside.endpoint(SERVICE, "min")

    if found is not None:
        first = found.subject.split(".")[0]
        assert found.subject == subject
        assert first != "mesh"
        assert first[0] not in "$_*>"
        assert subject.isascii() and subject.isprintable() and " " not in subject


@pytest.mark.parametrize("each", [1, 200, 1000])
def test_a_service_with_endless_endpoints_is_cut_in_one_answer_and_in_many(each: int) -> None:
    outside, names = asked(), count()
    for _ in range(300):
        outside.learn(SERVICE, info(**{f"e{next(names)}": "minmax.min" for _ in range(each)}), 0.1)

    assert len(outside.endpoints(SERVICE)) == 256


def test_answers_that_come_late_or_without_end_are_not_even_read() -> None:
    outside = asked()
    assert not outside.learn(SERVICE, info(min="minmax.min"), FIND_PATIENCE + 0.1)
    for _ in range(256):
        outside.learn(SERVICE, b"no answer", 0.1)

    assert not outside.learn(SERVICE, info(min="minmax.min"), 0.2)
    outside.asked(SERVICE, 3.0)
    assert outside.learn(SERVICE, info(min="minmax.min"), 3.1)
