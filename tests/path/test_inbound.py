"""Calls from the bus: what is handed to an instance, what is refused without running, and what its caller is told."""

import pytest
from path_world import Callee

from bus_mesh.agent.inbound import Instance
from bus_mesh.policy.access import Access
from bus_mesh.policy.bundle import PolicySet
from bus_mesh.policy.load import parse
from bus_mesh.protocol.frames import Call, Cancel, Fail, Reply


@pytest.fixture
def callee() -> Callee:
    return Callee()


def handed(callee: Callee) -> list[Call]:
    return [frame for frame in callee.session.handed if isinstance(frame, Call)]


def test_a_call_is_handed_over_and_its_result_goes_back(callee: Callee) -> None:
    callee.take(7)
    (call,) = handed(callee)
    assert (call.id, call.method, call.caller, call.payload) == (1, "get", "web", b"params")
    assert call.head == {"expires_us": 500_000}
    callee.inbound.reply(callee.session, Reply(2, call.id, None, b"result"), 0.1)  # type: ignore[arg-type]

    assert callee.answers() == [Reply(2, 7, {"instance": "callee-1", "load": 0}, b"result")]
    assert (callee.inbound.calls, callee.instance.inflight, callee.session.serving) == (0, 0, {})


def test_a_caller_that_its_node_may_not_speak_for_is_refused_though_policy_allows_it() -> None:
    callee = Callee(call_as=("web",))
    callee.take(caller="cart")

    assert (callee.refusal(), handed(callee)) == (("PERMISSION_DENIED", "no"), [])


def test_what_policy_denies_is_refused_here_too_whatever_the_other_agent_let_through() -> None:
    callee = Callee(call_as=("web", "batch"))
    callee.take(caller="batch")

    assert (callee.refusal(), handed(callee)) == (("PERMISSION_DENIED", "no"), [])


def test_an_unknown_method_is_refused_with_the_nearest_name(callee: Callee) -> None:
    callee.take(method="creat")
    (fail,) = callee.answers()

    assert isinstance(fail, Fail)
    assert (fail.reason, fail.head) == ("UNIMPLEMENTED", {"ran": "no", "instance": "callee-1"})
    assert fail.message == "orders has no method 'creat': did you mean create?"
    callee.take(2, method="zzz")
    (fail,) = callee.answers()
    assert isinstance(fail, Fail)
    assert fail.message.endswith("it has create, get")


def test_a_call_from_a_clock_that_is_over_a_minute_off_is_not_run(callee: Callee) -> None:
    frame = Call(1, 1, "orders", "get", 500, "web", None, b"")
    callee.inbound.call(callee.opened(frame)._replace(skew_us=-90_000_000), callee.instance, frame, 0.0)

    assert (callee.refusal(), handed(callee)) == (("CLOCK_SKEW", "no"), [])


@pytest.mark.parametrize(("late_us", "runs"), [(499_000, True), (500_000, False), (2_000_000, False)])
def test_what_the_bus_held_back_for_its_whole_time_is_not_run(callee: Callee, late_us: int, runs: bool) -> None:
    frame = Call(1, 1, "orders", "get", 500, "web", None, b"")
    callee.inbound.call(callee.opened(frame)._replace(late_us=late_us), callee.instance, frame, 0.0)

    assert len(handed(callee)) == runs
    if not runs:
        assert callee.refusal() == ("DEADLINE_EXCEEDED", "no")


def test_a_call_for_another_service_is_sent_elsewhere(callee: Callee) -> None:
    callee.take(service="stock")

    assert (callee.refusal(), handed(callee)) == (("INSTANCE_GONE", "no"), [])


def test_an_instance_that_has_drained_sends_what_still_comes_elsewhere(callee: Callee) -> None:
    callee.take(1)
    callee.instance.refusing = True
    callee.take(2)

    assert callee.refusal() == ("DRAINING", "no")
    assert [call.id for call in handed(callee)] == [1]


def test_a_call_that_runs_is_not_run_again_under_the_same_id(callee: Callee) -> None:
    callee.take(5)
    callee.take(5)

    assert len(handed(callee)) == 1
    assert callee.answers() == []


