"""How long a method usually takes, learnt call by call."""

import random

from bus_mesh.resilience.usual import SHORTEST, Usual


def test_nothing_under_a_tenth_of_a_second_is_overdue() -> None:
    usual = Usual()
    usual.record("orders", "get", 0.001)

    assert usual.longest("orders", "get") == usual.longest("never", "seen") == SHORTEST


def test_one_call_in_a_hundred_is_above_what_is_usual() -> None:
    usual, rng = Usual(), random.Random(1)
    times = [rng.lognormvariate(0.0, 0.5) for _ in range(40_000)]
    for seconds in times:
        usual.record("orders", "report", seconds)

    above = sum(seconds > usual.longest("orders", "report") for seconds in times) / len(times)
    assert 0.003 < above < 0.03


def test_names_that_strangers_make_up_make_no_table_grow() -> None:
    usual = Usual()
    for number in range(10_000):
        usual.record("orders", f"m{number}", 0.5)

    assert repr(usual) == "Usual(methods=4096)"
