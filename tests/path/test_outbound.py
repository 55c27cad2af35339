"""Calls of local apps: where each try goes, who may answer it, and what is never run twice."""

import hashlib
from typing import Any

import pytest
from path_world import ROUND_ROBIN, App, Caller, Message, Serving, at

from bus_mesh.gates.balance import FIND_PATIENCE
from bus_mesh.gates.gate import Flight, Path
from bus_mesh.policy.traffic import Retry
from bus_mesh.protocol.errors import Ran
from bus_mesh.protocol.frames import Call, Cancel, Fail, Refused, Reply


def calls(serving: Serving, messages: list[Message]) -> list[Call]:
    return [frame for message in messages for frame in serving.open(message) if isinstance(frame, Call)]


def failed(number: int, reason: str, ran: str, instance: str | None = None, code: int = 14) -> Fail:
    head: dict[str, Any] = {"ran": ran} | ({"instance": instance} if instance else {})
    return Fail(3, number, code, reason, "why", None, head)


@pytest.fixture
def one() -> Serving:
    return Serving("n1")


@pytest.fixture
def two() -> Serving:
    return Serving("n2")


@pytest.fixture
def app() -> App:
    return App()


def test_a_call_goes_out_in_the_name_of_its_session_and_its_answer_comes_back(one: Serving, app: App) -> None:
    caller = Caller(one)
    caller.call(app, 77, metadata={"a": "b"}, idempotent=True, key="k", expires_us=4_000_000)
    (call,) = calls(one, caller.turn())
    assert (call.caller, call.service, call.method, call.payload) == ("web", "orders", "create", b"params")
    assert call.head == {"metadata": {"a": "b"}}, "what is between app and agent stays there"
    assert call.ttl_ms == 4000, "the earlier of both deadlines holds"
    caller.answered(one, Reply(2, call.id, {"instance": "n1-1", "load": 3}, b"result"))

    assert app.told == [Reply(2, 77, None, b"result")]
    assert app.flights == caller.outbound.awaiting == caller.outbox.sent == {}


def test_a_caller_that_asks_is_told_who_answered(one: Serving, app: App) -> None:
    caller = Caller(one)
    caller.call(app, 77, named=True)
    (call,) = calls(one, caller.turn())
    caller.answered(one, Reply(2, call.id, {"instance": "n1-1", "load": 3}, b"result"))

    assert app.told == [Reply(2, 77, {"instance": "n1-1"}, b"result")]


def test_only_those_asked_may_answer(one: Serving, two: Serving, app: App) -> None:
    caller = Caller(one, traffic=ROUND_ROBIN)
    caller.call(app)
    (call,) = calls(one, caller.turn())
    caller.learn(two, "n2-1")

    caller.answered(two, Reply(2, call.id, None, b"forged"))
    caller.answered(two, failed(call.id, "DRAINING", "no"))

    assert app.told == []
    caller.answered(one, Reply(2, call.id, None, b"true"))
    assert app.told == [Reply(2, 1, None, b"true")]


def test_who_may_not_serve_a_service_may_not_answer_for_it(one: Serving, app: App) -> None:
    caller = Caller(one)
    caller.call(app)
    (call,) = calls(one, caller.turn())
    peer = caller.peer(one)
    peer.certificate = peer.certificate._replace(serve=frozenset(("stock",)))
    caller.answered(one, Reply(2, call.id, None, b"forged"))

    assert app.told == []


def test_a_second_answer_and_one_to_an_old_try_are_dropped(one: Serving, two: Serving, app: App) -> None:
    caller = Caller(one, two)
    caller.call(app, method="get")
    (first,) = calls(one, caller.turn())
    caller.answered(one, failed(first.id, "UNAVAILABLE", "maybe", "n1-1"))
    (second,) = calls(two, caller.turn())
    caller.answered(two, Reply(2, first.id, None, b"old"))
    assert app.told == []
    caller.answered(two, Reply(2, second.id, None, b"new"))
    caller.answered(two, Reply(2, second.id, None, b"again"))

    assert app.told == [Reply(2, 1, None, b"new")]


