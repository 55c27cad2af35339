"""The two paths, and each gate by itself: no loop, no clock, no bus."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from bus_mesh.agent.parts import Luck, Parts, Told
from bus_mesh.agent.path import inbound, outbound
from bus_mesh.balance.directory import Directory, View
from bus_mesh.balance.pick import Picker
from bus_mesh.balance.placement import Placement
from bus_mesh.gates.authorise import Authorise
from bus_mesh.gates.balance import FIND_PATIENCE, Balance, Waiting
from bus_mesh.gates.deadline import Deadline
from bus_mesh.gates.gate import Again, Flight, Path, Refuse, Stage, Wait
from bus_mesh.gates.retry import Retry
from bus_mesh.policy import traffic
from bus_mesh.policy.access import Access
from bus_mesh.policy.bundle import NO_POLICY, PolicySet
from bus_mesh.policy.load import parse
from bus_mesh.protocol.call import Origin, Outcome
from bus_mesh.protocol.errors import (
    BusStalled,
    Draining,
    Internal,
    MeshError,
    NoInstances,
    NotARecipient,
    OutcomeUnknown,
    Ran,
    ResourceExhausted,
)
from bus_mesh.resilience.budget import RetryBudget
from bus_mesh.resilience.retryable import MOVES

POLICY = """
kind: Service
name: orders
access:
  allow: [{from: [web], methods: [get]}]
  deny: [{name: no-batch, from: [batch], methods: ["*"]}]
"""


class Instance(NamedTuple):
    id: str
    state: str = "up"
    version: str = "1"
    labels: dict[str, str] = {}  # noqa: RUF012 - never changed
    load: int = 0


class Offer(NamedTuple):
    service: str
    instances: tuple[Instance, ...]
    methods: tuple[()] = ()


class Meter:
    inflight = 0
    retries = 0

    def record(self, code: int, seconds: float) -> None:
        pass


def flight(*, caller: str = "web", head: dict[str, Any] | None = None, deadline: float = 5.0) -> Flight:
    return Flight(Path(), None, 1, "orders", "get", caller, head, b"", 0.0, deadline)


def access(text: str = POLICY) -> Access:
    return Access(PolicySet.of(parse(text, "test")))


@pytest.fixture
def directory() -> Directory[str]:
    directory = Directory[str](draw=lambda n: 0)
    directory.follow("orders")
    return directory


def parts(directory: Directory[str]) -> Parts[str]:
    luck = Luck(lambda n: 0, lambda: 0.5, lambda: 0.5)
    return Parts(lambda *names: Meter(), directory, lambda service: None, luck, lambda: 1_800_000_000.0, Told())


def found(directory: Directory[str], *ids: str, now: float = 0.0) -> None:
    directory.update("a", "b", "peer", [Offer("orders", tuple(Instance(id) for id in ids))], now + 15.0, now)


def test_a_call_travels_in_this_order(directory: Directory[str]) -> None:
    out = outbound(parts(directory), access(), NO_POLICY, {}, "orders", "get")
    into = inbound(parts(directory), access(), NO_POLICY, "orders", "get")

    assert repr(out) == "Measure > Deadline > Authorise > Retry > Balance > Breaker"
    assert repr(into) == "Measure > Deadline > Authorise > Once > Limit"


ALL_OF_IT = """
kind: Service
name: orders
envelope: signed
traffic:
  rate: [{per: caller, limit: 100/s, burst: 200}]
  fault: {abort: unavailable, percent: 5%, until: 2100-01-01T00:00:00Z}
  mirror: {to: orders-next, percent: 10%}
