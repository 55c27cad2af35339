"""The driver and its wheel, one behaviour at a time; `test_machine.py` has every interleaving."""

from bus_mesh.agent.drive import Driver
from bus_mesh.gates.gate import Again, Answer, Flight, Gate, Path, Refuse, Stage, Wait, Wake
from bus_mesh.protocol.call import Outcome
from bus_mesh.protocol.errors import Cancelled, PermissionDenied, Ran, Unavailable
from bus_mesh.protocol.wheel import GRAIN, Wheel


class Noting(Gate):
    """Says what it is told to, and notes who came by."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes
        self.entering: list[Answer | Wait | None] = []
        self.leaving: list[Again | Wake | None] = []

    def enter(self, call: Flight, now: float) -> Answer | Wait | None:
        self.notes.append(f"+{self.name}")
        return self.entering.pop(0) if self.entering else None

    def leave(self, call: Flight, outcome: Outcome, now: float) -> Again | Wake | None:
        self.notes.append(f"-{self.name}")
        return self.leaving.pop(0) if self.leaving else None


class Rig:
    """A driver over the gates a, b and c."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.a, self.b, self.c = (Noting(name, self.notes) for name in "abc")
        self.wheel: Wheel[Flight] = Wheel()
        self.ends: list[Outcome] = []
        self.driver = Driver(self.wheel, self._send, self._abandon, self._done)
        self.flight = self.another(1)

    def another(self, number: int) -> Flight:
        return Flight(Path(self.a, self.b, self.c), None, number, "s", "m", "c", None, b"", 0.0, 1.0)

    def _send(self, flight: Flight, now: float) -> Outcome | None:
        self.notes.append("sent")
        return None

    def _abandon(self, flight: Flight) -> None:
        self.notes.append("abandoned")

    def _done(self, flight: Flight, outcome: Outcome, now: float) -> None:
        self.notes.append("done")
        self.ends.append(outcome)

    def at(self, now: float) -> None:
        for flight in self.wheel.due(now):
            self.driver.due(flight, now)

    def said(self) -> str:
        said, self.notes[:] = " ".join(self.notes), []
        return said


def good() -> Outcome:
    return Outcome("i", b"yes")


def lost() -> Outcome:
    return Outcome.refusal(Unavailable("lost"), "i")


def test_a_call_enters_top_to_bottom_and_a_failure_leaves_bottom_to_top() -> None:
    rig = Rig()
    rig.driver.begin(rig.flight, 0.0)
    rig.driver.answer(rig.flight, lost(), 0.1)

    assert rig.said() == "+a +b +c sent -c -b -a done"
    assert len(rig.wheel) == 0


def test_a_success_is_passed_on_before_the_gates_note_it() -> None:
    rig = Rig()
    rig.driver.begin(rig.flight, 0.0)
    rig.driver.answer(rig.flight, good(), 0.1)
    rig.driver.end(rig.flight, lost(), 0.2)

    assert rig.said() == "+a +b +c sent done -c -b -a"
    assert (rig.flight.stage, len(rig.wheel)) == (Stage.ENDED, 0)


def test_a_gate_that_refuses_gets_no_leave_and_those_above_it_do() -> None:
    rig = Rig()
    rig.b.entering = [Refuse(PermissionDenied("no", ran=Ran.NO))]
    rig.driver.begin(rig.flight, 0.0)

    assert rig.said() == "+a +b -a done"
    assert rig.ends[0].ran is Ran.NO


def test_a_gate_may_answer_a_call_itself_and_those_above_it_see_the_success() -> None:
    rig, known = Rig(), good()
    rig.b.entering = [Wait(0.5), Answer(known)]
    rig.driver.begin(rig.flight, 0.0)
    rig.driver.wake(rig.flight, 0.1)

    assert rig.said() == "+a +b +b done -a"
    assert rig.ends == [known]
    assert len(rig.wheel) == 0


def test_a_deadline_ends_a_call_once_and_takes_it_back() -> None:
    rig = Rig()
    rig.driver.begin(rig.flight, 0.0)
    rig.at(0.99)
    assert rig.said() == "+a +b +c sent"
    rig.at(1.0 + GRAIN)
    rig.at(2.0)

    assert rig.said() == "abandoned -c -b -a done"
    assert (rig.ends[0].reason, rig.ends[0].ran) == ("DEADLINE_EXCEEDED", Ran.MAYBE)


def test_an_answer_after_the_end_changes_nothing() -> None:
    rig = Rig()
    rig.driver.begin(rig.flight, 0.0)
    rig.driver.end(rig.flight, Outcome.refusal(Cancelled("given up")), 0.1)
    rig.said()
    rig.driver.answer(rig.flight, good(), 0.2)
    rig.driver.end(rig.flight, good(), 0.2)

    assert rig.said() == ""
    assert len(rig.ends) == 1


