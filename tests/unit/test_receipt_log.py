"""The files of an agent's receipts: bounded, private, whole after a crash, and never waited for."""

import stat
import threading
from pathlib import Path

import pytest

from bus_mesh.agent import receipts
from bus_mesh.agent.receipts import ReceiptLog, Receipts
from bus_mesh.identity.receipt import Proof
from bus_mesh.identity.receipt_file import pack_receipt, read_receipts


def records(path: Path) -> list[bytes | None]:
    return [row.record for row in read_receipts(path.read_bytes()).rows]


async def write(log: ReceiptLog, *written: bytes) -> None:
    for record in written:
        log.put(record)
    await log.close()


async def test_where_nothing_is_signed_there_is_no_thread_and_no_folder(tmp_path: Path) -> None:
    before = threading.active_count()
    log = ReceiptLog(tmp_path / "receipts")
    assert threading.active_count() == before
    await log.close()

    assert list(tmp_path.iterdir()) == []


async def test_what_is_put_is_written_for_the_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "receipts"
    log = ReceiptLog(folder)
    await write(log, b"one", b"two")

    assert (records(folder / "receipts.log"), log.dropped) == ([b"one", b"two"], 0)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "receipts.log").stat().st_mode) == 0o600


async def test_the_next_start_goes_on_after_the_last_whole_record(tmp_path: Path) -> None:
    await write(ReceiptLog(tmp_path), b"one", b"cut by a crash")
    file = tmp_path / "receipts.log"
    file.write_bytes(file.read_bytes()[:-3])
    await write(ReceiptLog(tmp_path), b"two")

    assert records(file) == [b"one", b"two"]


async def test_a_damaged_file_is_left_as_it_is_and_another_begun(tmp_path: Path) -> None:
    await write(ReceiptLog(tmp_path), b"one")
    file = tmp_path / "receipts.log"
    damaged = file.read_bytes()[:-1] + b"E"
    file.write_bytes(damaged)
    await write(ReceiptLog(tmp_path), b"two")

    assert (records(file), (tmp_path / "receipts.log.1").read_bytes()) == ([b"two"], damaged)


async def test_files_are_rotated_and_only_the_newest_kept(tmp_path: Path) -> None:
    row = len(pack_receipt(b"record 00"))
    log = ReceiptLog(tmp_path, file_bytes=2 * row, files=3)
    await write(log, *(b"record %02d" % number for number in range(9)))

    kept = {path.name: records(path) for path in sorted(tmp_path.iterdir())}
    assert kept == {
        "receipts.log": [b"record 08"],
        "receipts.log.1": [b"record 06", b"record 07"],
        "receipts.log.2": [b"record 04", b"record 05"],
    }


async def test_a_slow_disk_is_not_waited_for_and_what_is_too_much_is_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, really = threading.Event(), receipts._write_whole

    def slowly(file: int, data: bytes) -> None:
        assert disk.wait(20)
        really(file, data)

    monkeypatch.setattr(receipts, "_write_whole", slowly)
    log = ReceiptLog(tmp_path, waiting_bytes=10)
    for record in (b"1234", b"5678", b"too much", b"90"):
        log.put(record)

    assert log.dropped == 1
    disk.set()
    await log.close()
    assert records(tmp_path / "receipts.log") == [b"1234", b"5678", b"90"]


async def test_a_disk_that_refuses_is_counted_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = receipts._write_whole

    def full(file: int, data: bytes) -> None:
        if data.endswith(b"refused"):
            really(file, data[:-2])
            raise OSError(28, "No space left on device")
        really(file, data)

    monkeypatch.setattr(receipts, "_write_whole", full)
    monkeypatch.setattr(receipts, "_REST", 0.0)
    log = ReceiptLog(tmp_path)
    await write(log, b"one", b"refused", b"two")

    assert (records(tmp_path / "receipts.log"), log.dropped) == ([b"one", b"two"], 1)


async def test_a_folder_that_cannot_be_made_costs_the_receipts_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "receipts").write_bytes(b"a file")
    log = ReceiptLog(tmp_path / "receipts")
    await write(log, b"one", b"two")

    assert log.dropped == 2


def test_calls_that_share_both_envelopes_are_one_record() -> None:
    due, kept = [], list[bytes]()
    gathered = Receipts(due.append)
    gathered.keep = kept.append
    one, two, answer = (Proof.of(signed, b"", b"") for signed in (b"one", b"two", b"answer"))
    for number, request in ((1, one), (2, one), (3, two)):
        gathered.answered(number, request, answer)
    (end_of_turn,) = due
    assert kept == []
    end_of_turn()

    assert len(kept) == 2
    gathered.answered(4, one, answer)
    assert len(due) == 2