"""
ALL_OFF = "kind: Service\nname: orders\ntraffic: {retry: off, breaker: off, limit: off}\n"
OVER = "kind: Service\nname: orders\ntraffic: {fault: {abort: unavailable, percent: 5%, until: 2020-01-01T00:00:00Z}}\n"


@pytest.mark.parametrize(
    ("policy", "out", "into"),
    [
        (
            ALL_OF_IT,
            "Measure > Deadline > Authorise > Mirror > Inject > Retry > Balance > Breaker",
            "Measure > Deadline > Authorise > Signature > Once > Rate > Limit",
        ),
        (ALL_OFF, "Measure > Deadline > Authorise > Retry > Balance", "Measure > Deadline > Authorise > Once"),
        (
            OVER,
            "Measure > Deadline > Authorise > Retry > Balance > Breaker",
            "Measure > Deadline > Authorise > Once > Limit",
        ),
    ],
    ids=["all of it", "all of it off", "a fault that is over"],
)
def test_a_gate_that_is_off_is_not_in_the_path(directory: Directory[str], policy: str, out: str, into: str) -> None:
    said = PolicySet.of(parse(policy, "policy"))
    names = outbound(parts(directory), access(), said, {}, "orders", "get").gates

    assert " > ".join(type(gate).__name__ for gate in names) == out
    assert repr(inbound(parts(directory), access(), said, "orders", "get")) == into


def test_a_policy_that_changes_something_else_leaves_circuits_budgets_and_tokens_as_they_are(
    directory: Directory[str],
) -> None:
    kept = parts(directory)
    first, second, third = (
        PolicySet.of(parse(f"{ALL_OF_IT}  timeout: {timeout}\n  breaker: {{failures: {failures}}}\n", "policy"))
        for timeout, failures in (("1s", 7), ("2s", 7), ("2s", 8))
    )

    circuits = [kept.circuits_of("orders", "", said.breaker("orders", "get")) for said in (first, second, third)]  # type: ignore[arg-type]
    budgets = [kept.budget("orders", said.budget("orders")) for said in (first, second, third)]
    tokens = [kept.buckets("orders", "", 0, said.rates("orders", "get")[0]) for said in (first, second, third)]

    assert circuits[0] is circuits[1] is not circuits[2]
    assert budgets[0] is budgets[1] is budgets[2]
    assert tokens[0] is tokens[1] is tokens[2]


def test_a_signature_is_asked_of_who_may_call_and_only_where_policy_says_so(directory: Directory[str]) -> None:
    signed = PolicySet.of(parse("kind: Mesh\nenvelope: signed\n", "mesh.yaml"))
    out = outbound(parts(directory), access(), signed, {}, "orders", "get")
    into = inbound(parts(directory), access(), signed, "orders", "get")

    assert (out.signed, outbound(parts(directory), access(), NO_POLICY, {}, "orders", "get").signed) == (True, False)
    assert repr(into) == "Measure > Deadline > Authorise > Signature > Once > Limit"
    refused = into.gates[3].enter(flight(), 0.0)
    assert isinstance(refused, Refuse)
    assert (refused.outcome.reason, refused.outcome.ran) == ("SIGNATURE_REQUIRED", Ran.NO)


def test_a_call_that_comes_after_its_deadline_is_not_run() -> None:
    gate = Deadline()

    assert gate.enter(flight(deadline=5.0), 4.9) is None
    refused = gate.enter(flight(deadline=5.0), 5.0)
    assert isinstance(refused, Refuse)
    assert (refused.outcome.reason, refused.outcome.ran) == ("DEADLINE_EXCEEDED", Ran.NO)


@pytest.mark.parametrize(
    ("caller", "rule"), [("cart", "default deny"), ("batch", "no-batch")], ids=["no rule", "a deny rule"]
)
def test_a_denied_call_names_its_rule_and_leaves_no_permit(caller: str, rule: str) -> None:
    counted: list[tuple[str, bool]] = []
    call = flight(caller=caller)

    refused = Authorise(access(), lambda _, said: counted.append((said.rule, said.audited)), "inbound").enter(call, 0.0)

    assert isinstance(refused, Refuse)
    assert refused.outcome.fail is not None
    assert rule in refused.outcome.fail.message
    assert (counted, call.permit, refused.outcome.ran) == ([(rule, False)], None, Ran.NO)


def test_without_any_policy_every_call_is_refused_and_told_why() -> None:
    refused = Authorise(Access(NO_POLICY), lambda call, verdict: None, "outbound").enter(flight(), 0.0)

    assert isinstance(refused, Refuse)
    assert refused.outcome.reason == "NO_POLICY"


def test_in_audit_a_call_goes_on_and_is_counted() -> None:
    counted: list[tuple[str, bool]] = []
    call = flight(caller="batch")
    note = lambda call, said: counted.append((said.rule, said.audited))  # noqa: E731
    gate = Authorise(access(POLICY + "  mode: audit\n"), note, "inbound")

    assert gate.enter(call, 0.0) is None
    assert (counted, call.permit is not None) == ([("no-batch", True)], True)


def test_what_strangers_are_called_makes_no_table_grow() -> None:
    gate = Authorise(access(), lambda call, verdict: None, "inbound")
    for number in range(5_000):
        gate.enter(flight(caller=f"c{number}"), 0.0)

    assert len(gate._known) == 1024
    assert gate.enter(flight(), 0.0) is None


def outcome(error: MeshError, origin: Origin = Origin.TARGET, instance: str | None = "i1") -> Outcome:
    made = Outcome.refusal(error, instance)
    made.origin = origin
    return made


TRIES = traffic.Retry().tries


def retry(policy: traffic.Retry | None = None, budget: traffic.Budget | None = None) -> Retry:
    return Retry(policy or traffic.Retry(), RetryBudget(budget or traffic.Budget()), lambda: 0.5)


def again(error: MeshError, *, idempotent: bool = False, attempt: int = 1, origin: Origin = Origin.TARGET) -> bool:
    call = flight()
    call.idempotent, call.attempt = idempotent, attempt
    return isinstance(retry().leave(call, outcome(error, origin), 0.0), Again)


@pytest.mark.parametrize(
    ("tried_again", "case"),
    [
        (True, lambda: again(Draining("", ran=Ran.NO))),
        (True, lambda: again(Draining("", ran=Ran.NO), attempt=MOVES)),
        (False, lambda: again(Draining("", ran=Ran.NO), attempt=MOVES + 1)),
        (True, lambda: again(NotARecipient("", ran=Ran.NO), origin=Origin.HERE)),
        (False, lambda: again(Draining("", ran=Ran.MAYBE))),
        (False, lambda: again(NoInstances("the broker's 503"), origin=Origin.HERE)),
        (True, lambda: again(NoInstances("the broker's 503"), origin=Origin.HERE, idempotent=True)),
        (False, lambda: again(OutcomeUnknown("lost"))),
        (True, lambda: again(OutcomeUnknown("lost"), idempotent=True)),
        (False, lambda: again(OutcomeUnknown("lost"), idempotent=True, attempt=TRIES)),
        (False, lambda: again(OutcomeUnknown("lost"), idempotent=True, origin=Origin.FURTHER)),
        (False, lambda: again(BusStalled("", ran=Ran.NO), idempotent=True, origin=Origin.HERE)),
        (False, lambda: again(ResourceExhausted("full", ran=Ran.NO), idempotent=True)),
        (False, lambda: again(Internal("broke"), idempotent=True)),
    ],
)
def test_only_what_is_idempotent_or_did_not_run_is_tried_again(tried_again: bool, case: Callable[[], bool]) -> None:
    assert case() is tried_again


def test_retries_of_all_calls_to_a_service_come_out_of_one_budget() -> None:
    gate = retry(budget=traffic.Budget.model_validate({"ratio": 0.5, "floor_per_second": 0, "window": "10s"}))
    lost, moved = outcome(OutcomeUnknown("lost")), outcome(Draining("", ran=Ran.NO))
    calls = [flight() for _ in range(10)]
    for call in calls:
        call.idempotent = True
        gate.enter(call, 0.0)

    assert [isinstance(gate.leave(call, lost, 0.0), Again) for call in calls] == [True] * 5 + [False] * 5
    assert isinstance(gate.leave(calls[9], moved, 0.0), Again)  # a move costs nothing


def test_policy_says_how_often_and_how_soon_a_call_is_tried_again() -> None:
    call = flight()
    call.idempotent = True
    lost = outcome(OutcomeUnknown("lost"))

    said = retry(traffic.Retry.model_validate({"tries": 2, "pause": "400ms"})).leave(call, lost, 0.0)
    assert isinstance(said, Again)
    assert said.pause == 0.2
    assert retry(traffic.Retry(tries=1)).leave(call, lost, 0.0) is None
    assert isinstance(retry(traffic.Retry(tries=1)).leave(call, outcome(Draining("", ran=Ran.NO)), 0.0), Again)


def test_a_try_goes_elsewhere() -> None:
    call = flight()
    retry().leave(call, outcome(Draining("", ran=Ran.NO), instance="i7"), 0.0)

    assert call.avoid == ("i7",)


def balance(directory: Directory[str], asked: list[str], picker: Picker | None = None) -> Balance[str]:
    placement = Placement(picker or Picker.random(directory.draw), lambda: 0.5)
    return Balance(directory, Waiting(), asked.append, placement, grouped=picker is None)


def test_a_first_try_goes_to_the_group_and_a_second_to_another_instance(directory: Directory[str]) -> None:
    found(directory, "i1", "i2")
    gate, call = balance(directory, []), flight()

    assert gate.enter(call, 0.0) is None
    assert type(call.target) is View
    gate.leave(call, outcome(Draining("")), 0.0)
    call.attempt, call.avoid = 2, ("i1",)
    assert gate.enter(call, 0.0) is None
    assert (call.target.id, call.target.inflight) == ("i2", 1)
    member = call.target
    gate.leave(call, outcome(Draining("")), 0.0)
    assert (member.inflight, call.target) == (0, None)


def test_a_call_for_one_instance_goes_there_or_is_refused(directory: Directory[str]) -> None:
    found(directory, "i1", "i2")
    gate, call = balance(directory, []), flight(head={"instance": "i2"})

    assert gate.enter(call, 0.0) is None
    assert call.target.id == "i2"
    refused = gate.enter(flight(head={"instance": "i9"}), 0.0)
    assert isinstance(refused, Refuse)
    assert (refused.outcome.reason, refused.outcome.ran) == ("NO_INSTANCES", Ran.NO)


def test_a_first_call_waits_for_the_answer_and_goes_on_with_it(directory: Directory[str]) -> None:
    asked: list[str] = []
    gate, call = balance(directory, asked), flight()

    parked = gate.enter(call, 0.0)
    assert isinstance(parked, Wait)
    assert (parked.until, asked) == (FIND_PATIENCE, ["orders"])
    call.stage, call.until = Stage.WAITING, parked.until
    found(directory, "i1", now=1.0)
    assert gate.enter(call, 1.0) is None
    assert call not in gate._waiting


@pytest.mark.parametrize("said_by_the_broker", [True, False])
def test_a_call_whose_service_nobody_serves_is_told_so(directory: Directory[str], said_by_the_broker: bool) -> None:
    gate, call = balance(directory, []), flight()
    parked = gate.enter(call, 0.0)
    assert isinstance(parked, Wait)
    call.stage, call.until = Stage.WAITING, parked.until
    if said_by_the_broker:
        directory.missing("orders", 0.001)

    refused = gate.enter(call, 0.001 if said_by_the_broker else parked.until)

    assert isinstance(refused, Refuse)
    assert (refused.outcome.reason, refused.outcome.ran) == ("NO_INSTANCES", Ran.NO)
    assert repr(gate._waiting) == "Waiting({})"
