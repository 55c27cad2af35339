"""What an agent tells of a service's instances: what it sees itself where it calls them, else what they announce."""

from typing import Any, NamedTuple

from bus_mesh.agent.description import described, open_circuits
from bus_mesh.agent.parts import Luck, Parts, Told
from bus_mesh.balance.directory import Directory
from bus_mesh.gates.measure import Meter
from bus_mesh.identity.announcement import Announcement
from bus_mesh.policy import PolicySet, parse
from bus_mesh.resilience.charge import Charge
from bus_mesh.resilience.circuits import Circuits

POLICY = """\
kind: Service
name: orders
traffic: {breaker: {failures: 1, rest: 4s}}
methods: {create: {breaker: {failures: 2, rest: 8s}}}
---
kind: Service
name: stock
"""
FAILURE = Charge.FAILURE


class Instance(NamedTuple):
    id: str
    version: str = "1.0.0"
    labels: Any = ()
    state: str = "up"
    load: int = 0


class Offer(NamedTuple):
    service: str
    instances: tuple[Instance, ...]
    methods: Any = ()


class Here:
    """An agent that follows `orders` of node-b, and has a policy."""

    def __init__(self, policy: str = POLICY) -> None:
        self.policy = PolicySet.of(parse(policy, "p.yaml"))
        self.directory: Directory[str] = Directory(lambda n: 0)
        luck = Luck(lambda n: 0, lambda: 1.0, lambda: 0.0)
        self.parts: Parts[str] = Parts(no_meter, self.directory, lambda service: None, luck, lambda: 0.0, Told())
        self.offers = [Offer("orders", tuple(Instance(f"o{n}", "1.0.0", {"zone": "x"}, load=n) for n in (2, 1)))]
        self.seen = [announcement("node-b", self.offers), announcement("node-c", [Offer("stock", (Instance("s"),))])]
        self.directory.follow("orders")
        self.directory.update("node-b", "boot", "peer", self.offers, 99.0, 0.0)

    def circuits(self, service: str = "orders", scope: str = "") -> Circuits:
        breaker = self.policy.breaker(service, scope)
        assert breaker is not None
        circuits = self.parts.circuits_of(service, scope, breaker)
        circuits.follow(["o1", "o2"])
        return circuits

    def fail(self, circuits: Circuits, instance: str, now: float, times: int = 1) -> None:
        for _ in range(times):
            circuits.book(instance, circuits.enter(instance, now), FAILURE, now)

    def describe(self, service: str = "orders", now: float = 0.0) -> dict[str, Any]:
        return described(service, self.parts, self.policy, self.seen, 7, now)

    def rows(self, now: float = 0.0) -> dict[str, dict[str, Any]]:
        return {row["instance"]: row for row in self.describe(now=now)["instances"]}


def no_meter(side: str, service: str, method: str, caller: str) -> Meter:
    raise AssertionError("nothing is measured here")


def announcement(node: str, offers: Any) -> Announcement:
    return Announcement("test", node, b"", "boot", 1, 1, 0, 1, b"", b"", tuple(offers), False, "0.1.0")


def test_a_followed_service_is_told_as_this_agent_sees_it() -> None:
    here = Here()
    member = here.directory.member("orders", "o1")
    assert member is not None
    member.begin()
    member.latency.observe(0.0125, 1.0)

    found = here.describe()

    assert (found["service"], found["number"], found["followed"], found["others"]) == ("orders", 7, True, [])
    assert [row["instance"] for row in found["instances"]] == ["o1", "o2"]
    assert here.rows()["o1"] == {
        "instance": "o1",
        "service": "orders",
        "node": "node-b",
        "version": "1.0.0",
        "labels": {"zone": "x"},
        "state": "up",
        "load": 1,
        "circuit": None,
        "probe_in_ms": None,
        "circuits": {},
        "inflight": 1,
        "latency_ms": 12.5,
    }
    assert here.rows()["o2"]["latency_ms"] is None


def test_a_circuit_is_told_with_the_time_until_its_probe() -> None:
    here = Here()
    circuits = here.circuits()
    assert here.rows()["o1"]["circuit"] == "closed"

    here.fail(circuits, "o1", 10.0)

    at = [(row["circuit"], row["probe_in_ms"]) for row in (here.rows(now)["o1"] for now in (10.0, 13.0, 15.0))]
    assert at == [("open", 4000), ("open", 1000), ("open", 0)]
    assert here.rows(13.0)["o2"]["circuit"] == "closed"
    circuits.enter("o1", 15.0)
    assert (here.rows(15.0)["o1"]["circuit"], here.rows(15.0)["o1"]["probe_in_ms"]) == ("probing", None)


def test_the_circuits_of_a_method_with_a_breaker_of_its_own_stand_beside() -> None:
    here = Here()
    here.circuits()
    here.fail(here.circuits(scope="create"), "o2", 0.0, times=2)

    assert here.rows()["o2"]["circuits"] == {"create": {"circuit": "open", "probe_in_ms": 8000}}
    assert here.rows()["o2"]["circuit"] == here.rows()["o1"]["circuits"]["create"]["circuit"] == "closed"


def test_circuits_of_a_policy_that_is_over_are_not_told() -> None:
    here = Here()
    here.fail(here.circuits(), "o1", 0.0)
    here.fail(here.circuits(scope="create"), "o1", 0.0, times=2)

    here.policy = PolicySet.of(parse("kind: Service\nname: orders\ntraffic: {breaker: off}\n", "p"))

    assert (here.rows()["o1"]["circuit"], here.rows()["o1"]["circuits"]) == (None, {})
    assert open_circuits(here.parts, here.policy) == {"orders": 0}


def test_a_service_that_is_not_followed_is_told_by_its_announcements() -> None:
    found = Here().describe("stock")

    assert found["followed"] is False
    (row,) = found["instances"]
    assert (row["instance"], row["node"], row["circuit"], row["inflight"], row["latency_ms"]) == (
        "s",
        "node-c",
        None,
        None,
        None,
    )


def test_what_nobody_serves_and_no_policy_names_comes_with_the_names_of_what_there_is() -> None:
    assert Here().describe("order")["others"] == ["orders", "stock"]
    assert Here("kind: Service\nname: ghost\n").describe("ghost")["others"] == []


def test_open_circuits_are_counted_by_service_over_all_their_methods_and_only_of_those_who_live() -> None:
    here = Here()
    here.fail(here.circuits(), "o1", 0.0)
    here.fail(here.circuits(scope="create"), "o1", 0.0, times=2)
    assert open_circuits(here.parts, here.policy) == {"orders": 2}

    here.directory.gone("node-b", "boot")

    assert open_circuits(here.parts, here.policy) == {"orders": 0}


def test_only_services_that_policy_names_become_labels() -> None:
    here = Here()
    here.circuits("invented")

    assert open_circuits(here.parts, here.policy) == {}
