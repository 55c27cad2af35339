import io
from pathlib import Path

import pytest

from bus_mesh.cli.call import read
from bus_mesh.cli.options import seconds
from bus_mesh.cli.problem import Problem


def test_parameters_come_from_the_argument_a_file_or_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "order.json"
    file.write_text('{"id": 2}')
    monkeypatch.setattr("sys.stdin", io.StringIO('{"id": 3}'))

    assert [read('{"id": 1}'), read(f"@{file}"), read("-")] == [{"id": 1}, {"id": 2}, {"id": 3}]


@pytest.mark.parametrize("text", ["", "{", "[1]", '"text"', "null"])
def test_parameters_that_are_no_object_are_a_usage_error(text: str) -> None:
    with pytest.raises(Problem) as caught:
        read(text)

    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("text", "value"), [("250ms", 0.25), ("1s", 1.0), ("1.5s", 1.5), ("2m", 120.0)])
def test_times_are_written_with_their_unit(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["5", "s", "1 s", "-1s", "1sec", "1e3s"])
def test_a_time_without_a_known_unit_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="like 250ms"):
        seconds(text)
