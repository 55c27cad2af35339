import json

import pytest

from bus_mesh.cli import show


def test_columns_are_as_wide_as_their_widest_cell_and_lines_have_no_trailing_space() -> None:
    lines = show.table(["NAME", "N"], [["a-long-name", 1], ["b", 20]])

    assert lines == ["NAME         N", "a-long-name  1", "b            20"]


def test_an_empty_cell_is_a_dash_so_that_columns_can_be_cut() -> None:
    assert show.table(["A", "B"], [["", None]]) == ["A  B", "-  -"]


def test_a_zero_is_not_an_empty_cell() -> None:
    assert show.table(["A"], [[0]])[1] == "0"


def test_json_is_one_line_of_plain_text_with_bytes_as_base64(capsys: pytest.CaptureFixture[str]) -> None:
    show.json_line({"name": "Zoë", "blob": b"\x00\xff"})

    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert json.loads(printed) == {"name": "Zoë", "blob": "AP8="}
    assert "Zoë" in printed
