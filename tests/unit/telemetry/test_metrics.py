"""What is counted, how it is bounded, and that Prometheus can read it."""

import random
import timeit
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bus_mesh.protocol.errors import Code
from bus_mesh.telemetry.metrics import BUCKETS, OTHER, Counter, Metrics, Series


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def labels(**named: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(named.items()))


def test_a_call_counts_in_its_bucket_and_in_all_above() -> None:
    metrics = Metrics("1.2.3")
    child = metrics.client.child("orders", "get", "web")
    for seconds in (0.0004, 0.0005, 0.3, 20.0):
        child.record(Code.OK, seconds)

    shown = samples(metrics)
    call = {"service": "orders", "method": "get", "caller": "web", "code": "OK"}
    name = "busmesh_client_call_duration_seconds"
    assert shown[f"{name}_bucket", labels(**call, le="0.0005")] == 2
    assert shown[f"{name}_bucket", labels(**call, le="0.25")] == 2
    assert shown[f"{name}_bucket", labels(**call, le="0.5")] == 3
    assert shown[f"{name}_bucket", labels(**call, le="10.0")] == 3
    assert shown[f"{name}_bucket", labels(**call, le="+Inf")] == 4
    assert shown[f"{name}_count", labels(**call)] == 4
    assert shown[f"{name}_sum", labels(**call)] == pytest.approx(20.3009)


def test_codes_sides_and_callers_are_told_apart() -> None:
    metrics = Metrics()
    metrics.client.child("orders", "get", "web").record(Code.UNAVAILABLE, 0.1)
    metrics.server.child("orders", "get", "cart").record(Code.OK, 0.1)

    shown = samples(metrics)
    failed = labels(service="orders", method="get", caller="web", code="UNAVAILABLE")
    served = labels(service="orders", method="get", caller="cart", code="OK")
    assert shown["busmesh_client_call_duration_seconds_count", failed] == 1
    assert shown["busmesh_server_call_duration_seconds_count", served] == 1
    assert ("busmesh_client_call_duration_seconds_count", served) not in shown


def test_a_child_is_always_the_same_one_and_knows_its_calls() -> None:
    series = Series()
    child = series.child("orders", "get", "web")
    child.record(0, 0.1)
    child.record(14, 0.1)
    child.inflight += 1

    assert series.child("orders", "get", "web") is child
    assert (child.calls(), child.calls(0), child.calls(5)) == (2, 1, 0)
    assert repr(child) == "Child(web to orders/get: 2 calls, 1 in flight)"


def test_a_code_that_grpc_does_not_know_counts_as_unknown() -> None:
    series = Series()
    child = series.child("orders", "get", "web")
    for code in (99, -1, 2):
        child.record(code, 0.1)

    assert [(code, sum(cell[:-1])) for _, code, cell in series.cells()] == [("UNKNOWN", 3)]


def test_a_million_random_names_leave_the_series_constant() -> None:
    rng = random.Random(3)
    series = Series(cap=1_000)
    living = series.child("orders", "get", "web")
    living.record(0, 0.01)

    for _ in range(1_000_000):
        noise = f"{rng.getrandbits(40):x}"
        series.child(noise, noise, noise).record(0, 0.01)
    living.record(0, 0.01)

    assert len(series) == 1_000
    assert len(series._children) == 1_000
    assert living.calls() == 2
    assert series.child("late", "comer", "x").labels == (OTHER, OTHER, OTHER)
    assert sum(sum(cell[:-1]) for _, _, cell in series.cells()) == 1_000_002


def test_new_codes_of_known_children_respect_the_cap_too() -> None:
    series = Series(cap=3)
    child = series.child("orders", "get", "web")
    for code in range(17):
        child.record(code, 0.1)

    assert len(series) == 3
    assert child.calls() == 3
    assert series.child(OTHER, OTHER, OTHER).calls() == 14


def test_a_counter_tells_so_many_values_apart_and_no_more() -> None:
    counter = Counter(cap=2)
    for value in ("a", "b", "c", "d", "a", ""):
        counter.add(value)

    assert counter.values == {"a": 2, "b": 1, OTHER: 3}
    assert counter["zzz"] == 0


def test_counters_and_calls_in_flight_are_shown_with_their_labels() -> None:
    metrics = Metrics("1.2.3")
    metrics.denied.add("orders/access.deny[0]", 2)
    metrics.envelope_failures.add("REPLAYED")
    metrics.attempts.add("retried")
    metrics.client.child("orders", "get", "web").inflight += 2
    metrics.client.child("orders", "get", "cart").inflight += 1

    shown = samples(metrics)
    assert shown["busmesh_denied_total", labels(rule="orders/access.deny[0]")] == 2
    assert shown["busmesh_envelope_failures_total", labels(reason="REPLAYED")] == 1
    assert shown["busmesh_client_attempts_total", labels(outcome="retried")] == 1
    assert shown["busmesh_inflight", labels(side="client", service="orders", method="get")] == 3
    assert shown["busmesh_build_info", labels(version="1.2.3")] == 1


def test_who_left_its_group_is_shown_by_service_and_why() -> None:
    metrics = Metrics()
    metrics.sheds["full"].add("orders", 2)
    metrics.sheds["unwell"].add("orders")
    text = metrics.render().decode()

    assert 'busmesh_sheds_total{service="orders",why="full"} 2.0' in text
    assert 'busmesh_sheds_total{service="orders",why="unwell"} 1.0' in text


def test_a_reading_is_asked_for_when_somebody_looks_and_a_broken_one_hides_no_other() -> None:
    metrics = Metrics()
    now = {"rtt": 0.5}
    metrics.gauge("sick", "Never there.", lambda: 1 / 0)
    metrics.gauge("bus_rtt_seconds", "Round trip to the bus.", lambda: now["rtt"])
    metrics.gauge("bus_reconnects_total", "Reconnections.", lambda: 3, kind="counter")
    metrics.gauge("sessions", "Sessions by app.", lambda: {"web": 2, "cart": 1}, label="app")
    now["rtt"] = 0.25

    shown = samples(metrics)
    assert shown["busmesh_bus_rtt_seconds", ()] == 0.25
    assert shown["busmesh_bus_reconnects_total", ()] == 3
    assert shown["busmesh_sessions", labels(app="web")] == 2
    assert "busmesh_sick" not in metrics.render().decode()


def test_two_readings_of_one_name_are_refused() -> None:
    metrics = Metrics()
    metrics.gauge("epoch", "x", lambda: 1)

    with pytest.raises(ValueError, match="busmesh_epoch is there already"):
        metrics.gauge("epoch", "x", lambda: 2)


def test_hostile_label_values_are_escaped() -> None:
    metrics = Metrics()
    forged = 'a"} 1\nbusmesh_forged 1\n'
    metrics.denied.add(forged)

    shown = samples(metrics)
    assert shown["busmesh_denied_total", labels(rule=forged)] == 1
    assert not any(name == "busmesh_forged" for name, _ in shown)


def test_buckets_start_at_half_a_millisecond_and_rise() -> None:
    assert BUCKETS[0] == 0.0005
    assert list(BUCKETS) == sorted(set(BUCKETS))


def test_recording_a_call_costs_about_a_third_of_a_microsecond(record_property: Callable[[str, object], None]) -> None:
    child = Metrics().client.child("orders", "get", "web")
    rounds = timeit.repeat(lambda: child.record(Code.OK, 0.0012), number=20_000, repeat=5)
    cost = min(rounds) / 20_000 * 1e6
    record_property("record_us", round(cost, 3))

    assert cost < 5.0, f"{cost:.2f} µs: something in record() is far from plain integers"
