"""Who may call: the compiled evaluator, held against a reference that reads the rules as they are written."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus_mesh.policy import NO_POLICY, Access, PolicySet, Service, Verdict, parse
from bus_mesh.policy.match import Table, classes, matches

ORDERS = """
kind: Service
name: orders
access:
  allow:
    - {from: [web, cart], methods: [get, "list*"]}
    - {name: admins-do-all, from: ["admin*"], methods: ["*"]}
  deny:
    - {from: [admin-batch], methods: [create]}
"""


def access(text: str) -> Access:
    return Access(PolicySet.of(parse(text, "orders.yaml")))


@pytest.mark.parametrize(
    ("caller", "method", "expected"),
    [
        ("web", "get", Verdict(True, "orders/access.allow[0]")),
        ("web", "list_all", Verdict(True, "orders/access.allow[0]")),
        ("web", "create", Verdict(False, "default deny")),
        ("weblog", "get", Verdict(False, "default deny")),
        ("admin", "create", Verdict(True, "admins-do-all")),
        ("admin-two", "anything", Verdict(True, "admins-do-all")),
        ("admin-batch", "create", Verdict(False, "orders/access.deny[0]")),
        ("admin-batch", "get", Verdict(True, "admins-do-all")),
        ("", "", Verdict(False, "default deny")),
        ("*", "*", Verdict(False, "default deny")),
        ("admin*", "create", Verdict(True, "admins-do-all")),
    ],
)
def test_a_verdict_names_its_rule(caller: str, method: str, expected: Verdict) -> None:
    assert access(ORDERS).check(caller, "orders", method) == expected


def test_a_service_without_a_document_is_denied_to_all() -> None:
    assert access(ORDERS).check("web", "stock", "get") == Verdict(False, "default deny")


def test_before_any_policy_all_is_denied_and_no_rule_is_blamed() -> None:
    assert NO_POLICY.empty
    assert Access(NO_POLICY).check("web", "orders", "get") == Verdict(False, "no policy")


def test_audit_lets_through_and_names_the_rule_that_would_have_refused() -> None:
    audited = access(ORDERS + "  mode: audit\n")

    assert audited.check("admin-batch", "orders", "create") == Verdict(True, "orders/access.deny[0]", audited=True)
    assert audited.check("nobody", "orders", "get") == Verdict(True, "default deny", audited=True)
    assert audited.check("web", "orders", "get") == Verdict(True, "orders/access.allow[0]")


def test_a_million_names_from_strangers_leave_nothing_behind() -> None:
    rng = random.Random(7)
    compiled = access(ORDERS)
    compiled.check("web", "orders", "get")
    rows = sizes(compiled)

    for _ in range(1_000_000):
        noise = f"{rng.getrandbits(40):x}"
        compiled.check(noise, noise, noise)
        compiled.check("web", "orders", noise)

    assert sizes(compiled) == rows
    assert compiled.check("web", "orders", "get").allowed


def test_rules_share_their_rows_however_many_callers_they_name() -> None:
    callers = ", ".join(f"app{number}" for number in range(5_000))
    compiled = access(f"kind: Service\nname: big\naccess: {{allow: [{{from: [{callers}], methods: [get]}}]}}")

    for number in range(5_000):
        assert compiled.check(f"app{number}", "big", "get").allowed
    assert sizes(compiled) == 1


def sizes(compiled: Access) -> int:
    return sum(len(row) for service in compiled._services.values() for row in service._rows.values())


# ---- the reference: what the documentation says, in the order in which it says it


def reference(services: dict[str, Service], caller: str, service: str, method: str) -> Verdict:
    if service not in services:
        return Verdict(False, "default deny")
    document = services[service].access
    audit = document.mode == "audit"
    for effect in ("deny", "allow"):
        for number, rule in enumerate(getattr(document, effect)):
            called = any(matches(pattern, caller) for pattern in rule.callers)
            if called and any(matches(pattern, method) for pattern in rule.methods):
                title = rule.name or f"{service}/access.{effect}[{number}]"
                refused = effect == "deny"
                return Verdict(audit or not refused, title, audit and refused)
    return Verdict(audit, "default deny", audit)


# Few letters, so that names and starts meet.
NAMES = st.text("ab", min_size=1, max_size=4)
PATTERNS = NAMES | st.text("ab", max_size=3).map(lambda start: start + "*")
RULES = st.lists(
    st.fixed_dictionaries(
        {"from": st.lists(PATTERNS, min_size=1, max_size=4), "methods": st.lists(PATTERNS, min_size=1, max_size=4)}
    ),
    max_size=5,
)
SERVICES = st.builds(
    lambda name, allow, deny, mode: Service.model_validate(
        {"kind": "Service", "name": name, "access": {"allow": allow, "deny": deny, "mode": mode}}
    ),
    NAMES,
    RULES,
    RULES,
    st.sampled_from(["enforce", "enforce", "audit"]),
)
QUESTIONS = st.lists(st.tuples(NAMES, NAMES, NAMES), min_size=30, max_size=30)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(SERVICES, min_size=1, max_size=3, unique_by=lambda service: service.name), QUESTIONS)
def test_the_compiled_evaluator_agrees_with_the_reference(
    documents: list[Service], asked: list[tuple[str, ...]]
) -> None:
    compiled = Access(PolicySet.of(documents))
    services = {document.name: document for document in documents}

    for caller, _, method in asked:
        for service in [*services, "zz"]:
            assert compiled.check(caller, service, method) == reference(services, caller, service, method)


def test_the_compiled_evaluator_agrees_with_the_reference_on_a_hundred_thousand_policies() -> None:
    rng = random.Random(20)

    def name() -> str:
        return "".join(rng.choices("ab", k=rng.randint(1, 4)))

    def patterns() -> list[str]:
        return [name() + rng.choice(["", "*"]) if rng.random() < 0.9 else "*" for _ in range(rng.randint(1, 3))]

    def rules() -> list[dict[str, list[str]]]:
        return [{"from": patterns(), "methods": patterns()} for _ in range(rng.randint(0, 4))]

    for _ in range(100_000):
        document = Service.model_validate({"name": "s", "access": {"allow": rules(), "deny": rules()}})
        compiled, services = Access(PolicySet.of([document])), {"s": document}
        for _ in range(2):
            caller, method = name(), name()
            assert compiled.check(caller, "s", method) == reference(services, caller, "s", method)


@given(st.dictionaries(PATTERNS, st.integers(0, 9), max_size=8), NAMES)
def test_a_table_answers_with_the_most_exact_pattern(values: dict[str, int], name: str) -> None:
    fitting = [pattern for pattern in values if matches(pattern, name)]
    nearest = max(fitting, key=lambda pattern: (not pattern.endswith("*"), len(pattern)), default=None)

    assert Table(values).find(name) == (None if nearest is None else values[nearest])


def test_a_class_holds_every_rule_that_fits_all_its_names() -> None:
    found = classes([(0, ["a*"]), (1, ["ab"]), (2, ["*", "b"])])

    assert found == {"a*": (0, 2), "ab": (0, 1, 2), "*": (2,), "b": (2,)}
