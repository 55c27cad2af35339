"""What is cut by a crash is told from what was changed, and neither is taken for a receipt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_mesh.identity.receipt_file import pack_receipt, read_receipts

RECORDS = [b"first", b"", b"third" * 100]
FILE = b"".join(map(pack_receipt, RECORDS))


def test_what_was_packed_is_read() -> None:
    found = read_receipts(FILE)

    assert [row.record for row in found.rows] == RECORDS
    assert (found.whole, found.cut, found.damaged) == (len(FILE), 0, False)
    assert [
        FILE[row.offset :].startswith(pack_receipt(record)) for row, record in zip(found.rows, RECORDS, strict=True)
    ]
    assert read_receipts(b"") == ([], 0, 0)


@given(st.integers(0, len(FILE) - 1))
def test_a_file_cut_anywhere_keeps_its_whole_rows(size: int) -> None:
    found = read_receipts(FILE[:size])

    assert (found.whole + found.cut, found.damaged) == (size, False)
    assert [row.record for row in found.rows] == RECORDS[: len(found.rows)]
    assert read_receipts(FILE[: found.whole]).cut == 0


@given(st.integers(0, len(FILE) * 8 - 1))
def test_any_flipped_bit_is_damage_and_never_a_cut(bit: int) -> None:
    changed = bytearray(FILE)
    changed[bit // 8] ^= 1 << bit % 8
    found = read_receipts(bytes(changed))

    assert (found.damaged, found.cut) == (True, 0)


@pytest.mark.parametrize("tail", [bytes(12), bytes(4096), b"\xff" * 12])
def test_a_tail_of_zeros_is_damage(tail: bytes) -> None:
    found = read_receipts(FILE + tail)

    assert (found.damaged, found.whole, len(found.rows)) == (True, len(FILE), 4)
