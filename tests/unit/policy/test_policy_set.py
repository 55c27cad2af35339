"""What a policy says of retries and of health checks: the nearest word holds, and `off` is one try."""

import pytest

from bus_mesh.policy import PolicyError, parse
from bus_mesh.policy.bundle import PolicySet
from bus_mesh.policy.models import Health
from bus_mesh.policy.traffic import Budget, Retry

ORDERS = "kind: Service\nname: orders\n"
MESH = "---\nkind: Mesh\ntraffic: {retry: {tries: 5}, budget: {ratio: 0.5}}\n"


@pytest.mark.parametrize(
    ("text", "tries"),
    [
        (ORDERS, (3, 3)),
        (ORDERS + MESH, (5, 5)),
        (ORDERS + "traffic: {retry: {tries: 2}}\n" + MESH, (2, 2)),
        (ORDERS + "traffic: {retry: off}\n" + MESH, (1, 1)),
        (ORDERS + "traffic: {retry: {tries: 2}}\nmethods: {create: {retry: off}}\n", (2, 1)),
        (ORDERS + "traffic: {retry: off}\nmethods: {create: {retry: {tries: 4}}}\n", (1, 4)),
    ],
)
def test_the_nearest_word_on_retries_holds(text: str, tries: tuple[int, int]) -> None:
    policy = PolicySet.of(parse(text, "p.yaml"))

    assert (policy.retry("orders", "get").tries, policy.retry("orders", "create").tries) == tries


def test_a_service_without_a_document_has_the_meshs_retries_and_budget() -> None:
    said, silent = PolicySet.of(parse(MESH, "p.yaml")), PolicySet.of(())

    assert (said.retry("ghost", "get").tries, said.budget("ghost").ratio) == (5, 0.5)
    assert (silent.retry("ghost", "get"), silent.budget("ghost")) == (Retry(), Budget())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ORDERS, (5.0, 1.0, 3)),
        (ORDERS + "health: {interval: 2s}\n", (2.0, 1.0, 3)),
        (ORDERS + "---\nkind: Mesh\nhealth: {timeout: 300ms, failures: 5}\n", (5.0, 0.3, 5)),
        (ORDERS + "health: {interval: 2s}\n---\nkind: Mesh\nhealth: {failures: 5}\n", (2.0, 1.0, 3)),
    ],
)
def test_a_service_s_word_on_health_goes_before_the_mesh_s_and_as_a_whole(
    text: str, expected: tuple[float, float, int]
) -> None:
    said = PolicySet.of(parse(text, "p.yaml")).health("orders")

    assert (said.interval, said.timeout, said.failures) == expected


def test_a_service_without_a_document_is_asked_as_the_mesh_says_or_by_default() -> None:
    said = PolicySet.of(parse("kind: Mesh\nhealth: {interval: 9s}\n", "p.yaml"))

    assert (said.health("ghost").interval, PolicySet.of(()).health("ghost")) == (9.0, Health())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("{interval: 0s}", "0ms is not within 100ms and 24h"),
        ("{interval: 5}", "5 has no unit"),
        ("{timeout: 0s}", "is not within"),
        ("{failures: 0}", "failures"),
        ("{every: 5s}", "unknown key"),
    ],
)
def test_a_mistake_in_health_is_refused(wrong: str, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        parse(f"{ORDERS}health: {wrong}\n", "p.yaml")
