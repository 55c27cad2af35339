"""The local protocol: which frame may come when, however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.protocol.bunches import bunches
from bus_mesh.protocol.frames import Call, Cancel, Drain, Fail, Frame, Hello, Ping, Reply, Serve, Welcome, encode
from bus_mesh.protocol.session import Decoder, ProtocolError, Session, Side, State

HELLO = Hello(16, 1, "web", "x", None)
WELCOME = Welcome(17, 1, "node-a", {}, 1, None)
CALL = Call(1, 1, "orders", "get", 5, "", None, b"x" * 40)
SERVE = Serve(18, 2, "orders", "1", {}, (), 64)
REFUSAL = Fail(3, 0, 16, "APP_NOT_YOURS", "no", None, None)


def bytes_of(*frames: Frame) -> bytes:
    return bunches([encode(frame) for frame in frames]) if frames else b""


@given(st.lists(st.sampled_from([CALL, HELLO, Ping(23, 9), Cancel(4, 1)]), max_size=6), st.data())
def test_however_the_bytes_are_cut_the_same_frames_come_out(frames: list[Frame], data: st.DataObject) -> None:
    whole, decoder, found = bytes_of(*frames), Decoder(), []
    while whole:
        cut = data.draw(st.integers(1, len(whole)))
        found += decoder.feed(whole[:cut])
        whole = whole[cut:]

    assert found == frames
    assert decoder.held == 0


def test_a_length_over_the_limit_is_refused_before_its_bytes_come() -> None:
    with pytest.raises(ProtocolError, match="over the limit of 100"):
        Decoder(limit=100).feed((101).to_bytes(4, "big"))


def test_a_half_sent_frame_is_held_and_told() -> None:
    decoder = Decoder()

    assert decoder.feed(bytes_of(CALL)[:10]) == []
    assert decoder.held == 10


@pytest.mark.parametrize(("side", "first"), [(Side.AGENT, HELLO), (Side.APP, WELCOME)])
def test_a_session_opens_with_its_first_frame(side: Side, first: Frame) -> None:
    session = Session(side)

    assert session.receive(bytes_of(first, CALL)) == [first, CALL]
    assert session.state is State.OPEN


@pytest.mark.parametrize(
    ("side", "frames"),
    [
        (Side.AGENT, (CALL,)),
        (Side.AGENT, (HELLO, HELLO)),
        (Side.AGENT, (HELLO, WELCOME)),
        (Side.AGENT, (HELLO, Drain(25))),
        (Side.APP, (HELLO,)),
        (Side.APP, (WELCOME, SERVE)),
        (Side.APP, (Reply(2, 1, None, b""),)),
    ],
    ids=str,
)
def test_what_may_not_come_now_ends_the_session(side: Side, frames: tuple[Frame, ...]) -> None:
    session = Session(side)

    with pytest.raises(ProtocolError, match="may not come"):
        session.receive(bytes_of(*frames))
    assert session.state is State.CLOSED
    assert session.receive(bytes_of(CALL)) == []


def test_a_refused_app_sees_a_closed_session() -> None:
    session = Session(Side.APP)

    assert session.receive(bytes_of(REFUSAL)) == [REFUSAL]
    assert session.state is State.CLOSED


def test_an_app_says_drain_only_back() -> None:
    session = Session(Side.AGENT)
    session.receive(bytes_of(HELLO))
    session.leave()

    assert session.receive(bytes_of(CALL, Drain(25), CALL)) == [CALL, Drain(25), CALL]
    assert session.state is State.LEAVING


def test_after_drain_answers_still_come() -> None:
    session = Session(Side.APP)
    session.receive(bytes_of(WELCOME, Drain(25)))

    assert session.state is State.LEAVING
    assert session.receive(bytes_of(Reply(2, 1, None, b""))) != []


@given(st.binary(max_size=200))
def test_garbage_is_held_or_ends_the_session_and_nothing_else(data: bytes) -> None:
    session = Session(Side.AGENT)
    try:
        session.receive(data)
    except ProtocolError:
        assert session.state is State.CLOSED
