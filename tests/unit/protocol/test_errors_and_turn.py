"""Errors arrive as themselves; a turn's frames leave together and without waiting."""

import itertools
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.protocol import errors
from bus_mesh.protocol.call import Origin, Outcome
from bus_mesh.protocol.errors import Code, Draining, MeshError, Ran, ResourceExhausted
from bus_mesh.protocol.frames import Fail
from bus_mesh.protocol.turn import APART, PART, SMALL_PART, Turn


class OutOfStock(MeshError, code=Code.FAILED_PRECONDITION, reason="TEST_SOLD_OUT"):
    def __init__(self, sku: str) -> None:
        self.sku = sku
        super().__init__(f"{sku} is out of stock", details={"sku": sku})


CLASSES = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]
ERRORS = [kind for kind in CLASSES if issubclass(kind, MeshError) and kind not in (MeshError, errors.InvalidName)]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_arrives_as_its_own_class(kind: type[MeshError]) -> None:
    sent = kind("why", metadata={"a": "b"}, details={"n": 1}, ran=Ran.NO, retry_after=0.25)
    arrived = MeshError.from_wire(*sent.to_wire())

    assert type(arrived) is kind
    assert (arrived.message, arrived.metadata, arrived.details) == ("why", {"a": "b"}, {"n": 1})
    assert (arrived.ran, arrived.retry_after) == (Ran.NO, 0.25)
    assert arrived.to_wire() == sent.to_wire()


def test_an_error_with_a_constructor_of_its_own_arrives_as_itself() -> None:
    arrived = MeshError.from_wire(*OutOfStock("tea").to_wire())

    assert type(arrived) is OutOfStock
    assert arrived.details == {"sku": "tea"}
    assert str(arrived) == "FAILED_PRECONDITION/TEST_SOLD_OUT: tea is out of stock"


def test_an_unknown_reason_arrives_as_the_class_of_its_code_and_keeps_it() -> None:
    arrived = MeshError.from_wire(14, "MOON_PHASE", "not tonight", None, None)

    assert type(arrived) is errors.Unavailable
    assert arrived.to_wire()[:3] == (14, "MOON_PHASE", "not tonight")


def test_two_classes_may_not_declare_the_same_reason() -> None:
    with pytest.raises(TypeError, match="give one of them another reason"):
        type("Other", (MeshError,), {}, code=Code.FAILED_PRECONDITION, reason="TEST_SOLD_OUT")


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))

    assert drawn == {kind.__name__ for kind in CLASSES if issubclass(kind, MeshError)} - {"MeshError"}


def test_an_outcome_is_what_its_frame_says() -> None:
    fail = Fail(3, 1, 14, "DRAINING", "leaving", None, {"ran": "no", "retry_after_ms": 20, "origin": "further"})
    outcome = Outcome.failure(fail, "i")

    assert (outcome.code, outcome.ran, outcome.origin, outcome.retry_after) == (14, Ran.NO, Origin.FURTHER, 0.02)
    assert isinstance(outcome.error(), Draining)
    assert (Outcome("i", b"x").ok, Outcome("i").ran) == (True, Ran.YES)


@pytest.mark.parametrize("head", [None, {}, {"ran": 7}, {"ran": "certainly"}, {"retry_after_ms": "x", "ran": None}])
def test_an_outcome_with_an_odd_head_may_have_run(head: dict[str, object] | None) -> None:
    outcome = Outcome.failure(Fail(3, 1, 99, "X", "", None, head), None)

    assert (outcome.ran, outcome.retry_after, outcome.code) == (Ran.MAYBE, 0.0, Code.UNKNOWN)


def test_a_copy_of_an_outcome_says_the_same_until_one_of_them_is_doubted() -> None:
    error = ResourceExhausted("full", ran=Ran.NO, retry_after=0.1)
    outcome, success = Outcome.refusal(error, "i", final=True), Outcome("i", b"x")
    copy = outcome.copy()
    assert (vars(copy), vars(success.copy())) == (vars(outcome), vars(success))
    copy.doubt()

    assert (copy.ran, copy.error().ran) == (Ran.MAYBE, Ran.MAYBE)
    assert (outcome.ran, outcome.error().ran) == (Ran.NO, Ran.NO)


def test_a_refusal_here_says_so() -> None:
    outcome = Outcome.refusal(ResourceExhausted("full", ran=Ran.NO, retry_after=0.1))

    assert (outcome.origin, outcome.ran, outcome.retry_after, outcome.reason) == (
        Origin.HERE,
        Ran.NO,
        0.1,
        "RESOURCE_EXHAUSTED",
    )


