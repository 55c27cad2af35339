"""Logs of services, read while they are written and while their files take turns."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from bus_mesh.agent.tail import since, tail
from bus_mesh.process.rotated import Rotated, older

MOST = 64


def write(log: Rotated, *lines: str) -> None:
    for line in lines:
        log.write(line.encode() + b"\n")


def test_the_last_lines_come_from_as_many_files_as_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    write(Rotated(path, most=9), "one", "two", "three", "four", "five", "six")

    assert tail(path, 4, 1000)[0] == ["three", "four", "five", "six"]
    assert tail(path, 100, 1000)[0] == ["one", "two", "three", "four", "five", "six"]
    assert tail(path, 0, 1000)[0] == []


def test_of_many_bytes_the_last_whole_lines_are_given(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    write(Rotated(path), *(f"line {number:03}" for number in range(100)))

    assert tail(path, 100, 30)[0] == ["line 097", "line 098", "line 099"]


def test_a_log_that_is_not_there_yet_begins_with_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    assert tail(path, 10, 1000) == ([], None)
    write(Rotated(path), "first")

    assert since(path, None, 1000)[0] == ["first"]


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    log = Rotated(path)
    log.write(b"whole\nha")
    found, cursor = tail(path, 10, 1000)
    nothing, cursor = since(path, cursor, 1000)
    log.write(b"lf\n")

    assert (found, nothing) == (["whole"], [])
    assert since(path, cursor, 1000)[0] == ["half"]


def test_a_line_over_the_limit_is_given_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    write(Rotated(path), "x" * 100)
    first, cursor = since(path, None, 64)

    assert first == ["x" * 64] and since(path, cursor, 64)[0] == ["x" * 36]


def test_who_was_away_for_too_long_goes_on_with_the_oldest_that_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    log = Rotated(path, most=20)
    write(log, "first of all")
    _, cursor = tail(path, 1, 1000)
    write(log, *(f"a longer line {number}" for number in range(9)))
    found, _ = since(path, cursor, 1000)

    assert found[0] == older(path, 2).read_text().splitlines()[0]


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans())))
@settings(max_examples=200)
def test_whoever_looks_often_enough_sees_every_line_once(steps: list[tuple[int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.log"
        log = Rotated(path, most=100)
        cursor, wrote, read, unseen = None, list[str](), list[str](), 0
        for number, (length, look) in enumerate(steps):
            line = f"{number:04}" + "x" * length
            write(log, line)
            wrote.append(line)
            unseen += len(line) + 1
            while look or unseen > 150:  # three files of a hundred bytes hold that
                found, cursor = since(path, cursor, MOST)
                read += found
                if not found:
                    unseen = 0
                    break
        while (said := since(path, cursor, MOST))[0]:
            read += said[0]
            cursor = said[1]
        log.close()

        assert read == wrote
