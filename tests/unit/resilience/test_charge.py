"""What an outcome says of the instance that a call was sent to."""

import pytest

from bus_mesh.protocol.call import Origin, Outcome
from bus_mesh.protocol.errors import (
    BusStalled,
    Cancelled,
    Code,
    DeadlineExceeded,
    Draining,
    Internal,
    MeshError,
    NoInstances,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    ResourceExhausted,
    Unavailable,
)
from bus_mesh.resilience.charge import Charge, charge


@pytest.mark.parametrize(
    ("error", "origin", "booked"),
    [
        (Internal("broke"), Origin.TARGET, Charge.FAILURE),
        (Unavailable("gone"), Origin.TARGET, Charge.FAILURE),
        (MeshError("?"), Origin.TARGET, Charge.FAILURE),
        (DeadlineExceeded("slow"), Origin.TARGET, Charge.FAILURE),
        (DeadlineExceeded("silent"), Origin.HERE, Charge.FAILURE),
        (OutcomeUnknown("died"), Origin.HERE, Charge.FAILURE),
        (ResourceExhausted("full"), Origin.TARGET, Charge.EXHAUSTED),
        (ResourceExhausted("our own limit"), Origin.HERE, Charge.NOTHING),
        (RateLimited("the caller's own fault"), Origin.TARGET, Charge.NOTHING),
        (NotFound("no such order"), Origin.TARGET, Charge.SUCCESS),
        (PermissionDenied("no"), Origin.TARGET, Charge.SUCCESS),
        (Internal("broke"), Origin.FURTHER, Charge.NOTHING),
        (Cancelled("given up"), Origin.HERE, Charge.NOTHING),
        (Cancelled("given up"), Origin.TARGET, Charge.NOTHING),
        (Draining("leaving"), Origin.TARGET, Charge.NOTHING),
        (BusStalled("clogged"), Origin.HERE, Charge.NOTHING),
        (NoInstances("the broker's 503"), Origin.HERE, Charge.NOTHING),
    ],
)
def test_an_instance_is_charged_with_what_is_its_own_fault(error: MeshError, origin: Origin, booked: Charge) -> None:
    outcome = Outcome.refusal(error)
    outcome.origin = origin

    assert charge(outcome) is booked


def test_the_answer_to_an_earlier_call_says_nothing_new_of_the_instance() -> None:
    outcome = Outcome.refusal(Internal("broke"))
    outcome.origin, outcome.replayed = Origin.TARGET, True

    assert charge(outcome) is Charge.NOTHING


def test_an_answer_is_a_success() -> None:
    assert charge(Outcome("i1", b"done")) is Charge.SUCCESS


def test_every_code_is_booked_somehow() -> None:
    for code in Code:
        outcome = Outcome("i1")
        outcome.code = int(code)
        assert isinstance(charge(outcome), Charge)
