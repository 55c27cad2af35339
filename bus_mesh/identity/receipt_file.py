"""How receipts lie in a file: rows, each of which tells whether it is whole.

    ┌──────┬───────────────────┬──────────────────────────┬────────┐
    │length│CRC-32 of the record│CRC-32 of the 8 bytes before│ record │   big-endian, u32 each
    └──────┴───────────────────┴──────────────────────────┴────────┘

A writer that dies leaves its last row **cut**: a head that holds, or less than a head, and too few bytes after it. That
is no fault of any receipt. Everything else that does not fit is **damaged**. Neither checksum proves anything, the
signatures inside do; they only tell an accident from a receipt that does not verify.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

__all__ = ["Row", "Rows", "pack_receipt", "read_receipts"]

_HEAD: Final = Struct(">III")
_CHECKED: Final = 8


class Row(NamedTuple):
    """One record, and where it starts in the file; None where it is damaged."""

    offset: int
    record: bytes | None


class Rows(NamedTuple):
    """What a file holds; `whole` bytes of it are whole rows, and then come `cut` bytes of one that is not."""

    rows: Sequence[Row]
    whole: int
    cut: int

    @property
    def damaged(self) -> bool:
        """Whether something in the file is not what was written."""
        return any(row.record is None for row in self.rows)


def pack_receipt(record: bytes) -> bytes:
    """Return a record as a row."""
    told = _HEAD.pack(len(record), crc32(record), 0)[:_CHECKED]
    return told + crc32(told).to_bytes(4, "big") + record


def read_receipts(data: bytes) -> Rows:
    """Take a file apart. After a damaged head nothing can be found any more, so it is the last row."""
    rows, at = list[Row](), 0
    while len(data) - at >= _HEAD.size:
        length, checksum, head_checksum = _HEAD.unpack_from(data, at)
        start, stop = at + _HEAD.size, at + _HEAD.size + length
        if crc32(data[at : at + _CHECKED]) != head_checksum:
            return Rows([*rows, Row(at, None)], at, 0)
        if stop > len(data):
            break
        record = data[start:stop]
        rows.append(Row(at, record if crc32(record) == checksum else None))
        at = stop
    return Rows(rows, at, len(data) - at)
