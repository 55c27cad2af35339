"""What is allowed to be written and hardly meant has a finding with a stable code, and what is meant has none."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.policy import parse
from bus_mesh.policy.check import Finding, Served, Severity, _within, check, check_served
from bus_mesh.policy.match import matches

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ALLOW = "access: {allow: [{from: [web], methods: [get]}]}\n"


def findings(text: str) -> list[Finding]:
    return check(parse(text, "p.yaml", whole=True), NOW)


def said(body: str) -> list[tuple[str, str]]:
    return [(finding.code, finding.path) for finding in findings("kind: Service\nname: orders\n" + body)]


def test_a_plain_policy_has_no_findings() -> None:
    assert said(ALLOW + "traffic: {timeout: 2s, retry: {tries: 3}, budget: {ratio: 0.2}}") == []
    assert findings("kind: Mesh\naccess: {default: deny}") == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("access: {deny: [{from: [a], methods: [b]}]}", [("NOBODY_ALLOWED", "access")]),
        (
            "access: {allow: [{from: [web], methods: [get]}], deny: [{from: ['w*'], methods: ['*']}]}",
            [("RULE_UNREACHABLE", "access.allow[0]")],
        ),
        (
            "access: {allow: [{from: ['*'], methods: ['get*']}, {from: [a, b], methods: [get_all]}]}",
            [("RULE_REPEATED", "access.allow[1]")],
        ),
        (
            "access: {allow: [{from: [web], methods: [get]}], deny: [{from: [web], methods: [create]}]}",
            [],
        ),
        ("access: {allow: [{from: [web], methods: [get]}], mode: audit}", [("AUDIT", "access.mode")]),
        (ALLOW + "traffic: {budget: {ratio: 0, floor_per_second: 0}}", [("BUDGET_ZERO", "traffic.budget")]),
        (ALLOW + "traffic: {retry: off, budget: {ratio: 0, floor_per_second: 0}}", []),
        (ALLOW + "traffic: {timeout: 100ms, retry: {pause: 1s}}", [("RETRY_PAST_DEADLINE", "traffic.retry")]),
        (ALLOW + "traffic: {timeout: 100ms, retry: {tries: 1, pause: 1s}}", []),
        (ALLOW + 'traffic: {split: {"1": 1, "2": 0}}', [("SPLIT_ZERO", "traffic.split.2")]),
        (
            ALLOW + "traffic: {fault: {delay: 1s, percent: 5, until: 2026-05-01T00:00:00Z}}",
            [("FAULT_OVER", "traffic.fault")],
        ),
        (ALLOW + "traffic: {fault: {delay: 1s, percent: 5, until: 2026-07-01T00:00:00Z}}", []),
        (ALLOW + "methods: {create: {idempotent: false}}", [("QUEUE_NOT_IDEMPOTENT", "methods.create")]),
        (ALLOW + "methods: {create: {idempotent: false, balance: least_request}}", []),
    ],
)
def test_each_kind_of_finding_is_made_where_it_should_and_nowhere_else(
    body: str, expected: list[tuple[str, str]]
) -> None:
    assert said(body) == expected


def test_a_finding_is_one_line_with_its_place_severity_and_code() -> None:
    (finding,) = findings("---\nkind: Service\nname: orders\naccess: {deny: [{from: [a], methods: [b]}]}")

    assert finding.severity is Severity.WARNING
    assert str(finding) == "p.yaml:2: warning NOBODY_ALLOWED: access: no rule allows anybody to call orders"


PATTERNS = st.from_regex(r"[ab]{1,3}\*?|\*", fullmatch=True)


@given(PATTERNS, PATTERNS, st.from_regex(r"[ab]{1,5}", fullmatch=True))
def test_what_fits_a_covered_pattern_fits_the_covering_one(narrow: str, wide: str, name: str) -> None:
    if _within(narrow, wide) and matches(narrow, name):
        assert matches(wide, name)


SERVED = {"orders": Served(frozenset({"get", "list_all"}), frozenset({"1.4.0"}), frozenset({"track=stable"}))}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("access: {allow: [{from: [web], methods: [get, 'list*', '*']}]}", []),
        ("access: {allow: [{from: [web], methods: [gett]}]}", [("METHOD_UNKNOWN", "access.allow[0]")]),
        ("access: {deny: [{from: [web], methods: ['pay*']}]}", [("METHOD_UNKNOWN", "access.deny[0]")]),
        ("methods: {create: {timeout: 1s}}", [("METHOD_UNKNOWN", "methods.create")]),
        ("traffic: {split: {'1': 90, track=stable: 10}}", []),
        ("traffic: {split: {'1': 90, '2': 10}}", [("SPLIT_UNSERVED", "traffic.split.2")]),
    ],
)
def test_what_fits_nothing_that_is_served_is_pointed_out(text: str, found: list[tuple[str, str]]) -> None:
    documents = parse(f"kind: Service\nname: orders\n{text}\n", "x", whole=True)

    assert [(finding.code, finding.path) for finding in check_served(documents, SERVED)] == found


def test_a_service_that_nobody_serves_is_only_told() -> None:
    documents = parse("kind: Service\nname: ghost\n---\nkind: Mesh\n", "x")

    assert [(finding.code, finding.severity) for finding in check_served(documents, SERVED)] == [
        ("NOT_SERVED", Severity.INFO)
    ]
