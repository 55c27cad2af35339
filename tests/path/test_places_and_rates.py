"""Limit and Rate at the receiver's agent: who runs, who waits, who is refused, and what a change of policy keeps."""

import pytest
from path_world import POLICY, Callee

from bus_mesh.protocol.frames import Call, Cancel, Fail, Reply


def limited(concurrency: int, queue: int = 9, more: str = "") -> str:
    return f"{POLICY}traffic: {{limit: {{concurrency: {concurrency}, queue: {queue}}}{more}}}\n"


def callee_of(policy: str) -> Callee:
    callee = Callee()
    callee.inbound._most = 100
    callee.enforce(policy)
    return callee


def swap(callee: Callee, policy: str) -> None:
    callee.enforce(policy)
    callee.inbound.recompile()


def running(callee: Callee) -> list[int]:
    """The numbers that the caller gave those calls which the instance has now."""
    return [flight.id for flight in callee.session.serving.values()]


def finish(callee: Callee, number: int) -> None:
    """Have the instance answer the call that its caller gave this number."""
    (ours,) = [ours for ours, flight in callee.session.serving.items() if flight.id == number]
    callee.inbound.reply(callee.session, Reply(2, ours, None, b"result"), callee.now)  # type: ignore[arg-type]


def wait(callee: Callee, seconds: float) -> None:
    callee.now += seconds
    for flight in callee.wheel.due(callee.now):
        callee.inbound.driver.due(flight, callee.now)


def cancel(callee: Callee, number: int) -> None:
    peer = callee.opened(Cancel(4, number)).peer
    callee.inbound.cancel(peer, number, callee.now)


def refusals(callee: Callee) -> list[tuple[int, str, str]]:
    """(number, reason, whether it ran) of each FAIL that was sent since this was last asked."""
    fails = [frame for frame in callee.answers() if isinstance(frame, Fail)]
    return [(fail.id, fail.reason, (fail.head or {})["ran"]) for fail in fails]


def test_so_many_calls_run_and_the_others_have_their_turn_in_the_order_in_which_they_came() -> None:
    callee = callee_of(limited(2))
    for number in range(1, 6):
        callee.take(number)
    turns = [running(callee)]
    for number in (2, 1, 3, 4, 5):
        finish(callee, number)
        turns.append(running(callee))

    assert turns == [[1, 2], [1, 3], [3, 4], [4, 5], [5], []]
    assert [frame.id for frame in callee.answers() if isinstance(frame, Reply)] == [2, 1, 3, 4, 5]
    assert repr(callee.instance.limits[""]) == "ConcurrencyLimit(running=0/2, waiting=0)"


def test_what_finds_the_queue_full_is_told_when_to_come_again_and_did_not_run() -> None:
    callee = callee_of(limited(1, queue=1))
    for number in (1, 2, 3):
        callee.take(number)
    (fail,) = callee.answers()

    assert isinstance(fail, Fail)
    assert (fail.id, fail.code, fail.reason) == (3, 8, "RESOURCE_EXHAUSTED")
    assert fail.message == "orders at callee-1 is full: 1 calls run and 1 wait"
    assert fail.head == {"ran": "no", "retry_after_ms": 10, "instance": "callee-1"}
    assert callee.full == [callee.instance]


def test_what_could_not_have_its_turn_before_its_deadline_is_refused_at_once() -> None:
    callee = callee_of(limited(1))
    callee.take(1)
    callee.take(2, ttl_ms=5000)
    callee.now = 1.0
    finish(callee, 1)
    callee.take(3, ttl_ms=1500)
    callee.take(4, ttl_ms=2500)
    callee.answers()
    callee.take(5, ttl_ms=2900)

    assert refusals(callee) == [(5, "RESOURCE_EXHAUSTED", "no")]
    assert running(callee) == [2]


