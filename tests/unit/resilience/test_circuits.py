"""How many instances of a service may be open at once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus_mesh.policy import traffic
from bus_mesh.resilience.breaker import State
from bus_mesh.resilience.charge import Charge
from bus_mesh.resilience.circuits import Circuits

POLICY = traffic.Breaker.model_validate({"failures": 2})


def service(size: int) -> Circuits:
    circuits = Circuits(POLICY, lambda: 1.0)
    circuits.follow(f"i{number}" for number in range(size))
    return circuits


def state(circuits: Circuits, instance: str) -> State:
    breaker = circuits.of(instance)
    assert breaker is not None
    return breaker.state


def call(circuits: Circuits, instance: str, charge: Charge, now: float = 0.0) -> None:
    breaker = circuits.of(instance)
    assert breaker is not None
    circuits.book(instance, breaker.enter(now), charge, now)


def fail(circuits: Circuits, instance: str, now: float = 0.0) -> None:
    for _ in range(2):
        call(circuits, instance, Charge.FAILURE, now)


@pytest.mark.parametrize(("size", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_at_most_half_are_open_and_never_the_last_one(size: int, most: int) -> None:
    circuits = service(size)
    for number in range(size):
        fail(circuits, f"i{number}")

    assert repr(circuits) == f"Circuits(open={most}/{size})"


def test_one_that_fails_on_opens_as_soon_as_another_has_closed() -> None:
    circuits = service(2)
    fail(circuits, "i0")
    fail(circuits, "i1")

    call(circuits, "i0", Charge.SUCCESS, now=1.0)
    call(circuits, "i1", Charge.FAILURE, now=1.0)

    assert state(circuits, "i0") is State.CLOSED
    assert state(circuits, "i1") is State.OPEN


def test_when_instances_leave_those_due_first_are_called_again() -> None:
    circuits = service(4)
    fail(circuits, "i1", now=1.0)
    fail(circuits, "i0", now=2.0)

    circuits.follow(["i0", "i1"])

    assert state(circuits, "i0") is State.OPEN
    assert state(circuits, "i1") is State.CLOSED
    assert circuits.of("i2") is None


NAMES = [f"i{number}" for number in range(5)]
STEP = st.one_of(
    st.tuples(st.sampled_from(NAMES), st.sampled_from([Charge.FAILURE, Charge.FAILURE, *Charge])),
    st.tuples(st.sets(st.sampled_from(NAMES)), st.just(Charge.NOTHING)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(STEP, st.sampled_from([0.0, 0.0, 0.25, 2.0])), max_size=80))
def test_whatever_happens_half_of_the_instances_can_be_called(
    steps: list[tuple[tuple[str | set[str], Charge], float]],
) -> None:
    circuits, now, members = service(5), 0.0, set(NAMES)
    inside: list[tuple[str, int]] = []
    for (what, charge), passed in steps:
        now += passed
        if isinstance(what, set):
            members = what
            circuits.follow(sorted(members))
        elif (breaker := circuits.of(what)) is not None and (ticket := breaker.enter(now)):
            inside.append((what, ticket))
        while len(inside) > 2:
            circuits.book(*inside.pop(0), charge, now)

        states = [breaker.state for name in members if (breaker := circuits.of(name)) is not None]
        assert len(states) == len(members)
        assert circuits.open == sum(state is not State.CLOSED for state in states) <= len(members) // 2
