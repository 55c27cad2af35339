"""Calls with an idempotency key at the agent of their instance: one runs, and all are told the same."""

from typing import Any

import pytest
from path_world import POLICY, Callee

from bus_mesh.gates.once import KEPT_FOR
from bus_mesh.protocol.frames import Call, Fail, Reply
from bus_mesh.resilience.kept_answers import SET_ASIDE, KeptAnswers


@pytest.fixture
def callee() -> Callee:
    return Callee()


def take(callee: Callee, number: int, key: object = "k", **more: Any) -> None:
    callee.take(number, idempotency_key=key, **more)


def handed(callee: Callee) -> list[tuple[int, bytes]]:
    return [(frame.id, frame.payload) for frame in callee.session.handed if isinstance(frame, Call)]


def reply(callee: Callee, number: int = 1, payload: bytes = b"result") -> None:
    callee.inbound.reply(callee.session, Reply(2, number, None, payload), callee.now)  # type: ignore[arg-type]


def fail(callee: Callee, number: int, ran: str) -> None:
    frame = Fail(3, number, 9, "SOLD_OUT", "none left", {"sku": "tea"}, {"ran": ran})
    callee.inbound.fail(callee.session, frame, callee.now)  # type: ignore[arg-type]


def told(callee: Callee) -> list[tuple[int, bytes | str, str]]:
    """Return (number, result or reason, whether it ran) of each answer."""
    found: list[tuple[int, bytes | str, str]] = []
    for frame in callee.answers():
        if isinstance(frame, Reply):
            found.append((frame.id, frame.payload, "yes"))
        else:
            assert isinstance(frame, Fail)
            found.append((frame.id, frame.reason, (frame.head or {})["ran"]))
    return found


def results(callee: Callee) -> list[str]:
    return [which for what, which in callee.events if what == "idempotency_keys"]


def test_what_comes_twice_with_one_key_runs_once_and_both_have_the_answer(callee: Callee) -> None:
    take(callee, 7)
    take(callee, 8)
    assert (handed(callee), callee.instance.inflight, callee.answers()) == ([(1, b"params")], 2, [])
    reply(callee)

    assert told(callee) == [(7, b"result", "yes"), (8, b"result", "yes")]
    assert (callee.inbound.calls, callee.instance.inflight, len(callee.wheel)) == (0, 0, 0)
    assert results(callee) == ["ran", "joined"]


def test_the_answer_is_kept_for_a_minute_beyond_the_deadline_of_the_call_that_ran(callee: Callee) -> None:
    take(callee, 7, ttl_ms=500)
    reply(callee)
    callee.answers()
    callee.now = 0.499 + KEPT_FOR
    take(callee, 8)
    assert told(callee) == [(8, b"result", "yes")]
    callee.now = 0.501 + KEPT_FOR
    take(callee, 9)

    assert [number for number, _ in handed(callee)] == [1, 2]
    assert results(callee) == ["ran", "answered", "ran"]


def test_a_key_is_that_of_an_app_on_whichever_node_and_of_one_method(callee: Callee) -> None:
    take(callee, 7)
    take(callee, 7, by=callee.stranger)
    assert len(handed(callee)) == 1
    take(callee, 8, method="create")
    take(callee, 9, caller="cart")

    assert len(handed(callee)) == 3


@pytest.mark.parametrize("answered", [False, True])
def test_a_key_with_other_parameters_is_refused_and_does_not_run(callee: Callee, answered: bool) -> None:
    take(callee, 7)
    if answered:
        reply(callee)
        callee.answers()
    take(callee, 8, payload=b"others")

    assert told(callee) == [(8, "KEY_REUSED", "no")]
    assert len(handed(callee)) == 1


def test_an_error_of_the_service_is_an_answer_like_any_other(callee: Callee) -> None:
    take(callee, 7)
    take(callee, 8)
    fail(callee, 1, "yes")
    take(callee, 9)

    assert told(callee) == [(number, "SOLD_OUT", "yes") for number in (7, 8, 9)]
    assert len(handed(callee)) == 1


def test_a_call_that_did_not_run_leaves_its_turn_to_the_next_that_joined(callee: Callee) -> None:
    for number in (7, 8, 9):
        take(callee, number)
    fail(callee, 1, "no")
    assert handed(callee) == [(1, b"params"), (2, b"params")]
    assert told(callee) == [(7, "SOLD_OUT", "no")]
    reply(callee, 2)

    assert told(callee) == [(8, b"result", "yes"), (9, b"result", "yes")]
    assert results(callee) == ["ran", "joined", "joined", "ran"]


def test_a_key_whose_only_call_did_not_run_is_free_again(callee: Callee) -> None:
    take(callee, 7)
    fail(callee, 1, "no")
    take(callee, 8, payload=b"others")

    assert handed(callee) == [(1, b"params"), (2, b"others")]


def test_what_the_instance_has_no_room_for_frees_its_key(callee: Callee) -> None:
    for number in range(4):
        callee.take(number)
    take(callee, 7)
    assert told(callee) == [(7, "RESOURCE_EXHAUSTED", "no")]
    reply(callee, 1)
    take(callee, 8)

    assert len(handed(callee)) == 5


def test_who_waits_for_the_answer_of_another_takes_no_place_at_the_instance(callee: Callee) -> None:
    for number in range(3):
        callee.take(number)
    for number in range(7, 17):
        take(callee, number)

    assert (len(callee.session.serving), callee.answers()) == (4, [])


def cancel(callee: Callee, number: int) -> None:
    peer = callee.keyring.peer_of("caller", callee.caller.boot)
    assert peer is not None
    callee.inbound.cancel(peer, number, callee.now)