def test_what_waits_in_vain_ends_at_its_deadline_and_never_ran() -> None:
    callee = callee_of(limited(1))
    callee.take(1, ttl_ms=5000)
    callee.take(2, ttl_ms=200)
    callee.take(3, ttl_ms=5000)
    wait(callee, 0.21)
    assert refusals(callee) == [(2, "DEADLINE_EXCEEDED", "no")]
    finish(callee, 1)

    assert running(callee) == [3]


def test_a_place_is_not_handed_to_one_whose_deadline_is_over_and_who_has_yet_to_be_told() -> None:
    callee = callee_of(limited(1))
    callee.take(1, ttl_ms=5000)
    callee.take(2, ttl_ms=200)
    callee.take(3, ttl_ms=5000)
    callee.now = 0.2  # the wheel has not turned yet
    finish(callee, 1)

    assert running(callee) == [3]
    wait(callee, 0.02)
    finish(callee, 3)
    assert refusals(callee) == [(2, "DEADLINE_EXCEEDED", "no")]
    assert callee.instance.limits[""].running == 0


@pytest.mark.parametrize("given_up", [1, 2, 3])
def test_whoever_gives_up_gives_back_what_it_has_and_nothing_else(given_up: int) -> None:
    callee = callee_of(limited(1))
    for number in (1, 2, 3):
        callee.take(number)
    cancel(callee, given_up)
    left = [number for number in (1, 2, 3) if number != given_up]

    assert running(callee) == left[:1]
    for number in left:
        finish(callee, number)
    assert refusals(callee) == [(given_up, "CANCELLED", "maybe")]
    assert (callee.instance.limits[""].running, callee.instance.inflight) == (0, 0)


def test_when_its_process_is_gone_what_waits_for_an_instance_goes_elsewhere_at_once() -> None:
    callee = callee_of(limited(1))
    for number in (1, 2, 3):
        callee.take(number)
    callee.inbound.lost(callee.session, 0.1)

    assert sorted(refusals(callee)) == [
        (1, "OUTCOME_UNKNOWN", "maybe"),
        (2, "INSTANCE_GONE", "no"),
        (3, "INSTANCE_GONE", "no"),
    ]
    assert (callee.inbound.calls, callee.session.serving) == (0, {})
    assert [type(frame) for frame in callee.session.handed] == [Call]


def test_what_is_refused_further_in_gives_its_place_to_the_next() -> None:
    callee = callee_of(limited(1))
    callee.inbound._most = 0
    callee.take(1)
    callee.take(2)

    assert refusals(callee) == [(1, "RESOURCE_EXHAUSTED", "no"), (2, "RESOURCE_EXHAUSTED", "no")]
    assert callee.instance.limits[""].running == 0


def test_places_outlive_a_policy_that_leaves_them_as_they_are() -> None:
    callee = callee_of(limited(1))
    callee.take(1)
    callee.take(2)
    swap(callee, limited(1, more=", timeout: 1s"))
    callee.take(3)
    assert running(callee) == [1]
    finish(callee, 1)
    assert running(callee) == [2]
    finish(callee, 2)

    assert running(callee) == [3]


def test_with_another_number_of_places_new_ones_begin_and_the_old_queue_has_the_old() -> None:
    callee = callee_of(limited(1))
    callee.take(1)
    callee.take(2)
    swap(callee, limited(2))
    callee.take(3)
    callee.take(4)
    callee.take(5)
    assert running(callee) == [1, 3, 4]
    finish(callee, 1)
    assert running(callee) == [3, 4, 2]
    for number in (3, 4, 2, 5):
        finish(callee, number)

    assert (running(callee), callee.instance.inflight) == ([], 0)
    assert repr(callee.instance.limits[""]) == "ConcurrencyLimit(running=0/2, waiting=0)"


def test_where_policy_takes_the_limit_away_those_who_wait_keep_their_turn() -> None:
    callee = callee_of(limited(1))
    callee.take(1)
    callee.take(2)
    swap(callee, f"{POLICY}traffic: {{limit: off}}\n")
    callee.take(3)
    assert running(callee) == [1, 3]
    finish(callee, 1)

    assert running(callee) == [3, 2]