def test_whatever_the_method_a_call_to_a_leaving_instance_moves_to_another(
    one: Serving, two: Serving, app: App
) -> None:
    caller = Caller(one, two)
    caller.call(app)
    (first,) = calls(one, caller.turn())
    caller.answered(one, failed(first.id, "DRAINING", "no", "n1-1"))
    (moved,) = calls(two, caller.turn())

    assert moved.head == {"attempt": 2, "instance": "n2-1"}
    assert moved.id != first.id


def test_moves_are_not_counted_as_tries(one: Serving, two: Serving, app: App) -> None:
    caller = Caller(one, two)
    caller.call(app, method="get")
    (call,) = calls(one, caller.turn())
    caller.answered(one, failed(call.id, "DRAINING", "no", "n1-1"))
    tries = 0
    while not app.told:
        tries += 1
        messages = caller.turn()
        serving = one if messages[0].subject == one.inbox else two
        (call,) = calls(serving, messages)
        caller.answered(serving, failed(call.id, "UNAVAILABLE", "maybe", call.head["instance"]))  # type: ignore[index]

    assert tries == Retry().tries


@pytest.mark.parametrize(
    ("method", "first_reason", "first_ran"),
    [("get", "OUTCOME_UNKNOWN", "maybe"), ("create", "DRAINING", "no")],
    ids=["tried twice", "only moved"],
)
def test_a_call_is_said_not_to_have_run_only_if_no_try_of_it_may_have(
    one: Serving, two: Serving, app: App, method: str, first_reason: str, first_ran: str
) -> None:
    caller = Caller(one, two)
    caller.call(app, method=method)
    (first,) = calls(one, caller.turn())
    caller.answered(one, failed(first.id, first_reason, first_ran, "n1-1"))
    (second,) = calls(two, caller.turn())
    caller.answered(two, failed(second.id, "RESOURCE_EXHAUSTED", "no", "n2-1", code=8))

    assert (app.fail.reason, app.fail.head) == ("RESOURCE_EXHAUSTED", {"ran": first_ran, "instance": "n2-1"})


def test_a_draining_that_may_have_run_moves_nothing(one: Serving, two: Serving, app: App) -> None:
    caller = Caller(one, two)
    caller.call(app)
    (call,) = calls(one, caller.turn())
    caller.answered(one, failed(call.id, "DRAINING", "maybe", "n1-1"))

    assert app.fail.reason == "DRAINING"
    assert caller.turn() == []


@pytest.mark.parametrize("method", ["create", "get"])
def test_a_503_never_runs_what_is_not_idempotent_again(one: Serving, app: App, method: str) -> None:
    caller = Caller(one)
    caller.call(app, method=method)
    (message,) = caller.turn()
    held = caller.outbound.nobody(message.counter, 0.0)
    again = caller.turn()

    assert [flight.id for flight in held] == [1]
    if method == "create":  # the 503 may be forged and the call be running
        assert (app.fail.reason, app.fail.head, again) == ("NO_INSTANCES", {"ran": "maybe"}, [])
    else:
        assert (len(again), app.told) == (1, [])


@pytest.mark.parametrize("state", ["up", "full", "unwell"])
def test_what_the_last_member_of_a_group_has_just_left_goes_to_an_instance_directly_and_costs_no_try(
    one: Serving, app: App, state: str
) -> None:
    caller = Caller(one, traffic="retry: {tries: 1}")
    caller.call(app, method="get")
    (message,) = caller.turn()
    caller.learn(one, "n1-1", state=state)
    caller.outbound.nobody(message.counter, 0.0)
    (moved,) = caller.turn()
    (call,) = calls(one, [moved])

    assert (moved.subject, call.head) == (one.inbox, {"attempt": 2, "instance": "n1-1"})
    caller.answered(one, Reply(2, call.id, None, b"ok"))
    assert app.told == [Reply(2, 1, None, b"ok")]


def test_what_the_last_member_of_a_group_has_just_left_ends_when_nobody_is_left_at_all(one: Serving, app: App) -> None:
    caller = Caller(one, traffic="retry: {tries: 1}")
    caller.call(app, method="get")
    (message,) = caller.turn()
    caller.directory.gone("n1", one.keyring.boot)
    caller.outbound.nobody(message.counter, 0.0)
    assert (app.told, caller.asked) == ([], ["orders"])
    caller.directory.missing("orders", 0.0)
    caller.outbound.changed(["orders"], caller.parts.waiting.of, 0.0)

    assert (app.fail.reason, app.fail.head) == ("NO_INSTANCES", {"ran": "maybe"})


