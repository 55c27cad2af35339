"""Frames: what is on the wire is what is in the tuple, and nothing else becomes one."""

import contextlib
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.protocol import frames
from bus_mesh.protocol.bunches import bunches, read_bunches
from bus_mesh.protocol.frames import (
    HEAD_LIMIT,
    Call,
    Cancel,
    Drain,
    Fail,
    Frame,
    FrameError,
    Hello,
    Method,
    Ping,
    Refused,
    Reply,
    Serve,
    Served,
    Welcome,
    Withdraw,
    decode,
    encode,
    fit,
)

VECTORS = json.loads((Path(__file__).parents[2] / "wire" / "frames.json").read_text())
ONE_OF_EACH: list[Frame] = [
    Call(1, 7, "orders", "get", 500, "web", {"idempotent": True, "expires_us": 12}, b"\x81\xa2id\xa11"),
    Call(1, 1 << 63, "orders", "get", 0, "", None, b""),
    Reply(2, 7, {"instance": "node-a-1", "load": 3}, b"ok"),
    Fail(3, 7, 14, "DRAINING", "leaving", None, {"ran": "no", "retry_after_ms": 20}),
    Cancel(4, 7),
    Refused(5, 9, b"h" * 32, "NOT_A_RECIPIENT"),
    Hello(16, 1, "web", "python 0.1.0", None),
    Welcome(17, 1, "node-a", {"calls": 4096}, 900_000, None),
    Serve(18, 8, "orders", "1.2.0", {"zone": "a"}, (Method("get", True, 500, "ab12"),), 64),
    Served(19, 8, "node-a-1"),
    Withdraw(20, 9, "node-a-1"),
    Ping(23, 1),
    Ping(24, 1),
    Drain(25),
]


@pytest.mark.parametrize("frame", ONE_OF_EACH, ids=lambda frame: f"{type(frame).__name__}-{frame[0]}")
def test_every_kind_comes_back_as_it_went(frame: Frame) -> None:
    assert decode(encode(frame)) == frame
    assert type(decode(encode(frame))) is type(frame)


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda vector: vector["name"])
def test_the_golden_bytes_mean_what_they_meant(vector: dict[str, Any]) -> None:
    frame = decode(bytes.fromhex(vector["hex"]))

    assert type(frame).__name__ == vector["name"].partition("-")[0]
    assert json.loads(json.dumps(frame, default=bytes.hex)) == vector["fields"]
    assert encode(frame).hex() == vector["hex"]


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: vector["why"])
def test_the_golden_refusals_are_refused(vector: dict[str, str]) -> None:
    with pytest.raises(FrameError, match=vector["says"]):
        decode(bytes.fromhex(vector["hex"]))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_a_frame_error(data: bytes) -> None:
    try:
        frame = decode(data)
    except FrameError:
        return
    assert isinstance(frame, tuple)


WILD = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.sampled_from([1, 2, 3, 4, 5, 6, 16, 17, 18, 19, 20, 23, 25]), st.lists(WILD, max_size=8))
def test_any_fields_are_a_frame_or_a_frame_error(kind: int, fields: list[Any]) -> None:
    try:
        decode(msgpack.packb([kind, *fields]))
    except FrameError as error:
        assert str(error)


NEST = b"\x91" * 300_000
WIDE = b"\xdd\x00\x04\x00\x00" + b"\xc0" * 262_144
WIDE_HEAD = b"\x94\x02\x01" + b"\xdc\xff\xff" + b"\xc0" * 65_535 + b"\xc4\x00"


@pytest.mark.alone
@pytest.mark.parametrize("bomb", [NEST, WIDE, WIDE_HEAD], ids=["nest", "wide", "wide-head"])
def test_a_bomb_costs_neither_memory_nor_time(bomb: bytes) -> None:
    tracemalloc.start()
    began = time.perf_counter()

    with pytest.raises(FrameError):
        decode(bomb)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(bomb)
    assert time.perf_counter() - began < 0.1


def test_a_large_payload_is_let_through_and_a_large_head_is_not() -> None:
    assert decode(encode(Reply(2, 1, None, b"x" * 1_000_000))).payload == b"x" * 1_000_000  # type: ignore[union-attr]
    with pytest.raises(FrameError, match=f"over {HEAD_LIMIT} bytes before the payload"):
        decode(encode(Reply(2, 1, {"metadata": "x" * HEAD_LIMIT}, b"")))


SIZES = st.one_of(st.integers(0, 40), st.sampled_from([HEAD_LIMIT - 20, HEAD_LIMIT - 8, HEAD_LIMIT, 5 * HEAD_LIMIT]))


@given(st.lists(SIZES, min_size=1, max_size=64))
def test_what_goes_into_one_envelope_comes_out_of_it_in_bunches_that_are_small_or_of_one_frame(
    sizes: list[int],
) -> None:
    went = [Reply(2, at, None, b"x" * size) for at, size in enumerate(sizes)]
    body = bunches([encode(frame) for frame in went])

    assert [fit(said) for said in read_bunches(body, 64)] == went
    at = 0
    while at < len(body):
        size = int.from_bytes(body[at : at + 4], "big")
        assert size <= HEAD_LIMIT or body[at + 4] == 0x91
        at += 4 + size


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0",
        b"\0\0\0\0",
        b"\0\0\0\x01\x90",
        b"\0\0\0\x01\xc0",
        b"\0\0\0\x05abc",
        b"\0\0\0\x02\x92\xc0",
        b"\0\0\0\x03\x91\xc0\xc0",
        bunches([b"\xc0"] * 65),
        bunches([b"\xc0"] * 40) + bunches([b"\xc0"] * 25),
    ],
)
def test_a_body_that_is_cut_empty_or_too_full_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        read_bunches(body, 64)


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=8), st.data())
def test_no_bytes_make_a_reader_of_bunches_fail_otherwise(parts: list[bytes], data: st.DataObject) -> None:
    body = bytearray(bunches([encode(ONE_OF_EACH[len(part) % len(ONE_OF_EACH)]) for part in parts]) + parts[0])
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FrameError):
        found = read_bunches(bytes(body), 128)
        assert 0 < len(found) <= 128
        for said in found:
            with contextlib.suppress(FrameError):
                assert fit(said)[0] in {kind.value for kind in frames.Kind}


def test_a_bunch_over_the_limit_that_is_not_of_one_frame_is_refused_before_it_becomes_anything() -> None:
    bunch = b"\xdd\x00\x10\x00\x00" + b"\x80" * (1 << 20)
    body = len(bunch).to_bytes(4, "big") + bunch
    tracemalloc.start()
    with pytest.raises(FrameError, match="not of one frame"):
        read_bunches(body, 64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 64 * 1024


def test_the_kinds_have_the_numbers_they_will_always_have() -> None:
    assert {kind.name: kind.value for kind in frames.Kind} == {
        "CALL": 1,
        "REPLY": 2,
        "FAIL": 3,
        "CANCEL": 4,
        "REFUSED": 5,
        "ITEM": 6,
        "END": 7,
        "CREDIT": 8,
        "HELLO": 16,
        "WELCOME": 17,
        "SERVE": 18,
        "SERVED": 19,
        "WITHDRAW": 20,
        "EVENT": 21,
        "SUBSCRIBE": 22,
        "PING": 23,
        "PONG": 24,
        "DRAIN": 25,
    }
