import pytest

from bus_mesh.identity.budget import PER_NODE, TOTAL, UNVOUCHED, Budget, Remembered
from bus_mesh.identity.refusal import Reason, Untrusted


def spent(budget: Budget, tries: list[str | None], vouched: bool, now: float = 0.0) -> int:
    done = 0
    for node in tries:
        try:
            budget.spend(node, vouched=vouched, now=now)
            done += 1
        except Untrusted as error:
            assert error.reason == Reason.BUDGET
    return done


def test_one_node_spends_no_more_than_its_share() -> None:
    assert spent(Budget(), ["a"] * 100, vouched=True) == PER_NODE


def test_all_nodes_together_spend_no_more_than_the_whole() -> None:
    assert spent(Budget(), [f"node-{i % 50}" for i in range(1000)], vouched=True) == TOTAL


def test_what_nothing_vouches_for_leaves_half_for_the_known() -> None:
    budget = Budget()

    assert spent(budget, [None] * 1000, vouched=False) == UNVOUCHED
    assert spent(budget, [f"node-{i}" for i in range(1000)], vouched=True) == TOTAL - UNVOUCHED


def test_the_next_second_starts_anew() -> None:
    budget = Budget()
    spent(budget, ["a"] * 100, vouched=True, now=0.99)

    assert spent(budget, ["a"] * 100, vouched=True, now=1.0) == PER_NODE


def test_a_million_names_do_not_make_it_grow() -> None:
    budget = Budget()
    spent(budget, [f"node-{i}" for i in range(10_000)], vouched=True)

    assert len(budget._by_node) <= TOTAL


def test_refusals_are_remembered_up_to_a_limit_the_oldest_going_first() -> None:
    remembered = Remembered()
    for i in range(Remembered.LIMIT + 1):
        remembered.keep(i.to_bytes(32, "big"), Untrusted(Reason.MALFORMED, "no"))

    assert len(remembered) == Remembered.LIMIT
    assert bytes(32) not in remembered


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_reads_as_its_name(reason: Reason) -> None:
    assert reason == reason.name
    assert str(reason) == reason.name
