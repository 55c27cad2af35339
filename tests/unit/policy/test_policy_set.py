"""What a policy says of retries: the nearest word holds, and `off` is one try."""

import pytest

from bus_mesh.policy import parse
from bus_mesh.policy.bundle import PolicySet
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
