from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.telemetry.statistics import CLIENT, SERVER, Key, Look, between, percentile, rows

BOUNDS = (0.001, 0.01, 0.1, 1.0)
GET = Key(CLIENT, "orders", "get", "web", "OK")
LATE = GET._replace(code="DEADLINE_EXCEEDED")


def look(at: float, cells: dict[Key, list[float]], boot: str = "b1") -> Look:
    said = {
        "node": "node-a",
        "boot": boot,
        "at": at,
        "bounds": list(BOUNDS),
        "cells": [[*key, cell] for key, cell in cells.items()],
        "inflight": [["client", "orders", 2]],
    }
    return Look.read(said)


def bucket(seconds: float) -> int:
    return bisect_left(BOUNDS, seconds)


@given(st.lists(st.floats(0.0, 0.999), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_lies_in_the_bucket_of_the_exact_one(times: list[float], share: float) -> None:
    counts = [0.0] * (len(BOUNDS) + 1)
    for seconds in times:
        counts[bucket(seconds)] += 1
    exact = sorted(times)[min(len(times) - 1, max(0, -int(-share * len(times)) - 1))]

    found = percentile(counts, BOUNDS, share)

    assert found is not None
    # On the border of two buckets either is right.
    low = 0.0 if bucket(exact) == 0 else BOUNDS[bucket(exact) - 1]
    following = sorted(times)[min(len(times) - 1, int(share * len(times)))]
    assert low <= found <= BOUNDS[bucket(following)]


def test_without_calls_there_is_no_percentile_and_above_all_bounds_only_the_last_is_known() -> None:
    assert percentile([0, 0, 0, 0, 0], BOUNDS, 0.5) is None
    assert percentile([0, 0, 0, 0, 3], BOUNDS, 0.5) == 1.0


def test_what_was_counted_between_two_looks_is_their_difference() -> None:
    cells, seconds = between(
        look(10.0, {GET: [5, 0, 0, 0, 0, 0.1, 0]}),
        look(12.0, {GET: [7, 1, 0, 0, 0, 0.2, 1], LATE: [0, 0, 0, 0, 1, 5, 0]}),
    )

    assert (cells[GET][:2], seconds, cells[LATE][4]) == ((2, 1), 2.0, 1)
    assert between(look(10.0, {GET: [5, 0, 0, 0, 0, 0.1, 0]}), look(12.0, {GET: [5, 0, 0, 0, 0, 0.1, 0]}))[0] == {}


def test_a_process_that_was_not_seen_before_counts_from_now_on() -> None:
    assert between(None, look(12.0, {GET: [7, 0, 0, 0, 0, 0.2, 0]})) == ({}, 0.0)
    assert between(look(10.0, {}, boot="b0"), look(1.0, {GET: [7, 0, 0, 0, 0, 0.2, 0]})) == ({}, 0.0)


@given(st.lists(st.lists(st.integers(0, 50), min_size=5, max_size=5), min_size=1, max_size=5))
def test_all_calls_of_all_nodes_are_in_one_row_and_none_twice(nodes: list[list[int]]) -> None:
    parts = [({GET: (*counts, 1.0, 3), GET._replace(side=SERVER): (*counts, 1.0, 0)}, 2.0) for counts in nodes]

    found = rows(parts, BOUNDS, lambda key: (key.service,) if key.side == CLIENT else None)

    total = sum(map(sum, nodes))
    assert [(row.name, row.calls, row.good, row.retries) for row in found] == [
        (("orders",), total, total, 3 * len(nodes))
    ]
    assert found[0].rps == total / 2.0


def test_success_is_the_share_that_is_ok() -> None:
    (row,) = rows(
        [({GET: (3, 0, 0, 0, 0, 0, 0), LATE: (0, 0, 0, 0, 1, 5, 0)}, 1.0)], BOUNDS, lambda key: (key.service,)
    )

    assert (row.success, row.codes) == (0.75, {"OK": 3, "DEADLINE_EXCEEDED": 1})
