"""The files that children print into."""

import os
import selectors
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.process.rotated import MOST_BYTES, Logs, Rotated, older, stamped


@given(st.binary(max_size=60).map(lambda raw: raw.replace(b"T", b"t")), st.lists(st.integers(0, 60), max_size=5))
def test_each_line_is_stamped_once_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    made, at_start = b"", True
    for begin, end in pairwise(ends):
        if chunk := data[begin:end]:
            made += stamped(chunk, b"T ", at_start)
            at_start = chunk.endswith(b"\n")

    *whole, rest = data.split(b"\n")
    assert made == b"".join(b"T " + line + b"\n" for line in whole) + (b"T " + rest if rest else b"")
    assert made.replace(b"T ", b"") == data


def test_a_full_file_makes_room_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    log = Rotated(path, most=10, kept=3)
    for number in range(8):
        log.write(b"%d234567890\n" % number)

    files = [older(path, number).read_bytes()[:1] for number in range(3)]
    assert files == [b"7", b"6", b"5"] and not older(path, 3).exists()


def test_a_log_goes_on_where_its_file_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"before\n")
    Rotated(path).write(b"after\n")

    assert path.read_bytes() == b"before\nafter\n"


def test_two_children_share_a_file_and_the_last_one_closes_it(tmp_path: Path) -> None:
    logs = Logs(selectors.DefaultSelector())
    pens = [logs.open(str(tmp_path / "a.log"), stamp=True) for _ in range(2)]
    for number, pen in enumerate(pens):
        os.write(pen, b"child %d\nhalf" % number)
        os.close(pen)
        logs.catch_up()
    logs.catch_up()

    words = [line.partition(" ")[2] for line in (tmp_path / "a.log").read_text().split("\n")]
    assert words[0] == "child 0" and "child 1" in words[1] and repr(logs) == "Logs([])"


def test_what_says_the_time_itself_is_kept_as_it_came_and_bounded_too(tmp_path: Path) -> None:
    logs, path = Logs(selectors.DefaultSelector()), tmp_path / "a.log"
    with path.open("wb") as full:
        full.truncate(MOST_BYTES)
    pen = logs.open(str(path), stamp=False)
    os.write(pen, b'{"event": "a"}\n{"eve')
    logs.catch_up()
    os.write(pen, b'nt": "b"}\n')
    os.close(pen)
    logs.catch_up()

    assert path.read_bytes() == b'{"event": "a"}\n{"event": "b"}\n'
    assert older(path, 1).stat().st_size == MOST_BYTES and repr(logs) == "Logs([])"
