from typing import Any

from bus_mesh.cli.describe import lines
from bus_mesh.policy import PolicySet, parse
from bus_mesh.policy.resolved import policy_of

KNOWN = {"circuit": "closed", "probe_in_ms": None, "circuits": {}, "inflight": 2, "latency_ms": 1.23456}
UNKNOWN = {"circuit": None, "probe_in_ms": None, "circuits": {}, "inflight": None, "latency_ms": None}
POLICY = """\
kind: Service
name: orders
access:
  allow: [{from: [web], methods: [get]}]
  deny: [{from: [a], methods: [b]}, {from: [c], methods: [d]}]
traffic:
  retry: off
  balance: {hash: metadata.user}
  rate: [{per: caller, limit: 100/s, burst: 200}]
  split: {"1": 90, "2": 10}
  locality: {prefer: zone, spill_below: 70%}
  mirror: {to: orders-next, percent: 10}
methods: {create: {timeout: 5s, idempotent: false}}
"""


def instance(name: str, **said: Any) -> dict[str, Any]:
    return {"instance": name, "node": "node-a", "version": "1.2.0", "labels": {}, "state": "up", "load": 3, **said}


def found(policy: str = POLICY, *, followed: bool = True, instances: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    said = policy_of(PolicySet.of(parse(policy, "p.yaml")), "orders")
    there = {"service": "orders", "node": "node-a", "number": 3, "policy_state": "fresh", "others": []}
    return {**there, "policy": said, "followed": followed, "instances": list(instances)}


def rows(said: dict[str, Any]) -> list[list[str]]:
    return [line.split(maxsplit=2) for line in lines(said)]


def test_it_says_whose_word_it_is_and_which_bundle_is_in_force() -> None:
    assert lines(found())[:3] == [
        "service  orders, as node-a has it",
        "policy   bundle 3 in force here, fresh",
        "access   enforce: 1 rule to allow, 2 rules to deny",
    ]


def test_every_part_reads_like_the_policy_that_it_is_written_in() -> None:
    shown = {(row[0], row[1]): " ".join(row[2].split()) for row in rows(found()) if len(row) == 3}

    assert shown["METHOD", "PART"] == "VALUE FROM"
    assert shown["*", "timeout"] == "the contract's, else 5s default"
    assert shown["*", "limit"] == "concurrency: as served, 64 at least, queue: 1024 default"
    assert shown["*", "longest_timeout"] == "10m default"
    assert shown["*", "retry"] == "off service"
    assert shown["*", "budget"] == "ratio: 0.2, floor_per_second: 10, window: 10s default"
    assert shown["*", "rate"] == "per: caller, limit: 100/s, burst: 200 service"
    assert shown["*", "balance"] == "hash: metadata.user service"
    assert shown["*", "split"] == "1: 90, 2: 10 service"
    assert shown["*", "locality"] == "prefer: zone, spill_below: 70% service"
    assert shown["*", "mirror"] == "to: orders-next, percent: 10% service"
    assert shown["*", "fault"] == "none default"
    assert shown["create", "timeout"] == "5s method"
    assert shown["create", "idempotent"] == "no method"


def test_an_instance_is_one_line_with_its_circuit_and_the_time_until_the_next_probe() -> None:
    there = (
        instance("a", **KNOWN),
        instance("b", **{**KNOWN, "circuit": "open", "probe_in_ms": 3210}),
        instance("c", **{**KNOWN, "circuit": "open", "probe_in_ms": 0}),
        instance("d", **{**KNOWN, "circuit": "probing", "latency_ms": None}),
    )

    assert lines(found(instances=there))[-5:] == [
        "INSTANCE  NODE    VERSION  STATE  CIRCUIT          INFLIGHT  LOAD  LATENCY",
        "a         node-a  1.2.0    up     closed           2         3     1.23ms",
        "b         node-a  1.2.0    up     open 3.2s        2         3     1.23ms",
        "c         node-a  1.2.0    up     open, probe due  2         3     1.23ms",
        "d         node-a  1.2.0    up     probing          2         3     -",
    ]


def test_a_method_with_a_breaker_of_its_own_is_named_while_its_circuit_is_not_closed() -> None:
    own = {"create": {"circuit": "open", "probe_in_ms": 500}, "get": {"circuit": "closed", "probe_in_ms": None}}

    assert "closed, create open 0.5s" in lines(found(instances=(instance("a", **{**KNOWN, "circuits": own}),)))[-1]


def test_a_service_that_nobody_here_calls_is_shown_with_what_is_not_known_as_dashes() -> None:
    told = lines(found(followed=False, instances=(instance("a", **UNKNOWN),)))

    assert "no app of node-a calls it" in told[-4]
    assert told[-1].split() == ["a", "node-a", "1.2.0", "up", "-", "-", "3", "-"]


def test_a_service_without_a_document_or_without_instances_is_told_as_such() -> None:
    told = lines(found("kind: Mesh", instances=(instance("a", **UNKNOWN),)))

    assert told[2] == "access   it has no document: every call to it is denied"
    assert lines(found())[-1] == "nobody serves it now"


def test_audit_says_that_nothing_is_refused() -> None:
    assert lines(found("kind: Service\nname: orders\naccess: {mode: audit}"))[2] == (
        "access   audit: 0 rules to allow, 0 rules to deny, and what they refuse is only reported"
    )