def test_after_a_cancel_nobody_knows_what_the_handler_did_and_it_does_not_run_again(callee: Callee) -> None:
    take(callee, 7)
    take(callee, 8)
    cancel(callee, 7)
    take(callee, 9)

    assert told(callee) == [(7, "CANCELLED", "maybe"), (8, "OUTCOME_UNKNOWN", "maybe"), (9, "OUTCOME_UNKNOWN", "maybe")]
    assert len(handed(callee)) == 1


def test_after_the_deadline_of_the_call_that_ran_nobody_knows_either(callee: Callee) -> None:
    take(callee, 7, ttl_ms=500)
    take(callee, 8, ttl_ms=5000)
    callee.wait(0.52)
    take(callee, 9)

    assert told(callee) == [
        (7, "DEADLINE_EXCEEDED", "maybe"),
        (8, "OUTCOME_UNKNOWN", "maybe"),
        (9, "OUTCOME_UNKNOWN", "maybe"),
    ]
    assert len(handed(callee)) == 1


def test_who_waits_no_longer_may_have_run_and_the_first_goes_on(callee: Callee) -> None:
    take(callee, 7, ttl_ms=5000)
    take(callee, 8, ttl_ms=500)
    take(callee, 9, ttl_ms=5000)
    cancel(callee, 9)
    callee.wait(0.52)
    assert told(callee) == [(9, "CANCELLED", "maybe"), (8, "DEADLINE_EXCEEDED", "maybe")]
    reply(callee)

    assert told(callee) == [(7, b"result", "yes")]
    assert callee.instance.kept.joined == 0


def test_when_the_app_is_gone_those_who_wait_know_too(callee: Callee) -> None:
    take(callee, 7)
    take(callee, 8)
    callee.inbound.lost(callee.session, 0.1)  # type: ignore[arg-type]

    assert told(callee) == [(7, "OUTCOME_UNKNOWN", "maybe"), (8, "OUTCOME_UNKNOWN", "maybe")]


def test_when_full_new_keys_are_refused_with_a_delay_and_all_else_goes_on(callee: Callee) -> None:
    callee.instance.kept = KeptAnswers(most=1)
    take(callee, 7, "a")
    reply(callee)
    callee.answers()
    take(callee, 8, "b")
    (refused,) = callee.answers()
    assert isinstance(refused, Fail)
    assert (refused.reason, refused.head) == (
        "RESOURCE_EXHAUSTED",
        {"ran": "no", "retry_after_ms": 60_000, "instance": "callee-1"},
    )
    take(callee, 9, "a")
    callee.take(10)

    assert told(callee) == [(9, b"result", "yes")]
    assert len(handed(callee)) == 2
    assert results(callee) == ["ran", "full", "answered"]


def test_so_many_wait_for_answers_and_one_more_is_refused_though_its_call_may_run(callee: Callee) -> None:
    callee.instance.kept = KeptAnswers(most_joined=1)
    for number in (7, 8, 9):
        take(callee, number)

    assert told(callee) == [(9, "RESOURCE_EXHAUSTED", "maybe")]


def test_an_answer_too_long_to_be_kept_is_given_to_those_who_wait_and_never_runs_again(callee: Callee) -> None:
    callee.instance.kept = KeptAnswers(most_bytes=SET_ASIDE + 100)
    take(callee, 7)
    take(callee, 8)
    reply(callee, payload=b"x" * 101)
    take(callee, 9)

    assert told(callee) == [(7, b"x" * 101, "yes"), (8, b"x" * 101, "yes"), (9, "OUTCOME_UNKNOWN", "yes")]
    assert len(handed(callee)) == 1


def test_who_has_its_turn_handed_on_queues_for_a_place_like_any_other(callee: Callee) -> None:
    callee.enforce(POLICY + "traffic: {limit: {concurrency: 1, queue: 1}}\n")
    take(callee, 7)
    take(callee, 8)
    callee.take(9)
    fail(callee, 1, "no")  # its place goes to 9, and its turn to 8, which waits for that place
    assert (told(callee), len(handed(callee))) == ([(7, "SOLD_OUT", "no")], 2)
    cancel(callee, 8)
    take(callee, 10)
    reply(callee, 2)
    reply(callee, 3)

    assert told(callee) == [(8, "CANCELLED", "maybe"), (9, b"result", "yes"), (10, b"result", "yes")]


@pytest.mark.parametrize("key", [7, b"k", "", "k" * 256, "é" * 128, ["k"]])
def test_what_is_no_key_is_refused(callee: Callee, key: object) -> None:
    take(callee, 7, key)

    assert told(callee) == [(7, "INVALID_ARGUMENT", "no")]
    assert handed(callee) == []


def test_a_key_of_255_bytes_is_one_and_calls_without_any_are_not_each_others(callee: Callee) -> None:
    take(callee, 7, "k" * 255)
    callee.take(8)
    callee.take(9, traceparent="00-a")

    assert len(handed(callee)) == 3
    assert len(callee.instance.kept) == 1


def test_a_newer_policy_keeps_the_answers_and_says_who_may_have_them(callee: Callee) -> None:
    take(callee, 7)
    reply(callee)
    callee.answers()
    callee.inbound.recompile()
    take(callee, 8)
    assert told(callee) == [(8, b"result", "yes")]
    callee.enforce("kind: Service\nname: orders\n")
    callee.inbound.recompile()
    take(callee, 9)
    assert told(callee) == [(9, "PERMISSION_DENIED", "no")]
    callee.enforce(POLICY + "envelope: signed\n")
    callee.inbound.recompile()
    take(callee, 10)

    assert told(callee) == [(10, "SIGNATURE_REQUIRED", "no")]