class Writer:
    """Gathers frames, and keeps what left at once and what at the end of a turn."""

    def __init__(self) -> None:
        self.now = 0.0
        self.left: list[int] = []
        self.due: list[Callable[[], None]] = []
        self.turn: Turn[bytes] = Turn(self.due.append, lambda: self.now, lambda items: self.left.append(len(items)))

    def write(self, frames: int) -> None:
        for _ in range(frames):
            self.turn.add(b"frame")

    def end_of_turn(self) -> None:
        due, self.due[:] = list(self.due), []
        for work in due:
            work()


def test_a_lone_frame_leaves_at_once_and_leaves_nothing_to_be_done() -> None:
    writer = Writer()
    for number in range(1, 4):
        writer.write(1)

        assert (writer.left, writer.due) == ([1] * number, [])
        writer.now += 2 * APART


def test_what_leaving_a_frame_brings_about_waits_for_the_end_of_the_turn_however_long_it_took() -> None:
    writer, left = Writer(), list[str]()

    def leave(items: list[str]) -> None:
        left.extend(items)
        writer.now += 2 * APART
        if len(left) < 3:
            turn.add(f"try {len(left) + 1}")
            assert left[-1] == items[-1]  # it has not left from in here

    turn: Turn[str] = Turn(writer.due.append, lambda: writer.now, leave)
    turn.add("try 1")
    assert left == ["try 1"]
    writer.end_of_turn()
    writer.end_of_turn()

    assert left == ["try 1", "try 2", "try 3"]


def test_a_frame_soon_after_another_waits_for_the_end_of_its_turn_and_lone_ones_go_at_once_again() -> None:
    writer = Writer()
    writer.write(1)
    writer.now += APART / 2
    writer.write(1)
    assert writer.left == [1]
    writer.end_of_turn()
    assert writer.left == [1, 1]
    writer.now += 2 * APART
    writer.write(1)
    assert writer.left == [1, 1]
    writer.end_of_turn()
    writer.now += 2 * APART
    writer.write(1)

    assert (writer.left, writer.due) == ([1, 1, 1, 1], [])


@given(st.lists(st.one_of(st.just("turn"), st.integers(1, 200), st.floats(0.0, 3 * APART)), max_size=30))
def test_every_frame_leaves_once_and_in_order_by_the_end_of_its_turn(steps: list[str | int | float]) -> None:
    writer, left, numbers = Writer(), list[int](), itertools.count()
    turn: Turn[int] = Turn(writer.due.append, lambda: writer.now, left.extend)
    came = 0
    for step in [*steps, "turn"]:
        if isinstance(step, float):
            writer.now += step
        elif isinstance(step, int):
            for _ in range(step):
                turn.add(next(numbers))
            came += step
        else:
            writer.end_of_turn()
            assert left == list(range(came))
            assert not turn


def test_frames_of_a_busy_turn_leave_together_at_its_end() -> None:
    writer = Writer()
    writer.write(3)
    writer.end_of_turn()
    writer.write(5)

    assert writer.left == [1, 2]
    writer.end_of_turn()
    assert writer.left == [1, 2, 5]


def test_a_long_turn_leaves_in_parts() -> None:
    writer = Writer()
    writer.write(2)
    writer.end_of_turn()
    writer.left.clear()
    writer.write(2 * PART + 3)
    writer.end_of_turn()

    assert writer.left == [PART, PART, 3]


@pytest.mark.parametrize("under_way", [0, 1, 40, 128, 300])
def test_a_burst_of_a_caller_is_cut_into_few_parts_and_none_but_the_ends_is_small(under_way: int) -> None:
    writer = Writer()
    for number in range(1, 257):
        writer.turn.part = min(PART, max(SMALL_PART, (under_way + number + 1) // 2))
        writer.write(1)
    writer.end_of_turn()

    assert sum(writer.left) == 256
    assert all(part >= SMALL_PART for part in writer.left[1:-1])


@pytest.mark.parametrize("at_once", [64, 100, 128, 256])
def test_a_bunch_that_comes_back_leaves_as_one_again(at_once: int) -> None:
    writer = Writer()
    writer.write(2)
    writer.end_of_turn()
    writer.left.clear()
    bunch = at_once // 2
    for number in range(1, bunch + 1):
        writer.turn.part = min(PART, max(SMALL_PART, (at_once - bunch + number + 1) // 2))
        writer.write(1)
    writer.end_of_turn()

    assert writer.left == [bunch]