def test_a_method_with_a_limit_of_its_own_has_its_own_places_and_the_others_share() -> None:
    callee = callee_of(limited(1) + "methods: {create: {limit: {concurrency: 1}}}\n")
    for number, method in enumerate(("get", "get", "create", "create"), start=1):
        callee.take(number, method)

    assert running(callee) == [1, 3]


@pytest.mark.parametrize(
    ("per", "calls", "refused"),
    [
        ("caller", [("web", "get"), ("web", "create"), ("cart", "get")], [2]),
        ("service", [("web", "get"), ("web", "create"), ("cart", "get")], [2, 3]),
        ("method", [("web", "get"), ("web", "create"), ("cart", "get")], [3]),
    ],
)
def test_calls_are_counted_by_who_calls_or_what_is_called(
    per: str, calls: list[tuple[str, str]], refused: list[int]
) -> None:
    callee = callee_of(f"{POLICY}traffic: {{rate: [{{per: {per}, limit: 1/s, burst: 1}}]}}\n")
    for number, (caller, method) in enumerate(calls, start=1):
        callee.take(number, method, caller=caller)
    fails = [frame for frame in callee.answers() if isinstance(frame, Fail)]

    assert [fail.id for fail in fails] == refused
    assert {(fail.reason, fail.code) for fail in fails} == {("RATE_LIMITED", 8)}
    assert fails[0].head == {"ran": "no", "retry_after_ms": 1000, "instance": "callee-1"}
    assert callee.events == [("limited", f"rate per {per}")] * len(refused)


def test_what_its_rate_refuses_takes_no_place_and_comes_in_time_when_it_comes_as_told() -> None:
    callee = callee_of(limited(1, more=", rate: [{per: service, limit: 2/s, burst: 1}]"))
    callee.take(1)
    callee.take(2)
    assert repr(callee.instance.limits[""]) == "ConcurrencyLimit(running=1/1, waiting=0)"
    callee.answers()
    callee.now = 0.5
    callee.take(3)

    assert callee.answers() == []
    assert callee.instance.limits[""].waiting == 1


def test_who_may_not_call_uses_up_nobody_s_tokens() -> None:
    callee = callee_of(f"{POLICY}traffic: {{rate: [{{per: service, limit: 1/s, burst: 1}}]}}\n")
    callee.caller = callee.stranger  # it may speak for web alone
    callee.take(1, caller="cart")
    callee.take(2, method="nothing")

    assert running(callee) == []
    callee.take(3)
    assert running(callee) == [3]


@pytest.mark.parametrize("more", [", timeout: 1s", ", limit: off"])
def test_tokens_outlive_a_policy_that_leaves_their_rate_as_it_is(more: str) -> None:
    rate = "rate: [{per: caller, limit: 1/s, burst: 1}]"
    callee = callee_of(f"{POLICY}traffic: {{{rate}}}\n")
    callee.take(1)
    swap(callee, f"{POLICY}traffic: {{{rate}{more}}}\n")
    callee.take(2)

    assert refusals(callee) == [(2, "RATE_LIMITED", "no")]


def test_what_the_mesh_says_of_traffic_holds_for_a_service_that_says_nothing() -> None:
    mesh = (
        "---\nkind: Mesh\ntraffic: {limit: {concurrency: 1, queue: 0}, rate: [{per: method, limit: 1/s, burst: 1}]}\n"
    )
    callee = callee_of(POLICY + mesh)
    callee.take(1, "get")
    callee.take(2, "get")
    callee.take(3, "create")

    assert refusals(callee) == [(2, "RATE_LIMITED", "no"), (3, "RESOURCE_EXHAUSTED", "no")]


def test_the_word_of_the_service_holds_over_that_of_the_mesh() -> None:
    callee = callee_of(limited(2) + "---\nkind: Mesh\ntraffic: {limit: {concurrency: 1, queue: 0}}\n")
    callee.take(1)
    callee.take(2)

    assert running(callee) == [1, 2]