def test_at_the_deadline_the_caller_is_told_and_the_instance_too(callee: Callee) -> None:
    callee.take(7, ttl_ms=500)
    callee.wait(0.52)

    assert callee.refusal() == ("DEADLINE_EXCEEDED", "maybe")
    assert callee.session.handed[-1] == Cancel(4, 1)
    callee.inbound.reply(callee.session, Reply(2, 1, None, b"late"), 0.6)  # type: ignore[arg-type]
    assert callee.answers() == []


def test_only_its_own_caller_can_cancel_a_call(callee: Callee) -> None:
    callee.take(7)
    stranger = callee.keyring.peer_of("stranger", callee.stranger.boot)
    caller = callee.keyring.peer_of("caller", callee.caller.boot)
    assert stranger is not None
    assert caller is not None

    callee.inbound.cancel(stranger, 7, 0.1)
    callee.inbound.cancel(caller, 8, 0.1)
    assert callee.inbound.calls == 1
    callee.inbound.cancel(caller, 7, 0.1)
    assert callee.session.handed[-1] == Cancel(4, 1)
    assert callee.inbound.calls == 0


@pytest.mark.parametrize(("said", "told"), [("no", "no"), ("maybe", "yes"), ("yes", "yes"), (None, "yes")])
def test_only_a_service_that_says_so_did_not_run(callee: Callee, said: str | None, told: str) -> None:
    callee.take(7)
    head = {"ran": said, "metadata": {"a": "b"}, "forged": 1, "origin": "further"}
    frame = Fail(3, 1, 9, "SOLD_OUT", "none left", {"sku": "tea"}, head if said else None)
    callee.inbound.fail(callee.session, frame, 0.1)  # type: ignore[arg-type]
    (fail,) = callee.answers()

    assert isinstance(fail, Fail)
    assert fail[:6] == (3, 7, 9, "SOLD_OUT", "none left", {"sku": "tea"})
    kept = {"metadata": {"a": "b"}, "origin": "further"} if said else {}
    assert fail.head == {**kept, "ran": told, "instance": "callee-1"}


def test_when_an_app_is_gone_its_callers_know_at_once_that_nobody_knows(callee: Callee) -> None:
    callee.take(1)
    callee.take(2)
    callee.inbound.lost(callee.session, 0.1)  # type: ignore[arg-type]
    fails = callee.answers()

    assert [(fail.id, fail.reason, fail.head) for fail in fails if isinstance(fail, Fail)] == [
        (number, "OUTCOME_UNKNOWN", {"ran": "maybe", "instance": "callee-1"}) for number in (1, 2)
    ]
    assert callee.instance.inflight == 0


def test_a_session_is_handed_so_many_calls_at_once_and_no_more(callee: Callee) -> None:
    for number in range(5):
        callee.take(number)

    assert callee.refusal() == ("RESOURCE_EXHAUSTED", "no")
    assert (len(handed(callee)), callee.instance.inflight) == (4, 4)


def test_of_several_instances_in_one_process_each_call_names_its_own(callee: Callee) -> None:
    other = Instance("callee-2", "orders", "1", {}, callee.instance.methods, callee.session)  # type: ignore[arg-type]
    callee.session.instances = {"callee-1": callee.instance, "callee-2": other}
    callee.take()

    (call,) = handed(callee)
    assert call.head == {"expires_us": 500_000, "instance": "callee-1"}


def test_a_result_that_no_envelope_carries_ran_and_names_both_sizes(callee: Callee) -> None:
    callee.take(7)
    frame = Reply(2, 1, None, b"x" * callee.bus.max_payload)
    callee.inbound.reply(callee.session, frame, 0.1)  # type: ignore[arg-type]
    (fail,) = callee.answers()

    assert isinstance(fail, Fail)
    assert (fail.reason, fail.head) == ("PAYLOAD_TOO_LARGE", {"ran": "yes", "instance": "callee-1"})
    assert fail.details["bytes"] > fail.details["limit"]


def test_a_newer_policy_holds_for_the_next_call_and_not_for_those_under_way(callee: Callee) -> None:
    callee.take(1)
    callee.access = Access(PolicySet.of(parse("kind: Service\nname: orders\n", "policy")))
    callee.inbound.recompile()
    callee.take(2)
    assert callee.refusal() == ("PERMISSION_DENIED", "no")
    callee.inbound.reply(callee.session, Reply(2, 1, None, b"ok"), 0.1)  # type: ignore[arg-type]

    assert [type(frame) for frame in callee.answers()] == [Reply]
