import pytest

from bus_mesh.cli.problem import Problem, explain, usage
from bus_mesh.protocol.errors import AgentAway, Code, MeshError, NoInstances, ResourceExhausted


def test_a_problem_says_what_why_and_what_to_try() -> None:
    assert str(Problem("it broke", "too hot", "busmesh cool")) == "error: it broke\n  why: too hot\n  try: busmesh cool"


def test_a_failed_call_exits_with_64_plus_its_code() -> None:
    assert explain(NoInstances("nobody")).exit_code == 64 + Code.UNAVAILABLE


def test_an_error_of_another_service_keeps_its_own_reason_and_code() -> None:
    error = MeshError.from_wire(9, "OUT_OF_TEA", "none left", None, None)

    problem = explain(error)

    assert problem.exit_code == 64 + 9
    assert "FAILED_PRECONDITION/OUT_OF_TEA: none left" in problem.what


def test_a_missing_agent_names_the_next_step() -> None:
    assert "busmesh up" in explain(AgentAway("no socket")).then


def test_a_full_service_says_when_to_try_again() -> None:
    assert "2.5 s" in explain(ResourceExhausted("full", retry_after=2.5)).why


def test_a_usage_problem_exits_with_2() -> None:
    assert explain(usage("nonsense")).exit_code == 2


def test_a_file_that_is_not_there_is_named() -> None:
    assert explain(FileNotFoundError(2, "No such file or directory", "/x/y")).what == "/x/y: No such file or directory"


def test_a_defect_is_admitted_without_a_traceback() -> None:
    problem = explain(ZeroDivisionError("division by zero"))

    assert "ZeroDivisionError: division by zero" in problem.what
    assert "Traceback" not in str(problem)


def test_the_first_error_of_a_group_is_explained() -> None:
    assert explain(ExceptionGroup("many", [Problem("one"), Problem("two")])).what == "one"


def test_a_traceback_is_shown_only_to_who_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BUSMESH_DEBUG", "1")

    explain(ZeroDivisionError("division by zero"))

    assert "ZeroDivisionError" in capsys.readouterr().err
