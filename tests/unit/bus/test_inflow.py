"""Messages are taken out of what a broker sends however it is cut; all else reaches nats-py's reader as it came."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.bus.inflow import LONGEST_LINE, Inflow
from bus_mesh.bus.nats_connection import Sink

Took = tuple[int, str, str, bytes, int]


def sink(number: int, took: list[Took]) -> Sink:
    return Sink(lambda handler, *said: took.append((number, *said)), lambda *said: None)


class Behind(asyncio.Protocol):
    def __init__(self) -> None:
        self.got = b""

    def data_received(self, data: bytes) -> None:
        self.got += data


class Rig:
    def __init__(self) -> None:
        self.took: list[Took] = []
        self.behind = Behind()
        self.losses = 0
        self.inflow = Inflow(self.behind, {number: sink(number, self.took) for number in (1, 2)}, self.lose)

    def lose(self) -> None:
        self.losses += 1


def msg(number: int, data: bytes, reply: bytes = b"") -> bytes:
    return b"MSG a.b %d %s%d\r\n%s\r\n" % (number, reply + b" " if reply else b"", len(data), data)


def hmsg(number: int, headers: bytes, data: bytes) -> bytes:
    return b"HMSG a.b %d r %d %d\r\n%s\r\n" % (number, len(headers), len(headers) + len(data), headers + data)


OURS = [
    (msg(1, b"x"), (1, "a.b", "", b"x", 0)),
    (msg(2, b"MSG a.b 1 5\r\n", b"r"), (2, "a.b", "r", b"MSG a.b 1 5\r\n", 0)),
    (msg(1, b""), (1, "a.b", "", b"", 0)),
    (hmsg(2, b"NATS/1.0 503\r\n\r\n", b""), (2, "a.b", "r", b"", 503)),
    (hmsg(1, b"NATS/1.0\r\nStatus: 503\r\n\r\n", b"y"), (1, "a.b", "r", b"y", 0)),
]
OTHERS = [b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'x'\r\n", b'INFO {"a": 1}\r\n', msg(7, b"PING\r\n"), b"MSG\r\n"]
PIECES = st.lists(st.sampled_from([*OURS, *((other, None) for other in OTHERS)]), max_size=20)


@given(PIECES, st.lists(st.integers(0, 400), max_size=20))
def test_whatever_the_cuts_each_message_comes_once_and_all_else_goes_on(
    pieces: list[tuple[bytes, Took | None]], cuts: list[int]
) -> None:
    rig, data = Rig(), b"".join(piece for piece, _ in pieces)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})

    for start, stop in pairwise(places):
        rig.inflow.data_received(data[start:stop])

    assert rig.took == [took for _, took in pieces if took is not None]
    assert rig.behind.got == b"".join(piece for piece, took in pieces if took is None)


@given(st.binary(max_size=300))
def test_bytes_that_make_no_sense_raise_nothing_and_are_left_to_nats_py(data: bytes) -> None:
    rig = Rig()
    rig.inflow.data_received(data)
    rig.inflow.data_received(b"\r\n")

    assert rig.took == []
    assert rig.behind.got == data + b"\r\n"


def test_a_subject_that_is_not_ascii_is_dropped_and_the_next_message_comes() -> None:
    rig = Rig()
    rig.inflow.data_received(b"MSG a.\xff\xfe 1 1\r\nx\r\n" + msg(1, b"y"))

    assert [took[3] for took in rig.took] == [b"y"]


def test_a_subject_with_other_blanks_smuggles_nothing_in() -> None:
    rig = Rig()
    inner = b"MSG none.5 2 0\r\n\r\n"
    for subject in (b"find.a\x0bb", b"find.a\x0b1", b"find.a\x0c2 "):
        rig.inflow.data_received(b"MSG %s 1 %d\r\n%s\r\n" % (subject.strip(b" "), len(inner), inner))

    assert [(took[0], took[3]) for took in rig.took] == [(1, inner)] * 3


@pytest.mark.parametrize(
    "line", [b"MSG a 1 -9", b"MSG a 1 99999999999", b"HMSG a 1 -2 5", b"HMSG a 1 9 5", b"MSG a 1 x"]
)
def test_a_size_that_cannot_be_is_left_to_nats_py(line: bytes) -> None:
    rig = Rig()
    rig.inflow.data_received(line + b"\r\n" + msg(1, b"y"))

    assert rig.behind.got == line + b"\r\n"
    assert len(rig.took) == 1


def test_a_line_without_end_is_not_held_for_ever() -> None:
    rig = Rig()
    for _ in range(20):
        rig.inflow.data_received(b"x" * (LONGEST_LINE // 10))

    assert len(rig.behind.got) > LONGEST_LINE


def test_a_message_in_many_pieces_is_looked_at_once_it_is_whole() -> None:
    rig, whole = Rig(), msg(1, b"z" * 100_000)
    for at in range(0, len(whole), 1000):
        rig.inflow.data_received(whole[at : at + 1000])

    assert [len(took[3]) for took in rig.took] == [100_000]


def test_the_end_is_told_whichever_way_it_comes() -> None:
    closed, cut = Rig(), Rig()
    closed.inflow.eof_received()
    cut.inflow.connection_lost(None)
    assert (closed.losses, cut.losses) == (1, 1)