def test_a_call_to_one_instance_that_is_gone_is_tried_again_at_another(one: Serving, two: Serving, app: App) -> None:
    caller = Caller(one, two, traffic="balance: round_robin")
    caller.call(app, method="get")
    (message,) = caller.turn()
    caller.outbound.nobody(message.counter, 0.0)
    caller.wait(0.1)
    (again,) = calls(two, caller.turn())

    assert again.head == {"attempt": 2, "instance": "n2-1"}


def test_while_nobody_is_up_calls_go_directly_to_who_is_full_and_then_by_the_group_again(
    one: Serving, two: Serving, app: App
) -> None:
    caller = Caller(one, two)
    caller.learn(one, "n1-1", state="full")
    caller.now = 5.0
    caller.call(app, 1)
    assert caller.turn()[0].subject == "mesh.demo.rpc.orders.create"
    caller.learn(two, "n2-1", state="unwell")
    caller.call(app, 2)
    (direct,) = caller.turn()
    assert (direct.subject, calls(one, [direct])[0].head) == (one.inbox, {"instance": "n1-1"})

    caller.learn(two, "n2-1")
    caller.now = 6.5
    caller.call(app, 3)
    assert caller.turn()[0].subject == "mesh.demo.rpc.orders.create"


def test_a_503_for_an_unknown_envelope_or_an_answered_call_changes_nothing(one: Serving, app: App) -> None:
    caller = Caller(one)
    caller.call(app)
    (message,) = caller.turn()

    assert caller.outbound.nobody(message.counter + 1, 0.0) == []
    caller.answered(one, Reply(2, 1, None, b"ok"))
    assert caller.outbound.nobody(message.counter, 0.0) == []
    assert app.told == [Reply(2, 1, None, b"ok")]


def test_an_envelope_refused_with_its_own_hash_is_sent_once_more_and_directly(
    one: Serving, two: Serving, app: App
) -> None:
    caller = Caller(one)
    caller.call(app)
    (message,) = caller.turn()
    caller.learn(two, "n2-1")
    caller.answered(two, Refused(5, message.counter, b"0" * 32, "NOT_A_RECIPIENT"))
    assert caller.turn() == []

    refusal = Refused(5, message.counter, hashlib.sha256(message.data).digest(), "NOT_A_RECIPIENT")
    caller.answered(two, refusal)
    caller.answered(two, refusal)

    (again,) = caller.turn()
    assert again.subject in (one.inbox, two.inbox)
    assert again.counter != message.counter
    assert app.told == []


def test_a_refusal_by_one_who_may_not_serve_or_of_a_direct_call_changes_nothing(one: Serving, app: App) -> None:
    stranger = Serving("n9", serve=("stock",))
    for traffic in ("", ROUND_ROBIN):
        caller = Caller(one, traffic=traffic)
        caller.learn(stranger)
        caller.call(app, 1 if traffic else 2)
        (message,) = caller.turn()
        digest = hashlib.sha256(message.data).digest()
        caller.answered(one if traffic else stranger, Refused(5, message.counter, digest, "NOT_A_RECIPIENT"))

        assert caller.turn() == []


@pytest.mark.parametrize(("method", "tries"), [("create", 0), ("get", 1)])
def test_an_unknown_outcome_is_tried_again_only_where_that_does_no_harm(
    one: Serving, two: Serving, app: App, method: str, tries: int
) -> None:
    caller = Caller(one, two)
    caller.call(app, method=method)
    (call,) = calls(one, caller.turn())
    caller.answered(one, failed(call.id, "OUTCOME_UNKNOWN", "maybe", "n1-1"))

    assert len(caller.turn()) == tries
    assert [frame.reason for frame in app.told if isinstance(frame, Fail)] == ["OUTCOME_UNKNOWN"] * (1 - tries)


