"""How many retries an agent may make."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bus_mesh.policy import traffic
from bus_mesh.resilience.budget import RetryBudget
from bus_mesh.resilience.window import BUCKETS

# Sixteenths of a second, so that the reference counts without rounding.
STEPS = st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.0625, 0.5, 1.0, 2.25, 9.0, 12.0]), st.booleans()), max_size=120)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.sampled_from([0.0, 0.25, 1.0]), st.sampled_from([0.0, 0.5, 2.0]))
def test_retries_stay_within_the_ratio_and_the_floor(
    steps: list[tuple[float, bool]], ratio: float, floor: float
) -> None:
    budget = RetryBudget(traffic.Budget.model_validate({"ratio": ratio, "floor_per_second": floor, "window": "10s"}))
    calls: list[float] = []
    retries: list[float] = []
    now = 1000.0
    for passed, is_call in steps:
        now += passed
        if is_call:
            budget.note_call(now)
            calls.append(now)
            continue
        recent_calls = sum(int(at) > int(now) - BUCKETS for at in calls)
        recent_retries = sum(int(at) > int(now) - BUCKETS for at in retries)

        taken = budget.take(now)

        assert taken is (recent_retries + 1 <= ratio * recent_calls + floor * 10)
        if taken:
            retries.append(now)


def test_a_caller_of_few_calls_can_retry_and_an_outage_is_not_fed() -> None:
    budget = RetryBudget(traffic.Budget())
    for number in range(10_000):
        budget.note_call(50.0 + number / 10_000)

    assert sum(budget.take(51.0) for _ in range(10_000)) == 100 + 2000
    assert RetryBudget(traffic.Budget()).take(0.0)
