"""What is shown of a policy is what paths are made of, and each part says whose word it is."""

import json

from bus_mesh.policy import PolicySet, parse
from bus_mesh.policy.resolved import DEFAULTS, policy_of
from bus_mesh.policy.traffic import Balance

POLICY = """\
kind: Service
name: orders
access: {allow: [{from: [web], methods: [get]}], mode: audit}
traffic: {timeout: 2s, breaker: off, split: {"1": 1}, fault: {abort: internal, percent: 5, until: 2030-01-01T00:00:00Z}}
methods:
  create: {timeout: 5s, retry: {tries: 1}}
  get: {}
---
kind: Mesh
traffic: {timeout: 9s, retry: {tries: 5}}
envelope: signed
"""


def test_the_nearest_word_holds_and_is_named() -> None:
    said = policy_of(PolicySet.of(parse(POLICY, "p")), "orders")

    assert said is not None
    assert said["access"] == {"mode": "audit", "allow": 1, "deny": 0}
    traffic = said["traffic"]
    assert traffic["timeout"] == {"value": "2s", "from": "service"}
    assert traffic["retry"] == {"value": {"tries": 5, "pause": "25ms", "longest_pause": "1s"}, "from": "mesh"}
    assert traffic["breaker"] == {"value": "off", "from": "service"}
    assert traffic["balance"] == {"value": "queue", "from": "default"}
    assert traffic["envelope"] == {"value": "signed", "from": "mesh"}
    assert traffic["fault"]["value"] == {"abort": "internal", "percent": 5.0, "until": "2030-01-01T00:00:00Z"}


def test_of_methods_only_what_differs_is_told() -> None:
    said = policy_of(PolicySet.of(parse(POLICY, "p")), "orders")

    assert said is not None
    assert list(said["methods"]) == ["create"]
    assert list(said["methods"]["create"]) == ["timeout", "retry"]


def test_it_is_plain_enough_for_json_and_none_of_a_service_without_a_document() -> None:
    policies = PolicySet.of(parse(POLICY, "p"))

    assert json.loads(json.dumps(policy_of(policies, "orders"))) == policy_of(policies, "orders")
    assert policy_of(policies, "ghost") is None


def test_the_defaults_that_are_shown_are_those_that_paths_take() -> None:
    plain = PolicySet.of(parse("kind: Service\nname: orders\n", "p"))

    assert plain.retry("orders", "get") == DEFAULTS["retry"]
    assert plain.budget("orders") == DEFAULTS["budget"]
    assert plain.breaker("orders", "get") == DEFAULTS["breaker"]
    assert plain.limit("orders", "get") == DEFAULTS["limit"]
    assert plain.balance("orders", "get") is DEFAULTS["balance"] is Balance.QUEUE
    assert plain.health("orders") == DEFAULTS["health"]
    assert plain.longest("orders") == DEFAULTS["longest_timeout"]


def test_a_mirror_for_the_whole_mesh_leaves_out_the_service_that_it_goes_to() -> None:
    text = "kind: Mesh\ntraffic: {mirror: {to: shadow, percent: 5}}\n---\nkind: Service\nname: "
    to, other = (PolicySet.of(parse(text + name, "p")) for name in ("shadow", "orders"))

    assert to.mirror("shadow", "get") is None
    assert other.mirror("orders", "get") is not None
    shown = [policy_of(to, "shadow"), policy_of(other, "orders")]
    assert [said and said["traffic"]["mirror"]["from"] for said in shown] == ["default", "mesh"]