@pytest.mark.parametrize("said", [True, False])
def test_an_app_may_say_that_its_call_is_idempotent(one: Serving, two: Serving, app: App, said: bool) -> None:
    caller = Caller(one, two)
    caller.call(app, idempotent=said)
    (call,) = calls(one, caller.turn())
    caller.answered(one, failed(call.id, "UNAVAILABLE", "maybe", "n1-1"))

    assert bool(caller.turn()) is said


def test_an_error_from_further_down_is_not_the_instance_s_and_not_tried_again(one: Serving, app: App) -> None:
    caller = Caller(one)
    caller.call(app, method="get")
    (call,) = calls(one, caller.turn())
    frame = failed(call.id, "UNAVAILABLE", "maybe", "n1-1")
    caller.answered(one, frame._replace(head={**(frame.head or {}), "origin": "further"}))

    assert app.fail.reason == "UNAVAILABLE"


def test_at_its_deadline_a_call_ends_and_every_recipient_is_told(one: Serving, two: Serving, app: App) -> None:
    caller = Caller(one, two)
    caller.call(app, ttl_ms=1000)
    (call,) = calls(one, caller.turn())
    caller.wait(0.9)
    assert app.told == []
    caller.wait(0.12)
    messages = caller.turn()

    assert (app.fail.code, app.fail.head) == (4, {"ran": "maybe"})
    assert {message.subject for message in messages} == {one.inbox, two.inbox}
    told = [next(s for s in (one, two) if s.inbox == message.subject).open(message) for message in messages]
    assert told == [[Cancel(4, call.id)]] * 2
    caller.answered(one, Reply(2, call.id, None, b"late"))
    assert len(app.told) == 1


def test_after_a_call_that_ended_unanswered_its_recipients_are_introduced_to_us_again(one: Serving, app: App) -> None:
    caller = Caller(one)
    caller.peer(one).knows_me = True
    caller.call(app)
    caller.turn()
    caller.outbound.cancel(app, 1, 0.0)

    assert not caller.peer(one).knows_me


def test_an_app_that_is_gone_gives_its_calls_up(one: Serving, app: App) -> None:
    caller = Caller(one)
    for number in range(3):
        caller.call(app, number)
    caller.turn()
    caller.outbound.lost(app, 0.0)
    cancelled = [frame for message in caller.turn() for frame in one.open(message)]

    assert [type(frame) for frame in cancelled] == [Cancel] * 3
    assert app.flights == caller.outbound.awaiting == {}


def test_calls_wait_for_the_service_to_be_found_and_all_go_then(one: Serving, app: App) -> None:
    caller = Caller()
    for number in range(3):
        caller.call(app, number)
    assert (caller.turn(), caller.asked) == ([], ["orders"] * 3)
    caller.learn(one, "n1-1", state="joining")
    assert caller.turn() == []
    caller.learn(one, "n1-1")

    assert len(calls(one, caller.turn())) == 3
    assert repr(caller.parts.waiting) == "Waiting({})"


def test_a_call_that_nobody_is_found_for_did_not_run(app: App) -> None:
    caller = Caller()
    caller.call(app)
    caller.wait(FIND_PATIENCE - 0.1)
    assert app.told == []
    caller.wait(0.2)

    assert (app.fail.reason, app.fail.head) == ("NO_INSTANCES", {"ran": "no"})


def test_the_calls_of_a_dead_process_end_or_move_at_once(one: Serving, two: Serving) -> None:
    for method, traffic, ends in (
        ("create", ROUND_ROBIN, True),  # it alone had it
        ("get", ROUND_ROBIN, False),
        ("create", "", False),  # another member of the group may be running it
        ("get", "", False),
    ):
        caller, app = Caller(one, two, traffic=traffic), App()
        caller.call(app, method=method)
        (first,) = caller.turn()
        dead = two if first.subject == two.inbox else one
        caller.outbound.dead(dead.keyring.own.node, dead.keyring.boot, 0.0)

        assert [frame.reason for frame in app.told if isinstance(frame, Fail)] == (["OUTCOME_UNKNOWN"] if ends else [])
        assert len(caller.turn()) == (1 if method == "get" else 0), (method, traffic)


