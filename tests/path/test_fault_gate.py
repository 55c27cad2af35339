"""Faults on purpose at the caller's agent: what is delayed, what is refused, and what ends meanwhile."""

from datetime import UTC, datetime
from typing import Any

import pytest
from path_world import POLICY, START_US, App, Caller, Message, Serving

from bus_mesh.gates.fault import Inject
from bus_mesh.protocol.frames import Call

UNTIL = "percent: 100%, until: 2100-01-01T00:00:00Z"
DELAY = f"fault: {{delay: 200ms, {UNTIL}}}"
BOTH = f"fault: {{delay: 200ms, abort: resource_exhausted, {UNTIL}}}"
ABORT = f"fault: {{abort: unavailable, {UNTIL}}}"


@pytest.fixture
def one() -> Serving:
    return Serving("n1")


@pytest.fixture
def app() -> App:
    return App()


def held_back(caller: Caller) -> int:
    """How many calls the gates of the compiled paths hold back."""
    gates = [gate for route in caller.outbound._compiled.values() for gate in route.path.gates]
    return sum(len(gate._delayed) for gate in gates if isinstance(gate, Inject))


def sent(messages: list[Message], serving: Serving) -> list[Call]:
    return [frame for message in messages for frame in serving.open(message) if isinstance(frame, Call)]


def test_a_delayed_call_goes_on_after_its_delay_with_the_time_that_is_left(one: Serving, app: App) -> None:
    caller = Caller(one, traffic=DELAY)
    caller.call(app, ttl_ms=1000)
    caller.wait(0.19)
    assert (caller.turn(), held_back(caller)) == ([], 1)
    caller.wait(0.02)
    (call,) = sent(caller.turn(), one)

    assert call.ttl_ms == 790
    assert caller.events == [("faults", "delay")]
    assert held_back(caller) == 0


def test_a_call_that_is_delayed_and_then_refused_never_ran_and_is_not_tried_again(one: Serving, app: App) -> None:
    caller = Caller(one, traffic=BOTH)
    caller.call(app, method="get")
    caller.wait(0.1)
    assert app.told == []
    caller.wait(0.11)

    assert (app.fail.code, app.fail.reason, app.fail.head) == (8, "FAULT_INJECTED", {"ran": "no"})
    assert caller.events == [("faults", "delay"), ("faults", "abort")]
    assert (caller.turn(), held_back(caller), len(caller.wheel)) == ([], 0, 0)


@pytest.mark.parametrize("how", ["given up", "app gone", "out of time"])
def test_what_ends_while_it_is_held_back_is_forgotten_and_never_ran(one: Serving, app: App, how: str) -> None:
    caller = Caller(one, traffic=DELAY)
    caller.call(app, ttl_ms=150)
    if how == "given up":
        caller.outbound.cancel(app, 1, 0.1)
    elif how == "app gone":
        caller.outbound.lost(app, 0.1)
    else:
        caller.wait(0.16)
        assert (app.fail.reason, app.fail.head) == ("DEADLINE_EXCEEDED", {"ran": "no"})
    caller.wait(0.3)

    assert len(app.told) == 1
    assert (caller.turn(), held_back(caller), app.flights) == ([], 0, {})


def test_a_delay_never_passes_the_deadline(one: Serving, app: App) -> None:
    caller = Caller(one, traffic=DELAY)
    caller.call(app, ttl_ms=200)
    caller.wait(0.21)

    assert (app.fail.reason, app.fail.head) == ("DEADLINE_EXCEEDED", {"ran": "no"})
    assert caller.turn() == []


def test_what_is_held_back_stays_so_when_policy_lifts_the_fault(one: Serving, app: App) -> None:
    caller = Caller(one, traffic=DELAY)
    caller.call(app, 1)
    caller.enforce(POLICY)
    caller.outbound.recompile()
    caller.call(app, 2)
    assert len(sent(caller.turn(), one)) == 1
    caller.wait(0.21)

    assert len(sent(caller.turn(), one)) == 1


def test_a_delayed_call_then_waits_for_its_service_to_be_found(one: Serving, app: App) -> None:
    caller = Caller(traffic=DELAY)
    caller.call(app)
    caller.wait(0.21)
    assert caller.asked == ["orders"]
    caller.learn(one, "n1-1")

    assert len(sent(caller.turn(), one)) == 1
    assert repr(caller.parts.waiting) == "Waiting({})"


def test_news_of_the_service_does_not_shorten_a_delay(one: Serving, app: App) -> None:
    caller = Caller(one, traffic=DELAY)
    caller.call(app)
    caller.learn(one, "n1-1", "n1-2")

    assert (caller.turn(), held_back(caller)) == ([], 1)


def test_who_may_not_call_learns_of_no_fault(one: Serving) -> None:
    caller, app = Caller(one, traffic=ABORT), App("batch")
    caller.call(app)

    assert app.fail.reason == "PERMISSION_DENIED"
    assert caller.events == []


def test_a_fault_is_over_when_it_says_also_for_a_path_that_was_made_before(one: Serving, app: App) -> None:
    until = datetime.fromtimestamp(START_US / 1e6 + 10, UTC).isoformat()
    caller = Caller(one, traffic=f"fault: {{abort: unavailable, percent: 100%, until: '{until}'}}")
    caller.call(app, 1)
    assert app.fail.reason == "FAULT_INJECTED"
    caller.now = 10.0
    caller.call(app, 2)

    assert len(app.told) == 1
    assert len(sent(caller.turn(), one)) == 1


@pytest.mark.parametrize(
    ("code", "said"), [("unavailable", 14), ("INTERNAL", 13), ("cancelled", 1), ("unauthenticated", 16)]
)
def test_any_code_may_be_given(one: Serving, app: App, code: str, said: Any) -> None:
    caller = Caller(one, traffic=f"fault: {{abort: {code}, {UNTIL}}}")
    caller.call(app, method="get")

    assert (app.fail.code, app.fail.reason) == (said, "FAULT_INJECTED")
    assert app.fail.message == "orders/get: refused on purpose, by the fault in its policy"


def test_a_fault_of_the_mesh_reaches_a_service_that_says_nothing_and_none_it_does_not_know(one: Serving) -> None:
    caller, app = Caller(one), App()
    caller.enforce(f"{POLICY}---\nkind: Mesh\ntraffic: {{{ABORT}}}\n")
    caller.call(app)
    assert app.fail.reason == "FAULT_INJECTED"
    caller.outbound.call(app, Call(1, 9, "stock", "get", 500, "", None, b""), 0.0)

    assert app.fail.reason == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    ("part", "way"),
    [
        ("retry: off", "tries"),
        ("balance: round_robin", "balance"),
        ("breaker: off", "breaker"),
        ("timeout: 1s", "timeout"),
    ],
)
def test_what_the_mesh_says_of_traffic_reaches_services_without_a_document(part: str, way: str) -> None:
    caller = Caller()
    caller.enforce(f"kind: Mesh\ntraffic: {{{part}}}\n")
    policy = caller.policy
    said = {
        "tries": policy.retry("stock", "get").tries == 1,
        "balance": str(policy.balance("stock", "get")) == "round_robin",
        "breaker": policy.breaker("stock", "get") is None,
        "timeout": policy.timeout("stock", "get") == 1.0,
    }

    assert said == {name: name == way for name in said}
