"""Documents of plain services of NATS: what may be said of them, and what nobody would keep is refused."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.policy import PolicyError, PolicySet, parse
from bus_mesh.policy.access import Access
from bus_mesh.policy.check import check, check_served
from bus_mesh.policy.models import Service
from bus_mesh.policy.resolved import policy_of
from bus_mesh.protocol import names

PLAIN = """\
kind: Service
name: micro:MinMax
access: {allow: [{from: [web], methods: [Min, "get-*"]}], deny: [{from: [web], methods: [get-it]}]}
traffic: {timeout: 2s, longest_timeout: 3s, retry: {tries: 2}, budget: {ratio: 0.1}}
methods: {Min: {timeout: 1s, idempotent: false, retry: off}}
"""


def refused(text: str) -> str:
    with pytest.raises(PolicyError) as error:
        PolicySet.of(parse(text, "x.yaml"))
    return str(error.value)


def test_a_plain_service_is_governed_by_its_own_document_alone() -> None:
    policy = PolicySet.of(parse(PLAIN, "x.yaml"))
    access = Access(policy)

    assert access.check("web", "micro:MinMax", "Min").allowed
    assert access.check("web", "micro:MinMax", "get-more").allowed
    assert not access.check("web", "micro:MinMax", "get-it").allowed
    assert not access.check("web", "MinMax", "Min").allowed
    assert not access.check("web", "micro:minmax", "Min").allowed
    assert (policy.timeout("micro:MinMax", "Min"), policy.timeout("micro:MinMax", "Max")) == (1.0, 2.0)
    assert policy.retry("micro:MinMax", "Max").tries == 2


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ("envelope: signed", "envelope"),
        ("expose: micro", "expose"),
        ("health: {failures: 2}", "health"),
        ("tap: {payload: true}", "tap"),
        ("traffic: {balance: random}", "traffic.balance"),
        ("traffic: {limit: {concurrency: 1}}", "traffic.limit"),
        ("traffic: {breaker: off}", "traffic.breaker"),
        ("traffic: {mirror: {to: a, percent: 1}}", "traffic.mirror"),
        ("methods: {Min: {rate: [{per: caller, limit: 1/s, burst: 1}]}}", "methods.Min.rate"),
    ],
)
def test_what_nobody_there_would_keep_is_refused_by_name(more: str, path: str) -> None:
    said = refused(f"kind: Service\nname: micro:MinMax\n{more}\n")

    assert f"x.yaml:3: {path}: micro:MinMax is no part of the mesh" in said


@pytest.mark.parametrize("name", ["micro:", "micro:a.b", "micro:*", "micro:a b", "Micro:a", "nats:a"])
def test_names_of_plain_services_are_held_to_their_pattern(name: str) -> None:
    assert "x.yaml:2: name:" in refused(f"kind: Service\nname: '{name}'\n")


@pytest.mark.parametrize("method", ["Get", "get-it", "7", "get-*", "G*"])
def test_services_of_the_mesh_keep_their_names_of_methods(method: str) -> None:
    said = refused(f"kind: Service\nname: a\naccess: {{allow: [{{from: [web], methods: ['{method}']}}]}}\n")
    assert "x.yaml:3: access.allow[0].methods[0]" in said
    assert "names no method" in said

    if "*" not in method:
        assert f"methods.{method}" in refused(f"kind: Service\nname: a\nmethods: {{'{method}': {{}}}}\n")


@given(st.text(max_size=80))
def test_a_rule_of_a_service_of_the_mesh_takes_what_may_be_a_method_of_it(text: str) -> None:
    document = {"kind": "Service", "name": "a", "access": {"allow": [{"from": ["web"], "methods": [text]}]}}
    fits = names.is_method(text) or text == "*" or (text.endswith("*") and names.is_method(text[:-1]))
    try:
        Service.model_validate(document)
    except ValueError:
        assert not fits or len(text) > 63
    else:
        assert fits


def test_findings_are_those_that_make_sense_of_it() -> None:
    documents = parse(PLAIN, "x.yaml")

    assert check(documents, datetime.now(UTC)) == []
    assert check_served(documents, {}) == []


def test_what_holds_is_shown_without_what_does_not_apply() -> None:
    found = policy_of(PolicySet.of(parse(f"{PLAIN}---\nkind: Mesh\nenvelope: signed\n", "x.yaml")), "micro:MinMax")

    assert found is not None
    assert sorted(found["traffic"]) == ["budget", "fault", "longest_timeout", "retry", "timeout"]
    assert found["traffic"]["timeout"] == {"value": "2s", "from": "service"}