@pytest.mark.parametrize(("service", "method"), [("or.ders", "get"), ("orders", "*"), ("", "get"), ("orders", "Get")])
def test_what_is_no_name_reaches_no_subject(one: Serving, app: App, service: str, method: str) -> None:
    caller = Caller(one)
    caller.outbound.call(app, Call(1, 1, service, method, 500, "", None, b""), 0.0)

    assert (app.fail.reason, app.fail.head) == ("INVALID_NAME", {"ran": "no"})
    assert (caller.turn(), caller.asked) == ([], [])


def test_what_policy_denies_is_not_even_searched_for(one: Serving) -> None:
    caller, app = Caller(one), App("batch")
    caller.call(app)

    assert app.fail.details == {"rule": "default deny", "policy": 0, "side": "outbound"}
    assert (caller.turn(), caller.asked) == ([], [])


def test_a_call_that_no_envelope_carries_names_both_sizes(one: Serving, app: App) -> None:
    caller = Caller(one, max_payload=128 * 1024)
    caller.outbound.call(app, Call(1, 1, "orders", "create", 500, "", None, b"x" * 140_000), 0.0)

    assert app.fail.reason == "PAYLOAD_TOO_LARGE"
    assert app.fail.details["limit"] == caller.outbox.room() < app.fail.details["bytes"]
    assert caller.turn() == []


def test_a_session_has_so_many_calls_under_way_and_no_more(one: Serving, app: App) -> None:
    caller = Caller(one)
    caller.outbound._most = 2
    for number in range(3):
        caller.call(app, number)

    assert (app.fail.id, app.fail.reason, app.fail.head) == (
        2,
        "RESOURCE_EXHAUSTED",
        {"ran": str(Ran.NO), "retry_after_ms": 100},
    )


def test_odd_words_in_an_answer_s_head_do_no_harm(one: Serving, app: App) -> None:
    caller = Caller(one)
    for number, head in enumerate(({"instance": 7}, {"instance": "x" * 96, "load": "many"}, {"ran": []}, None)):
        caller.call(app, number)
        (call,) = calls(one, caller.turn())
        caller.answered(one, Reply(2, call.id, head, b"ok"))

    assert [frame.head for frame in app.told] == [None] * 4


def test_apps_that_call_the_same_method_share_its_envelope_and_its_round_robin(one: Serving, two: Serving) -> None:
    grouped, web, cart = Caller(one), App("web"), App("cart")
    for app in (web, cart):
        grouped.call(app, 1)
    first = grouped.turn()
    for number in (2, 3):
        for app in (web, cart):
            grouped.call(app, number)
    assert (len(first), len(grouped.turn())) == (2, 1), "the first leaves at once; of the rest all leave together"

    caller = Caller(one, two, traffic=ROUND_ROBIN)
    for number in range(2):
        for app in (web, cart):
            caller.call(app, 10 + number)
    asked = [message.subject for message in caller.turn()]
    assert (asked.count(one.inbox), asked.count(two.inbox)) == (2, 1)


def test_while_its_agent_leaves_a_serving_app_still_calls_by_turns(one: Serving, two: Serving, app: App) -> None:
    compilations: list[str] = []
    caller = Caller(one, two, traffic=ROUND_ROBIN)
    compiled = caller.outbound._compile
    caller.outbound._compile = lambda service, method: compilations.append(method) or compiled(service, method)
    caller.outbound.leave()
    app.serving[1] = Flight(Path(), None, 1, "web", "m", "x", None, b"", 0.0, 1.0)
    for number in range(6):
        caller.call(app, number)

    assert compilations == ["create"], (
        "compiled once: a new picker for each call would choose the first instance for ever"
    )


def test_calls_of_two_epochs_keep_their_envelopes_apart(one: Serving, app: App) -> None:
    caller = Caller(one)
    caller.call(app, 1)
    (before,) = calls(one, caller.turn())
    caller.keyring.rotate(at(0))
    one.keyring.accept(caller.keyring.announcement, at(0))
    caller.call(app, 2)
    (after,) = calls(one, caller.turn())
    counters = list(caller.outbox.sent)
    for call in (after, before):
        caller.answered(one, Reply(2, call.id, None, b"result"))

    assert len(set(counters)) == 2
    assert [reply.id for reply in app.told if isinstance(reply, Reply)] == [2, 1]
    assert caller.outbox.sent == {}
