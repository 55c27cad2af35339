"""What is allowed to be written and hardly meant has a finding with a stable code, and what is meant has none."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.policy import PolicyError, parse
from bus_mesh.policy.check import Finding, Served, Severity, check, check_served
from bus_mesh.policy.match import matches, overlap, within

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
        (ALLOW + "traffic: {locality: {prefer: zone}}\nmethods: {create: {idempotent: false}}", []),
        (ALLOW + "traffic: {timeout: 1s, retry: {tries: 5, pause: 100ms}}", [("RETRY_PAST_DEADLINE", "traffic.retry")]),
        (ALLOW + "traffic: {timeout: 2s, retry: {tries: 5, pause: 100ms}}", []),
        (ALLOW + "traffic: {timeout: 1s, retry: {tries: 5, pause: 100ms, longest_pause: 200ms}}", []),
        (
            ALLOW + "traffic: {retry: {pause: 100ms}}\nmethods: {get: {timeout: 50ms}, list: {timeout: 1s}}",
            [("RETRY_PAST_DEADLINE", "methods.get.timeout")],
        ),
        (ALLOW + "traffic: {timeout: 20ms}", []),
        (ALLOW + "traffic: {breaker: off}", [("BREAKER_OFF", "traffic.breaker")]),
        (ALLOW + "traffic: {breaker: off, retry: off}", []),
        (ALLOW + "traffic: {retry: off}\nmethods: {get: {breaker: off}}", []),
        (ALLOW + "traffic: {balance: {hash: key}}", [("HASH_KEY", "traffic.balance")]),
        (
            ALLOW + "traffic: {balance: {hash: key}, locality: {prefer: zone}}",
            [("HASH_KEY", "traffic.balance"), ("HASH_LOCALITY", "traffic.balance")],
        ),
        (
            ALLOW + 'traffic: {split: {"1": 9, "2": 1}}\nmethods: {get: {balance: {hash: metadata.user}}}',
            [("HASH_KEY", "methods.get.balance"), ("HASH_SPLIT", "methods.get.balance")],
        ),
        (ALLOW + 'traffic: {split: {"1": 9, "2": 1}, locality: {prefer: zone}}', []),
        (ALLOW + 'traffic: {split: {"1": 100}}', [("SPLIT_ONE", "traffic.split.1")]),
        (
            ALLOW + "traffic: {fault: {abort: unavailable, percent: 100, until: 2026-07-01T00:00:00Z}}",
            [("FAULT_TOTAL", "traffic.fault")],
        ),
        (
            ALLOW + "traffic: {fault: {delay: 1s, percent: 100, until: 2026-05-01T00:00:00Z}}",
            [("FAULT_OVER", "traffic.fault")],
        ),
        (ALLOW + "traffic: {limit: {concurrency: 500}, rate: [{per: caller, limit: 1/s, burst: 1}]}", []),
    ],
)
def test_each_kind_of_finding_is_made_where_it_should_and_nowhere_else(
    body: str, expected: list[tuple[str, str]]
) -> None:
    assert said(body) == expected


MIRRORED = "access: {allow: [{from: [web, cli], methods: [get, create]}]}\ntraffic: {mirror: {to: next, percent: 10}}\n"


@pytest.mark.parametrize(
    ("access", "refused"),
    [
        ("{allow: [{from: [web, cli], methods: ['*']}]}", None),
        ("{allow: [{from: ['*'], methods: [get]}]}", None),
        ("{allow: [{from: [web], methods: [get]}]}", "allows cli:"),
        ("{allow: [{from: ['*'], methods: [other]}]}", "allows cli, web:"),
        ("{allow: [{from: ['*'], methods: ['*']}], deny: [{from: [web], methods: ['*']}]}", "allows web:"),
        ("{mode: audit, allow: [{from: [web], methods: [get]}]}", None),
    ],
)
def test_copies_that_the_other_service_would_refuse_are_pointed_out(access: str, refused: str | None) -> None:
    text = f"kind: Service\nname: orders\n{MIRRORED}---\nkind: Service\nname: next\naccess: {access}\n"

    told = [finding for finding in findings(text) if finding.code == "MIRROR_DENIED"]

    assert [finding.path for finding in told] == ([] if refused is None else ["traffic.mirror"])
    assert refused is None or refused in told[0].message


def test_a_mirror_to_what_has_no_document_is_denied_and_one_of_a_method_is_checked_for_that_method() -> None:
    own = "methods: {get: {mirror: {to: next, percent: 1}}, create: {mirror: {to: next, percent: 0}}}\n"
    access = "access: {allow: [{from: [web], methods: [get]}, {from: [cli], methods: [create]}]}\n"
    other = "---\nkind: Service\nname: next\naccess: {allow: [{from: [web], methods: ['*']}]}\n"

    assert said(MIRRORED) == [("MIRROR_DENIED", "traffic.mirror")]
    assert said(access + own + other) == []
    assert said(access + own) == [("MIRROR_DENIED", "methods.get.mirror")]


def test_copies_of_what_is_not_idempotent_are_pointed_out_unless_none_are_made() -> None:
    other = "---\nkind: Service\nname: next\naccess: {allow: [{from: [web, cli], methods: ['*']}]}\n"
    once = "methods: {create: {idempotent: false, balance: random%s}}\n"

    assert said(MIRRORED + once % "" + other) == [("MIRROR_NOT_IDEMPOTENT", "methods.create")]
    assert said(MIRRORED + once % ", mirror: {to: next, percent: 0}" + other) == []


def test_a_service_that_mirrors_to_itself_is_refused() -> None:
    for body in ("traffic: {mirror: {to: orders, percent: 1}}", "methods: {get: {mirror: {to: orders, percent: 1}}}"):
        with pytest.raises(PolicyError, match=r"mirror\.to: orders would get each of these calls twice"):
            said(body)


def test_what_the_mesh_says_counts_where_a_service_says_nothing() -> None:
    service = "kind: Service\nname: orders\n" + ALLOW
    mesh = "---\nkind: Mesh\ntraffic: {balance: {hash: key}, retry: {pause: 3s, longest_pause: 3s}}\n"
    for body, code in (
        ("traffic: {locality: {prefer: zone}}\n", ("HASH_LOCALITY", "traffic.locality")),
        ("traffic: {timeout: 2s}\n", ("RETRY_PAST_DEADLINE", "traffic.timeout")),
    ):
        told = [(finding.code, finding.path) for finding in findings(service + body + mesh)]
        assert told[0] == code


def test_a_finding_is_one_line_with_its_place_severity_and_code() -> None:
    (finding,) = findings("---\nkind: Service\nname: orders\naccess: {deny: [{from: [a], methods: [b]}]}")

    assert finding.severity is Severity.WARNING
    assert str(finding) == "p.yaml:2: warning NOBODY_ALLOWED: access: no rule allows anybody to call orders"


PATTERNS = st.from_regex(r"[ab]{1,3}\*?|\*", fullmatch=True)


@given(PATTERNS, PATTERNS, st.from_regex(r"[ab]{1,5}", fullmatch=True))
def test_what_fits_a_covered_pattern_fits_the_covering_one(narrow: str, wide: str, name: str) -> None:
    if within(narrow, wide) and matches(narrow, name):
        assert matches(wide, name)


@given(PATTERNS, PATTERNS, st.from_regex(r"[ab]{1,5}", fullmatch=True))
def test_patterns_with_a_name_in_common_overlap(one: str, other: str, name: str) -> None:
    if matches(one, name) and matches(other, name):
        assert overlap(one, other)


HAS = frozenset({"get", "list_all"})
SERVED = {"orders": Served(HAS, frozenset({"1.4.0"}), frozenset({"track=stable"}), frozenset({"list_all"}))}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("access: {allow: [{from: [web], methods: [get, 'list*', '*']}]}", []),
        ("access: {allow: [{from: [web], methods: [gett]}]}", [("METHOD_UNKNOWN", "access.allow[0]")]),
        ("access: {deny: [{from: [web], methods: ['pay*']}]}", [("METHOD_UNKNOWN", "access.deny[0]")]),
        ("methods: {create: {timeout: 1s}}", [("METHOD_UNKNOWN", "methods.create")]),
        ("traffic: {split: {'1': 90, track=stable: 10}}", []),
        ("traffic: {split: {'1': 90, '2': 10}}", [("SPLIT_UNSERVED", "traffic.split.2")]),
        ("traffic: {locality: {prefer: track}}", []),
        ("traffic: {locality: {prefer: zone}}", [("LOCALITY_UNSERVED", "traffic.locality.prefer")]),
        ("traffic: {mirror: {to: next, percent: 5}}", [("MIRROR_NOT_IDEMPOTENT", "traffic.mirror")]),
        ("traffic: {mirror: {to: next, percent: 5}}\nmethods: {list_all: {idempotent: true}}", []),
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