def test_another_try_passes_only_the_gates_below_the_one_that_asked_for_it() -> None:
    rig = Rig()
    rig.a.leaving = [None]
    rig.b.leaving = [Again()]
    rig.driver.begin(rig.flight, 0.0)
    rig.driver.answer(rig.flight, lost(), 0.1)
    rig.driver.answer(rig.flight, good(), 0.2)

    assert rig.said() == "+a +b +c sent -c -b +c sent done -c -b -a"
    assert rig.flight.attempt == 2


def test_a_pause_is_kept_and_an_answer_to_the_old_try_dropped_meanwhile() -> None:
    rig = Rig()
    rig.b.leaving = [Again(0.5)]
    rig.driver.begin(rig.flight, 0.0)
    rig.driver.answer(rig.flight, lost(), 0.1)
    assert rig.flight.stage is Stage.PAUSED
    rig.driver.answer(rig.flight, good(), 0.2)
    rig.at(0.59)
    assert rig.said() == "+a +b +c sent -c -b"
    rig.at(0.6 + GRAIN)

    assert rig.said() == "+c sent"


def test_a_call_that_ends_in_its_pause_is_not_sent_again_and_may_have_run() -> None:
    rig = Rig()
    rig.b.leaving = [Again(5.0)]
    rig.driver.begin(rig.flight, 0.0)
    rig.driver.answer(rig.flight, lost(), 0.1)
    rig.said()
    rig.at(1.0 + GRAIN)

    assert rig.said() == "-b -a done"
    assert rig.ends[0].ran is Ran.MAYBE


def test_no_gate_can_have_a_cancelled_call_tried_again() -> None:
    rig = Rig()
    rig.b.leaving = [Again()]
    rig.driver.begin(rig.flight, 0.0)
    rig.driver.end(rig.flight, Outcome.refusal(Cancelled("given up")), 0.1)

    assert rig.said() == "+a +b +c sent abandoned -c -b -a done"


def test_a_parked_call_asks_its_gate_again_when_it_is_woken() -> None:
    rig = Rig()
    rig.b.entering = [Wait(0.5), None]
    rig.driver.begin(rig.flight, 0.0)
    assert rig.flight.stage is Stage.WAITING
    rig.driver.wake(rig.flight, 0.1)
    rig.driver.wake(rig.flight, 0.1)

    assert rig.said() == "+a +b +b +c sent"


def test_a_call_that_leaves_wakes_as_many_as_its_gate_names_in_that_order() -> None:
    rig = Rig()
    rig.b.entering = [None, Wait(0.5), Wait(0.5)]
    waiting = [rig.another(2), rig.another(3)]
    for flight in (rig.flight, *waiting):
        rig.driver.begin(flight, 0.0)
    rig.b.leaving = [Wake(*waiting)]
    rig.said()
    rig.driver.answer(rig.flight, good(), 0.1)

    assert rig.said() == "done -c -b -a +b +c sent +b +c sent"


def test_a_turn_handed_on_along_any_number_of_late_calls_needs_no_deeper_stack() -> None:
    rig = Rig()
    late = [rig.another(number) for number in range(2000)]
    rig.b.entering = [Wait(9.0) for _ in late]
    for flight in late:
        rig.driver.begin(flight, 0.0)
    rig.b.leaving = [Wake(flight) for flight in late[1:]]
    rig.driver.wake(late[0], 1.5)

    assert [end.reason for end in rig.ends] == ["DEADLINE_EXCEEDED"] * 2000
    assert {end.ran for end in rig.ends} == {Ran.NO}


def test_a_wait_that_is_over_lets_its_gate_decide() -> None:
    rig = Rig()
    rig.b.entering = [Wait(0.5), Refuse(Unavailable("in vain", ran=Ran.NO))]
    rig.driver.begin(rig.flight, 0.0)
    rig.at(0.5 + GRAIN)

    assert rig.said() == "+a +b +b -a done"


def test_a_gate_whose_call_ends_while_it_waits_hears_of_it() -> None:
    rig = Rig()
    rig.b.entering = [Wait(0.5)]
    rig.driver.begin(rig.flight, 0.0)
    rig.driver.end(rig.flight, Outcome.refusal(Cancelled("given up")), 0.1)

    assert rig.said() == "+a +b -b -a done"


def test_a_call_whose_deadline_comes_before_it_was_sent_did_not_run() -> None:
    rig = Rig()
    rig.b.entering = [Wait(9.0)]
    rig.driver.begin(rig.flight, 0.0)
    rig.at(1.0 + GRAIN)

    assert rig.ends[0].ran is Ran.NO


def test_a_call_to_be_sent_that_cannot_be_ends_like_an_answered_one() -> None:
    rig = Rig()
    rig.driver._send = lambda flight, now: lost()
    rig.driver.begin(rig.flight, 0.0)

    assert rig.said() == "+a +b +c -c -b -a done"


def test_an_ended_call_keeps_no_parameters_while_the_wheel_still_knows_it() -> None:
    rig = Rig()
    rig.flight.payload = b"x" * 1000
    rig.driver.begin(rig.flight, 0.0)
    rig.driver.answer(rig.flight, good(), 0.001)

    assert rig.flight.payload == b""
