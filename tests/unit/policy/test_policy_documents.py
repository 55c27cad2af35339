"""What people write, and what they are told when it cannot be taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh import policy
from bus_mesh.policy import NO_POLICY, Balance, Mesh, PolicyError, PolicySet, Service, parse
from bus_mesh.policy.units import parse_seconds, show_seconds

SHOP = """
kind: Service
name: orders
traffic:
  timeout: 2s
  longest_timeout: 10s
  balance: least_request
methods:
  create: {timeout: 5s, idempotent: false}
  get: {idempotent: yes}
---
kind: Service
name: stock
---
kind: Mesh
access: {default: deny}
traffic: {longest_timeout: 1m}
"""


def refused(text: str) -> list[str]:
    with pytest.raises(PolicyError) as error:
        PolicySet.of(parse(text, "shop.yaml"))
    return str(error.value).splitlines()


def test_look_ups_answer_what_the_documents_say() -> None:
    shop = PolicySet.of(parse(SHOP, "shop.yaml"), number=7)

    assert (shop.number, shop.empty) == (7, False)
    assert (shop.timeout("orders", "create"), shop.timeout("orders", "get")) == (5.0, 2.0)
    assert (shop.longest("orders"), shop.longest("stock"), shop.longest("unknown")) == (10.0, 60.0, 60.0)
    assert (shop.idempotent("orders", "create"), shop.idempotent("orders", "get")) == (False, True)
    assert (shop.balance("orders", "get"), shop.balance("stock", "get")) == (Balance.LEAST_REQUEST, Balance.QUEUE)


@pytest.mark.parametrize(
    ("mesh", "service", "method", "signed"),
    [
        ("", "", "", False),
        ("signed", "", "", True),
        ("signed", "sealed", "", False),
        ("sealed", "signed", "", True),
        ("sealed", "sealed", "signed", True),
        ("signed", "signed", "sealed", False),
    ],
)
def test_the_nearest_word_on_the_envelope_holds(mesh: str, service: str, method: str, signed: bool) -> None:
    def said(word: str, indent: str) -> str:
        return f"{indent}envelope: {word}\n" if word else ""

    text = f"kind: Service\nname: orders\n{said(service, '')}methods:\n  get:\n    idempotent: true\n"
    text += f"{said(method, '    ')}---\nkind: Mesh\n{said(mesh, '')}"
    policy = PolicySet.of(parse(text, "shop.yaml"))

    assert policy.signed("orders", "get") is signed
    assert policy.signed("orders", "list") is ((service or mesh) == "signed")
    assert policy.signed("unknown", "get") is (mesh == "signed")


def test_where_policy_says_nothing_the_answer_is_none_or_the_default() -> None:
    assert NO_POLICY.timeout("orders", "get") is None
    assert NO_POLICY.idempotent("orders", "get") is None
    assert NO_POLICY.longest("orders") == 600.0
    assert NO_POLICY.balance("orders", "get") is Balance.QUEUE
    assert NO_POLICY.signed("orders", "get") is False


def test_documents_keep_their_order_and_their_place() -> None:
    documents = parse(SHOP, "shop.yaml")

    assert [type(document) for document in documents] == [Service, Service, Mesh]
    assert [document.place for document in documents] == ["shop.yaml:2", "shop.yaml:12", "shop.yaml:15"]


def test_a_document_written_out_is_read_back_as_itself() -> None:
    orders = parse(SHOP, "shop.yaml")[0]

    assert orders.model_dump(mode="json", exclude_none=True)["traffic"] == {
        "timeout": "2s",
        "longest_timeout": "10s",
        "balance": "least_request",
    }
    assert Service.model_validate(orders.model_dump(mode="json", by_alias=True)).traffic == orders.traffic


def test_services_may_be_called_what_yaml_takes_for_a_boolean() -> None:
    (document,) = parse("kind: Service\nname: no\naccess: {allow: [{from: [on, off], methods: [yes]}]}", "no.yaml")

    assert isinstance(document, Service)
    assert (document.name, document.access.allow[0].callers) == ("no", ("on", "off"))


def test_empty_text_and_empty_documents_are_no_documents() -> None:
    assert parse("", "a") == parse("---\n---\n# nothing\n", "a") == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("traffic:\n  timout: 3s", "shop.yaml:4: traffic.timout: unknown key (did you mean timeout?)"),
        ("traffic:\n  timeout: 3", "shop.yaml:4: traffic.timeout: 3 has no unit (did you mean 3s?)"),
        ("traffic:\n  timeout: soon", "shop.yaml:4: traffic.timeout: must be a length of time"),
        ("traffic: {timeout: 20m}", "shop.yaml:3: traffic.timeout: 20m is not within 1ms and 10m"),
        ("traffic: {timeout: 0s}", "shop.yaml:3: traffic.timeout: 0ms is not within 1ms and 10m"),
        ("envelope: open", "shop.yaml:3: envelope: must be 'sealed' or 'signed', not 'open'"),
        ("events: {publish: [a]}", "shop.yaml:3: events: is documented, but not yet enforced by this version"),
        ("traffic: {balance: leastrequest}", "(did you mean least_request?)"),
        (
            "access: {mode: audti}",
            "shop.yaml:3: access.mode: must be 'enforce' or 'audit', not 'audti' (did you mean audit?)",
        ),
        (
            "access:\n  allow: [{from: web, methods: [a]}]",
            "shop.yaml:4: access.allow[0].from: must be a list, not text",
        ),
        ("access:\n  deny:\n  - {methods: [a]}", "shop.yaml:5: access.deny[0].from: is missing"),
        (
            "access:\n  deny:\n  - {frm: [a], methods: [a]}",
            "shop.yaml:5: access.deny[0].frm: unknown key (did you mean from?)",
        ),
        ("access: {allow: [{from: [], methods: [a]}]}", "access.allow[0].from: must not be empty"),
        ('access: {allow: [{from: ["*web"], methods: [a]}]}', "access.allow[0].from[0]: '*web' names no service"),
        ('access: {allow: [{from: [web], methods: ["a*b"]}]}', "access.allow[0].methods[0]: 'a*b' names no method"),
        ("access: {allow: [{from: [web], methods: [*]}]}", '(quote a pattern: "*")'),
        ("access: {allow: [{from: [web], methods: [3]}]}", "methods[0]: must be text, not a number (quote it)"),
        (
            "access:\n  allow: [{name: a, from: [a], methods: [a]}]\n  deny: [{name: a, from: [b], methods: [b]}]",
            "shop.yaml:5: access.deny[0].name: two rules are called a",
        ),
        ("methods:\n  Get: {}", "shop.yaml:4: methods.Get: 'Get' is not a method name"),
        ("methods: {a: 3}", "shop.yaml:3: methods.a: must be a mapping, key: value, not a number"),
        ("methods: {a: {idempotent: maybe}}", "shop.yaml:3: methods.a.idempotent: must be true or false, not text"),
        (
            "traffic: {longest_timeout: 1s}\nmethods:\n  a:\n    timeout: 2s",
            "shop.yaml:6: methods.a.timeout: 2s is over this service's longest_timeout, 1s",
        ),
    ],
)
def test_an_error_gives_file_line_path_and_what_to_write(text: str, told: str) -> None:
    assert any(told in line for line in refused(f"kind: Service\nname: orders\n{text}\n"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: Servce\nname: a", "shop.yaml:1: kind: no document is of kind 'Servce' (did you mean Service?)"),
        ("name: a", "shop.yaml:1: kind: is missing"),
        ("kind: Service", "shop.yaml:1: name: is missing"),
        ("- a", "shop.yaml:1: a document must be a mapping, key: value"),
        ("kind: Service\nname: Orders", "shop.yaml:2: name: 'Orders' is not a service name"),
        ("kind: Service\nname: busmesh", "shop.yaml:2: name: busmesh is reserved (every agent answers it"),
        ("kind: Mesh\naccess: {default: allow}", "shop.yaml:2: access.default: must be 'deny', not 'allow'"),
        ("kind: Mesh\ncertificates: {life: 24h}", "shop.yaml:2: certificates: is documented, but not yet enforced"),
        (
            "kind: Service\nname: a\n---\nkind: Service\nname: a",
            "shop.yaml:4: name: Service a stands twice, first at shop.yaml:1",
        ),
        (
            "kind: Mesh\n---\nkind: Mesh\nname: other",
            "shop.yaml:3: name: the Mesh document stands twice, first at shop.yaml:1",
        ),
    ],
)
def test_a_document_that_is_none_is_refused_with_its_line(text: str, told: str) -> None:
    assert any(told in line for line in refused(text))


def test_all_that_is_wrong_in_a_file_is_told_at_once_in_order() -> None:
    told = refused("kind: Service\nname: a\nx: 1\n---\nkind: Mesh\ny: 1\ncertificates: {life: 1h}")

    assert [line.split(": ")[0] for line in told] == ["shop.yaml:3", "shop.yaml:6", "shop.yaml:7"]


def test_ten_thousand_mistakes_make_a_readable_message() -> None:
    told = refused("kind: Service\nname: a\n" + "\n".join(f"x{number}: 1" for number in range(10_000)))

    assert (len(told), told[-1]) == (101, "and 9900 more")


@pytest.mark.parametrize(
    ("text", "seconds"), [("25ms", 0.025), ("2s", 2.0), ("1.5s", 1.5), ("1m", 60.0), ("1h", 3600.0), ("2 s", 2.0)]
)
def test_a_length_of_time_is_a_number_and_its_unit(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "2", "-1s", "1d", "1s1s", "٣s", "1e3s", "inf s", "nans", None, [], True, 1, 0.5]
)
def test_what_is_no_length_of_time_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"has no unit|must be a length of time"):
        parse_seconds(text)


@given(st.integers(0, 10**9).map(lambda micros: micros / 10**6))
def test_a_length_of_time_reads_back_as_it_was_shown(seconds: float) -> None:
    assert parse_seconds(show_seconds(seconds)) == pytest.approx(seconds, rel=1e-12, abs=1e-12)


def test_the_public_names_are_those() -> None:
    assert set(policy.__all__) == {
        "DEFAULT_DENY", "NO_POLICY", "NO_POLICY_LOADED", "RESERVED", "Access", "Balance", "Mesh", "Method", "Mode",
        "PolicyError", "PolicySet", "Problem", "Revocation", "Rule", "Service", "ServicePolicy", "Traffic", "Verdict",
            "parse",
    }  # fmt: skip
