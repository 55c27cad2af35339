"""What comes twice with one key runs once: against a reference that keeps plain lists."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bus_mesh.resilience.kept_answers import LONGEST_DELAY, SET_ASIDE, SHORTEST_DELAY, Entry, KeptAnswers, Key

ROOM = 3 * SET_ASIDE + 100


def kept(most: int = 4, most_bytes: int = ROOM, most_joined: int = 3) -> KeptAnswers[int, str]:
    return KeptAnswers(most, most_bytes, most_joined)


def test_a_second_call_joins_the_first_and_a_third_finds_its_answer() -> None:
    answers = kept()
    assert answers.take(("web", "pay", "k"), b"d", 1, 0.0) is Entry.RUNS
    assert answers.take(("web", "pay", "k"), b"d", 2, 0.1) is Entry.JOINS
    key = answers[("web", "pay", "k")]

    assert answers.keep(key, "paid", 4, 65.0, "gone") == [2]
    assert answers.take(("web", "pay", "k"), b"d", 3, 64.9) is Entry.ANSWERED
    assert answers[("web", "pay", "k")].answer == "paid"
    assert answers.take(("web", "pay", "k"), b"d", 4, 65.0) is Entry.RUNS
    assert repr(answers) == f"KeptAnswers(keys=1, answered=0, bytes={SET_ASIDE})"


def test_a_key_is_its_callers_and_its_methods_and_stands_for_one_set_of_parameters() -> None:
    answers = kept(most_bytes=9 * SET_ASIDE)
    answers.take(("web", "pay", "k"), b"d", 1, 0.0)

    assert answers.take(("web", "pay", "k"), b"other", 2, 0.0) is Entry.REUSED
    assert answers.take(("web", "refund", "k"), b"other", 3, 0.0) is Entry.RUNS
    assert answers.take(("cart", "pay", "k"), b"other", 4, 0.0) is Entry.RUNS
    answers.keep(answers[("web", "pay", "k")], "paid", 4, 65.0, "gone")
    assert answers.take(("web", "pay", "k"), b"other", 5, 1.0) is Entry.REUSED


def test_a_call_that_did_not_run_hands_its_turn_on_in_the_order_of_arrival() -> None:
    answers = kept()
    for call in (1, 2, 3, 4):
        answers.take(("k",), b"d", call, 0.0)
    key = answers[("k",)]
    answers.part(key, 3)
    answers.part(key, 3)

    assert (answers.free(key), key.runner) == (2, 2)
    assert answers.free(key) == 4
    assert answers.free(key) is None
    assert (len(answers), answers.bytes, answers.joined) == (0, 0, 0)


def test_an_answer_that_has_no_room_is_told_to_those_who_wait_and_not_kept() -> None:
    answers = kept()
    answers.take(("k",), b"d", 1, 0.0)
    answers.take(("k",), b"d", 2, 0.0)
    held = answers[("k",)]

    assert answers.keep(held, "long", ROOM, 65.0, "gone") == [2]
    assert held.answer == "long"
    assert answers.take(("k",), b"d", 3, 1.0) is Entry.ANSWERED
    assert answers[("k",)].answer == "gone"
    assert answers.bytes == SET_ASIDE


def test_a_full_store_evicts_nothing_and_names_the_time_when_it_has_room() -> None:
    answers = kept(most=2)
    answers.take(("a",), b"d", 1, 0.0)
    answers.take(("b",), b"d", 2, 0.0)
    assert answers.take(("c",), b"d", 3, 0.0) is Entry.FULL
    assert answers.retry_after(0.0) == SHORTEST_DELAY
    answers.keep(answers[("a",)], "yes", 3, 90.0, "gone")

    assert answers.retry_after(0.0) == LONGEST_DELAY
    assert answers.take(("c",), b"d", 4, 80.0) is Entry.FULL
    assert answers.retry_after(80.0) == 10.0
    assert answers.take(("c",), b"d", 5, 90.0) is Entry.RUNS


class Reference:
    """One key as the reference knows it."""

    def __init__(self, digest: bytes, runner: int, held: Key[int, str]) -> None:
        self.digest, self.runner, self.held = digest, runner, held
        self.joined: list[int] = []
        self.answer: str | None = None
        self.size, self.until = SET_ASIDE, 0.0


class Store(RuleBasedStateMachine):
    """Calls come, are answered, do not run, give up, and time passes, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.store = kept()
        self.now = 0.0
        self.number = 0
        self.known: dict[str, Reference] = {}

    def running(self) -> list[str]:
        return [name for name, key in self.known.items() if key.answer is None]

    def bytes(self) -> int:
        return sum(key.size for key in self.known.values())

    def expected(self, name: str, digest: bytes) -> Entry:
        self.known = {name: key for name, key in self.known.items() if key.answer is None or key.until > self.now}
        key = self.known.get(name)
        if key is None:
            full = len(self.known) >= 4 or self.bytes() + SET_ASIDE > ROOM
            return Entry.FULL if full else Entry.RUNS
        if key.digest != digest:
            return Entry.REUSED
        if key.answer is not None:
            return Entry.ANSWERED
        crowded = sum(len(key.joined) for key in self.known.values()) >= 3
        return Entry.CROWDED if crowded else Entry.JOINS

    @rule(name=st.sampled_from("abcdef"), digest=st.sampled_from([b"1", b"1", b"1", b"2"]))
    def take(self, name: str, digest: bytes) -> None:
        self.number += 1
        expected = self.expected(name, digest)

        assert self.store.take((name,), digest, self.number, self.now) is expected
        if expected is Entry.RUNS:
            self.known[name] = Reference(digest, self.number, self.store[(name,)])
        elif expected is Entry.JOINS:
            self.known[name].joined.append(self.number)
        elif expected is Entry.ANSWERED:
            assert self.store[(name,)].answer == self.known[name].answer

    @precondition(lambda self: self.running())
    @rule(data=st.data(), size=st.sampled_from([0, 40, 90, SET_ASIDE]), left=st.sampled_from([-1.0, 0.0, 1.0, 5.0]))
    def keep(self, data: st.DataObject, size: int, left: float) -> None:
        name = data.draw(st.sampled_from(self.running()))
        key, fits = self.known[name], self.bytes() + size <= ROOM
        answer = f"answer of {key.runner}"

        assert self.store.keep(key.held, answer, size, self.now + left, "gone") == key.joined
        assert key.held.answer == answer
        key.answer, key.until, key.joined = answer if fits else "gone", self.now + left, []
        key.size += size if fits else 0

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.running()))
        key = self.known[name]
        heir = key.joined.pop(0) if key.joined else None

        assert self.store.free(key.held) == heir
        if heir is None:
            del self.known[name]
        else:
            key.runner = heir

    @precondition(lambda self: any(key.joined for key in self.known.values()))
    @rule(data=st.data())
    def part(self, data: st.DataObject) -> None:
        name, call = data.draw(st.sampled_from([(n, call) for n, key in self.known.items() for call in key.joined]))
        self.known[name].joined.remove(call)
        self.store.part(self.known[name].held, call)
        self.store.part(self.known[name].held, call)

    @rule(passed=st.sampled_from([0.5, 1.0, 4.0]))
    def time_passes(self, passed: float) -> None:
        self.now += passed

    @invariant()
    def the_books_agree_and_stay_within_their_bounds(self) -> None:
        assert len(self.store) == len(self.known) <= 4
        assert self.store.bytes == self.bytes() <= ROOM
        assert self.store.joined == sum(len(key.joined) for key in self.known.values()) <= 3
        assert all(self.store[(name,)].runner == self.known[name].runner for name in self.running())
        assert SHORTEST_DELAY <= self.store.retry_after(self.now) <= LONGEST_DELAY


Store.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestStore = Store.TestCase
