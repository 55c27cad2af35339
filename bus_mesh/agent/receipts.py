"""Receipts of signed calls: paired as answers go out and come in, and written down by a thread of its own.

    answered ─ pairs of this turn ─ record ─ queue, 8 MiB ─ thread ─ receipts.log ▶ .1 ▶ .2 ▶ .3 ▶ gone

The loop never waits for the disk: what the thread does not keep up with is dropped and counted. Nothing is synced, so a
machine that loses power may lose its last seconds. Receipts hold payloads in the clear, so the files are their owner's
only. Where no call is signed there is no thread, no folder and no file.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Final

from bus_mesh import clock
from bus_mesh.identity.receipt import Proof, encode_receipt
from bus_mesh.identity.receipt_file import pack_receipt, read_receipts
from bus_mesh.telemetry.log import Limited, get_logger

FILE_BYTES: Final = 16 * 1024 * 1024
"""How large a file may grow before the next is begun."""
FILES: Final = 4
"""Files that are kept, the one in use included."""
WAITING_BYTES: Final = 8 * 1024 * 1024
"""Bytes that may wait for the disk."""
NAME: Final = "receipts.log"
_REST: Final = 1.0  # seconds until a disk that failed is tried again
_PATIENCE: Final = 5.0


class Receipts:
    """Pairs what was asked with what was answered, one record for all calls that share both envelopes.

    `keep(record)` is told each record at the end of the turn, after what the turn had to send.
    """

    def __init__(self, soon: Callable[[Callable[[], None]], object]) -> None:
        self.keep: Callable[[bytes], None] = lambda record: None
        self._soon = soon
        self._pairs: dict[tuple[bytes, bytes], tuple[list[int], Proof, Proof]] = {}

    def __repr__(self) -> str:
        return f"Receipts(pairs={len(self._pairs)})"

    def answered(self, number: int, request: Proof, answer: Proof) -> None:
        """Note that call `number` of one signed envelope was answered in another."""
        if not self._pairs:
            self._soon(self._hand_over)
        key = request.digest, answer.digest
        self._pairs.setdefault(key, ([], request, answer))[0].append(number)

    def _hand_over(self) -> None:
        pairs, self._pairs = self._pairs, {}
        for ids, request, answer in pairs.values():
            self.keep(encode_receipt(ids, request, answer))


class ReceiptLog:
    """The files of one agent's receipts in `folder`. `put` on the loop's thread; the files are the writer thread's."""

    def __init__(
        self, folder: Path, *, file_bytes: int = FILE_BYTES, files: int = FILES, waiting_bytes: int = WAITING_BYTES
    ) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._file_bytes, self._files, self._waiting_bytes = file_bytes, files, waiting_bytes
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._log = Limited(get_logger("receipts"))
        # Each of these is changed by one thread only, so none needs a lock.
        self._put_bytes = self._full = 0
        self._done_bytes = self._failed = 0
        self._file, self._size, self._rests_until = -1, 0, 0.0

    def __repr__(self) -> str:
        return f"ReceiptLog({self._folder}, waiting={self._put_bytes - self._done_bytes} bytes, dropped={self.dropped})"

    @property
    def dropped(self) -> int:
        """Records that were not written: too many at once, or the disk refused them."""
        return self._full + self._failed

    def put(self, record: bytes) -> None:
        """Have a record written; never waits."""
        if self._put_bytes - self._done_bytes + len(record) > self._waiting_bytes:
            self._full += 1
            return
        self._put_bytes += len(record)
        self._queue.put(record)
        if self._thread is None:
            self._thread = Thread(target=self._write_all, name="receipts", daemon=True)
            self._thread.start()

    async def close(self) -> None:
        """Write what waits, 5 s at most."""
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join, _PATIENCE)

    # On the writer's thread.

    def _write_all(self) -> None:
        while (record := self._queue.get()) is not None:
            self._write(record)
            self._done_bytes += len(record)
        self._shut()

    def _write(self, record: bytes) -> None:
        if clock.monotonic() < self._rests_until:
            self._failed += 1
            return
        row = pack_receipt(record)
        try:
            if self._file < 0:
                self._open()
            if self._size and self._size + len(row) > self._file_bytes:
                self._rotate()
            _write_whole(self._file, row)
            self._size += len(row)
        except OSError as error:
            self._failed += 1
            self._rests_until = clock.monotonic() + _REST
            self._shut()  # opened anew, and what was half written taken off, at the next try
            self._log.warning("receipts not written", why=error.strerror or str(error), folder=str(self._folder))

    def _open(self) -> None:
        """Open the file in use and go on after its last whole row; one that is damaged is left as it is."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        found = read_receipts(self._path.read_bytes())
        if found.damaged:
            self._rotate()
        else:
            os.ftruncate(self._file, found.whole)
            self._size = found.whole

    def _rotate(self) -> None:
        self._shut()
        for number in range(self._files - 1, 0, -1):
            older = self._folder / (f"{NAME}.{number - 1}" if number > 1 else NAME)
            if older.exists():
                older.replace(self._folder / f"{NAME}.{number}")
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0

    def _shut(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _write_whole(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
