import asyncio
from typing import Any, cast

import pytest

from bus_mesh.cli.bench import Tally, measure, percentile
from bus_mesh.protocol.errors import DeadlineExceeded


class Target:
    """Answers as two instances in turn; every tenth call fails; counts the calls under way."""

    def __init__(self) -> None:
        self.count = self.under_way = self.most = 0

    async def call_with_instance(
        self, service: str, method: str, given: dict[str, Any], *, timeout: float | None
    ) -> tuple[Any, str]:
        self.count += 1
        number = self.count
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        if number % 10 == 0:
            raise DeadlineExceeded("late")
        return None, f"i{number % 2}"


async def bench(target: Target, calls: int, at_once: int) -> Tally:
    return await measure(cast(Any, target), "orders", "get", {}, calls=calls, at_once=at_once, timeout=None)


async def test_exactly_the_calls_asked_for_are_made_and_each_is_counted_once() -> None:
    target = Target()

    found = (await bench(target, calls=100, at_once=7)).as_dict()

    assert (target.count, found["calls"], found["ok"], found["failed"]) == (
        100,
        100,
        90,
        {"DEADLINE_EXCEEDED/DEADLINE_EXCEEDED": 10},
    )
    assert found["instances"] == {"i0": 40, "i1": 50}


async def test_no_more_calls_than_asked_for_are_under_way() -> None:
    target = Target()

    await bench(target, calls=50, at_once=7)

    assert target.most == 7


@pytest.mark.parametrize(("at", "value"), [(50, 50), (99, 99), (100, 100), (1, 1)])
def test_a_percentile_is_a_value_that_was_measured(at: int, value: int) -> None:
    assert percentile(list(range(1, 101)), at) == value


def test_a_bench_in_which_all_fails_has_figures_of_zero() -> None:
    tally = Tally()
    tally.failures["UNAVAILABLE/NO_INSTANCES"] = 3

    assert tally.as_dict()["latency_ms"] == {"p50": 0.0, "p90": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0}
