"""Which failed tries may be made again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus_mesh.protocol.call import Origin, Outcome
from bus_mesh.protocol.errors import Code, MeshError, OutcomeUnknown, Ran
from bus_mesh.resilience.retryable import MOVES, Next, after

REASONS = ("UNAVAILABLE", "DRAINING", "INSTANCE_GONE", "NOT_A_RECIPIENT", "BUS_STALLED", "CIRCUIT_OPEN", "NO_INSTANCES")


def outcome(
    reason: str = "UNAVAILABLE",
    ran: Ran = Ran.MAYBE,
    origin: Origin = Origin.TARGET,
    code: Code = Code.UNAVAILABLE,
    final: bool = False,
    instance: str | None = "i1",
) -> Outcome:
    error = MeshError("", ran=ran)
    error.wire_code, error.wire_reason = code, reason
    made = Outcome.refusal(error, instance, final)
    made.origin = origin
    return made


outcomes = st.builds(
    outcome,
    reason=st.sampled_from(REASONS),
    ran=st.sampled_from(Ran),
    origin=st.sampled_from(Origin),
    code=st.sampled_from([Code.UNAVAILABLE, Code.UNAVAILABLE, *Code]),
    final=st.booleans(),
    instance=st.sampled_from(["i1", None]),
)


@settings(max_examples=400, deadline=None)
@given(outcomes, st.booleans(), st.integers(1, 12), st.integers(0, 12), st.integers(1, 10))
def test_nothing_is_run_twice_that_may_not_be(
    failed: Outcome, idempotent: bool, attempt: int, moves: int, tries: int
) -> None:
    verdict = after(failed, idempotent=idempotent, attempt=attempt, moves=min(moves, attempt - 1), tries=tries)

    if verdict is not Next.STANDS:
        assert idempotent or failed.ran is Ran.NO
        assert failed.code == Code.UNAVAILABLE
        assert not failed.final
        assert failed.origin is not Origin.FURTHER
        assert failed.reason not in ("CIRCUIT_OPEN", "BUS_STALLED")


@settings(max_examples=60, deadline=None)
@given(st.lists(outcomes, min_size=20, max_size=20), st.booleans(), st.integers(1, 10))
def test_no_call_is_tried_more_often_than_tries_and_moves_allow(
    failures: list[Outcome], idempotent: bool, tries: int
) -> None:
    attempt, moves = 1, 0
    for failed in failures:
        verdict = after(failed, idempotent=idempotent, attempt=attempt, moves=moves, tries=tries)
        if verdict is Next.STANDS:
            break
        moves += verdict is Next.MOVES
        attempt += 1

    assert moves <= MOVES
    assert attempt - moves <= tries


@pytest.mark.parametrize("ran", Ran)
def test_a_try_that_may_have_run_is_made_again_only_if_idempotent(ran: Ran) -> None:
    failed = outcome(ran=ran)

    assert after(failed, idempotent=True, attempt=1, moves=0, tries=3) is Next.RETRIES
    expected = Next.RETRIES if ran is Ran.NO else Next.STANDS
    assert after(failed, idempotent=False, attempt=1, moves=0, tries=3) is expected


def test_a_move_costs_no_try() -> None:
    leaving = outcome("DRAINING", ran=Ran.NO)

    assert after(leaving, idempotent=False, attempt=1, moves=0, tries=1) is Next.MOVES
    assert after(leaving, idempotent=False, attempt=MOVES, moves=MOVES - 1, tries=1) is Next.MOVES
    assert after(leaving, idempotent=False, attempt=MOVES + 1, moves=MOVES, tries=1) is Next.STANDS
    assert after(outcome(), idempotent=True, attempt=3, moves=2, tries=2) is Next.RETRIES


def test_what_this_agent_could_not_send_is_tried_again_only_if_idempotent() -> None:
    nobody = outcome("NO_INSTANCES", ran=Ran.NO, origin=Origin.HERE)

    assert after(nobody, idempotent=False, attempt=1, moves=0, tries=3) is Next.STANDS
    assert after(nobody, idempotent=True, attempt=1, moves=0, tries=3) is Next.RETRIES


def test_what_the_broker_found_an_empty_group_for_is_moved_if_it_is_idempotent() -> None:
    empty = outcome("NO_INSTANCES", origin=Origin.HERE, instance=None)

    assert after(empty, idempotent=True, attempt=1, moves=0, tries=1) is Next.MOVES
    assert after(empty, idempotent=True, attempt=MOVES + 1, moves=MOVES, tries=1) is Next.STANDS
    assert after(empty, idempotent=False, attempt=1, moves=0, tries=3) is Next.STANDS, "the broker's word is no proof"
    gone = outcome("NO_INSTANCES", origin=Origin.HERE)
    assert after(gone, idempotent=True, attempt=1, moves=0, tries=3) is Next.RETRIES, "it was sent to one process"


def test_an_open_circuit_is_not_tried_again() -> None:
    refused = outcome("CIRCUIT_OPEN", ran=Ran.NO, origin=Origin.HERE)

    assert after(refused, idempotent=True, attempt=1, moves=0, tries=10) is Next.STANDS


def test_the_answer_to_an_earlier_call_with_the_same_key_is_not_asked_for_again() -> None:
    failed = Outcome.refusal(OutcomeUnknown("given up"))
    failed.origin, failed.replayed = Origin.TARGET, True

    assert after(failed, idempotent=True, attempt=1, moves=0, tries=3) is Next.STANDS
