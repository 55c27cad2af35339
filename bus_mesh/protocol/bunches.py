"""How frames travel, on the socket and inside envelopes: in bunches of u32 length ‖ a MessagePack array of frames.

What takes more than `HEAD_LIMIT` is a bunch of one frame. So a bunch is either measured like that frame, or so small
that it is read in one go, which takes a third less time than frame by frame.
"""

import struct
from collections.abc import Sequence
from typing import Any, Final

from bus_mesh.protocol.frames import HEAD_LIMIT, FrameError, value

LENGTH: Final = struct.Struct(">I")
_ROOM: Final = HEAD_LIMIT - 3  # for the frames of a bunch, beside the head of their array
_ALONE: Final = 0x91  # an array of one


def bunches(frames: Sequence[bytes]) -> bytes:
    """Return encoded frames as they stand on the socket and inside an envelope."""
    count = len(frames)
    if count == 1:
        return b"".join((LENGTH.pack(1 + len(frames[0])), b"\x91", frames[0]))
    size = sum(map(len, frames))
    if size <= _ROOM:
        head = b"%c" % (0x90 | count) if count < 16 else b"\xdc%c%c" % divmod(count, 256)
        return b"".join((LENGTH.pack(len(head) + size), head, *frames))
    parts: list[list[bytes]] = [[]]
    size = 0
    for frame in frames:
        size += len(frame)
        if size > _ROOM and parts[-1]:
            parts.append([])
            size = len(frame)
        parts[-1].append(frame)
    return b"".join(map(bunches, parts))


def read_bunch(data: bytes, at: int, stop: int) -> tuple[Any, ...]:
    """Return what a bunch between two offsets holds, as `fit` takes it; raise FrameError for what is no bunch."""
    if stop - at > HEAD_LIMIT:
        if data[at] != _ALONE:
            raise FrameError(f"a bunch of {stop - at} bytes, over {HEAD_LIMIT}, and not of one frame")
        return (value(data[at + 1 : stop]),)
    found = value(data[at:stop])
    if type(found) is not tuple or not found:
        raise FrameError("not an array of frames")
    return found


def read_bunches(data: bytes, most: int) -> list[Any]:
    """Return what the bunches of an envelope hold; raise FrameError when they are cut, none, or over `most` frames."""
    found: list[Any] = []
    at, end = 0, len(data)
    while end - at >= 4:
        start = at + 4
        at = start + LENGTH.unpack_from(data, at)[0]
        if at > end:
            break
        found += read_bunch(data, start, at)
    if at != end:
        raise FrameError(f"{end} bytes of bunches where {at if at > end else at + 4} or more are announced")
    if not 0 < len(found) <= most:
        raise FrameError(f"{len(found)} frames where 1 to {most} are allowed")
    return found
