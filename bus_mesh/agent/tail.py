"""Logs of services, read from their files: the last lines, then what came since, by a cursor that the reader keeps.

So nothing is held for readers, and none can be slow. A cursor says which file, and how far into it; when that file has
taken its turn, reading goes on in it and then in the next. Blocking: a thread's work.
"""

import os
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from bus_mesh.process.rotated import KEPT_FILES, older

__all__ = ["Cursor", "since", "tail"]

MOST_LINES: Final = 1000
"""Lines that are given at once."""
_KNOWN_BY: Final = 24  # bytes, the time of the first line: inode numbers are used again


class Cursor(NamedTuple):
    """How far a log was read: the file, by its inode and its first bytes, and the bytes into it."""

    inode: int
    first: int
    offset: int


def tail(path: Path, lines: int, most: int) -> tuple[list[str], Cursor | None]:
    """Return the last lines of a log, in `most` bytes, and where it goes on; None while there is no file."""
    data, cursor, left = b"", None, most
    for number in range(KEPT_FILES):
        try:
            with older(path, number).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                begin = max(0, size - left)
                file.seek(begin)
                read = file.read(size - begin)
                if cursor is None:
                    whole = read.rfind(b"\n") + 1 if number == 0 else len(read)
                    read, cursor = read[:whole], _cursor(file.fileno(), begin + whole)
        except FileNotFoundError:
            continue
        if begin > 0:
            read = read[read.find(b"\n") + 1 :]
        data, left = read + data, left - len(read)
        if begin > 0 or data.count(b"\n") >= lines:
            break
    return _text(data)[-min(lines, MOST_LINES) :] if lines > 0 else [], cursor


def since(path: Path, cursor: Cursor | None, most: int) -> tuple[list[str], Cursor | None]:
    """Return the lines that came after a cursor, those of `most` bytes at most, and where to go on.

    Of a line that is longer so much is given; one whose file took its turn meanwhile is given in two.
    """
    files = [older(path, number) for number in reversed(range(KEPT_FILES))]
    found: list[str] = []
    waiting = cursor is not None and any(_known(file, cursor) for file in files)
    for file_path in files:
        try:
            with file_path.open("rb") as file:
                if waiting and cursor is not None and not _is(file.fileno(), cursor):
                    continue  # older than what was read
                offset = cursor.offset if waiting and cursor is not None else 0
                waiting = False
                file.seek(offset)
                read = file.read(most)
                ends = len(read) < most and file_path != path  # nothing more comes to a file that had its turn
                whole = len(read) if ends else read.rfind(b"\n") + 1 or (len(read) if len(read) == most else 0)
                cursor = _cursor(file.fileno(), offset + whole)
        except FileNotFoundError:
            continue
        found += _text(read[:whole])
        if whole:
            break
    return found, cursor


def _known(path: Path, cursor: Cursor) -> bool:
    try:
        with path.open("rb") as file:
            return _is(file.fileno(), cursor)
    except FileNotFoundError:
        return False


def _is(descriptor: int, cursor: Cursor) -> bool:
    return _cursor(descriptor, cursor.offset) == cursor


def _cursor(descriptor: int, offset: int) -> Cursor:
    first = os.pread(descriptor, min(offset, _KNOWN_BY), 0)
    return Cursor(os.fstat(descriptor).st_ino, zlib.crc32(first), offset)


def _text(data: bytes) -> list[str]:
    return data.decode(errors="replace").removesuffix("\n").split("\n") if data else []
