"""The whole language of policy: every part is read with its units and defaults, and its mistakes are named."""

from datetime import UTC, datetime

import pytest

from bus_mesh.policy import Mesh, PolicyError, Service, parse
from bus_mesh.policy.traffic import Balance, Breaker, Budget, Hash, Limit, Locality, Mirror, Off, Per, Rate, Retry

WHOLE = """
kind: Service
name: orders
envelope: signed
expose: micro
tap: {payload: false}
health: {interval: 5s, timeout: 1s, failures: 3}
events: {publish: [order.created], subscribe: ["stock.*"]}
traffic:
  timeout: 2s
  retry:   {tries: 4, pause: 25ms, longest_pause: 1s}
  budget:  {ratio: 0.2, floor_per_second: 10, window: 10s}
  breaker: {failures: 9, success_ratio: 0.8, window: 10s, calls_at_least: 5, rest: 1s, longest_rest: 60s}
  limit:   {concurrency: 64, queue: 1024}
  rate:    [{per: caller, limit: 100/s, burst: 200}, {per: method, limit: 600/m, burst: 1}]
  balance: {hash: metadata.user}
  locality: {prefer: zone, spill_below: 70%}
  split:   {"1": 90, "track=canary": 10}
  fault:   {delay: 200ms, abort: UNAVAILABLE, percent: 5, until: 2026-12-01T00:00:00Z}
  mirror:  {to: orders-next, percent: 10}
methods:
  create: {timeout: 5s, idempotent: false, retry: {tries: 1}, breaker: off, balance: random, envelope: sealed}
---
kind: Mesh
access: {default: deny}
envelope: sealed
certificates: {life: 24h}
on_expired: deny
traffic: {timeout: 3s, retry: off}
"""


def test_every_part_is_read_with_its_units() -> None:
    service, mesh = parse(WHOLE, "whole.yaml", whole=True)

    assert isinstance(service, Service) and isinstance(mesh, Mesh)
    traffic = service.traffic
    assert traffic.retry == Retry(tries=4)
    assert traffic.budget == Budget()
    assert traffic.breaker == Breaker(failures=9)
    assert traffic.limit == Limit(concurrency=64)
    assert traffic.rate is not None
    assert [(rate.per, rate.limit) for rate in traffic.rate] == [(Per.CALLER, 100.0), (Per.METHOD, 10.0)]
    assert traffic.balance == Hash(hash="metadata.user")
    assert traffic.locality == Locality(prefer="zone", spill_below=70)
    assert traffic.split == {"1": 90, "track=canary": 10}
    assert traffic.mirror == Mirror(to="orders-next", percent=10)
    create = service.methods["create"]
    assert (create.retry, create.breaker, create.balance) == (Retry(tries=1), Off(), Balance.RANDOM)
    assert (mesh.traffic.retry, mesh.certificates.life, mesh.on_expired) == (Off(), 86400.0, "deny")


def test_a_fault_ends_when_it_says() -> None:
    service = parse(WHOLE, "whole.yaml", whole=True)[0]

    assert isinstance(service, Service) and service.traffic.fault is not None
    assert service.traffic.fault.abort == "unavailable"
    assert not service.traffic.fault.over(datetime(2026, 11, 30, 23, 59, tzinfo=UTC))
    assert service.traffic.fault.over(datetime(2026, 12, 1, tzinfo=UTC))


def test_a_part_that_is_given_no_key_has_the_documented_defaults() -> None:
    assert Retry().model_dump() == {"tries": 3, "pause": 0.025, "longest_pause": 1.0}
    assert Budget().model_dump() == {"ratio": 0.2, "floor_per_second": 10.0, "window": 10.0}
    assert Limit().model_dump() == {"concurrency": None, "queue": 1024}
    assert tuple(Breaker().model_dump().values()) == (7, 0.8, 10.0, 5, 1.0, 60.0)


def test_an_agent_refuses_each_part_that_nothing_enforces_and_names_its_line() -> None:
    with pytest.raises(PolicyError) as error:
        parse(WHOLE, "whole.yaml")
    told = [(problem.line, problem.path) for problem in error.value.problems]

    lines = WHOLE.splitlines()
    assert all(path.rpartition(".")[2] in lines[line - 1] for line, path in told)
    assert {path for _, path in told} == {
        *("events", "certificates"),
    }


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("retry: {tries: 0}", "traffic.retry"),
        ("retry: {pause: 25}", "25 has no unit (did you mean 25s?)"),
        ("retry: {trys: 3}", "did you mean tries?"),
        ("retry: on", "traffic.retry"),
        ("budget: {ratio: 1.5}", "traffic.budget.ratio"),
        ("budget: {window: 0s}", "0ms is not within 100ms and 24h"),
        ("breaker: {window: 0s}", "0ms is not within 100ms and 24h"),
        ("breaker: {rest: 10s, longest_rest: 1s}", "is over longest_rest"),
        ("limit: {concurrency: 0}", "traffic.limit"),
        ("rate: [{per: caller, limit: 100, burst: 1}]", "write 100/s, 600/m or 50/h"),
        ("rate: [{per: caler, limit: 1/s, burst: 1}]", "did you mean caller?"),
        ("rate: [{per: caller, limit: 0/s, burst: 1}]", "is not within 1/h and 1000000/s"),
        ("rate: [{per: caller, limit: 0.9/h, burst: 1}]", "is not within 1/h and 1000000/s"),
        ("balance: {hash: user}", "metadata. and a name"),
        ("balance: fastest", "traffic.balance"),
        ("locality: {prefer: zone, spill_below: 170%}", "is not within 0 and 100"),
        ("locality: {prefer: zone, spill_below: much}", "write 5 or 70%"),
        ('split: {"1": 0, "2": 0}', "all weights are 0"),
        ("split: {}", "must not be empty"),
        ('split: {"1.2": 1}', "is no version and no label"),
        ('split: {"1": -1}', "traffic.split"),
        ("fault: {delay: 1s, percent: 5}", "traffic.fault.until: is missing"),
        ("fault: {percent: 5, until: 2026-12-01T00:00:00Z}", "does nothing"),
        ("fault: {delay: 1s, percent: 5, until: 2026-12-01T00:00:00}", "traffic.fault.until"),
        ("fault: {abort: unavailible, percent: 5, until: 2026-12-01T00:00:00Z}", "did you mean unavailable?"),
        ("mirror: {to: Orders, percent: 5}", "is not a service name"),
        ("mirror: {to: orders, percent: 5}", "traffic.mirror.to: orders would get each of these calls twice"),
    ],
)
def test_a_mistake_is_named_with_its_file_line_and_path(part: str, said: str) -> None:
    with pytest.raises(PolicyError) as error:
        parse(f"kind: Service\nname: orders\ntraffic:\n  {part}\n", "wrong.yaml", whole=True)

    assert "wrong.yaml:4: " in str(error.value)
    assert said in str(error.value)


def test_rates_are_a_second_and_written_with_their_time() -> None:
    rate = Rate.model_validate({"per": "caller", "limit": "1/h", "burst": 1})

    assert rate.limit == pytest.approx(1 / 3600)
    assert Rate.model_validate(rate.model_dump(mode="json")).limit == pytest.approx(rate.limit)
