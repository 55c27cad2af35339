"""The last policy that an agent took, on its disk: with it the agent starts and serves while the control plane is away.

    <folder>/head            the signed head, as it came
    <folder>/parts/<hash>    its manifest and documents, by content hash

Written only after all of it was checked: first the parts, each to a file of another name, to the disk, then renamed; at
last the head in the same way. So the head on disk always names parts that are there, whenever the power goes. Nothing
read here is believed: the head is verified anew, and a part is what its name says or it is not there.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bus_mesh.policy.manifest import MANIFEST_LIMIT, hash_of

__all__ = ["KeptPolicy"]

_HEAD_LIMIT: Final = 64 * 1024
_NEW: Final = ".new"


class KeptPolicy:
    """A folder, which is made when something is first written. Raises OSError where the disk does not let it write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts = folder / "parts"

    def __repr__(self) -> str:
        return f"KeptPolicy({self._folder})"

    def head(self) -> bytes | None:
        """Return the head as it came, None where none was ever written."""
        return _read(self._folder / "head", _HEAD_LIMIT)

    def parts(self) -> dict[str, bytes]:
        """Return what is there by content hash; files that are not what their name says are passed over."""
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for file in self._parts.iterdir():
                data = _read(file, MANIFEST_LIMIT)
                if data is not None and hash_of(data) == file.name:
                    found[file.name] = data
        return found

    def write(self, head: bytes, parts: Mapping[str, bytes]) -> None:
        """Keep a head and all of its parts, and drop what it does not name; returns once they have reached the disk."""
        self._parts.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = self.parts()
        fresh = [_write(self._parts / hash, data) for hash, data in parts.items() if hash not in there]
        _keep(fresh)
        _keep([_write(self._folder / "head", head)])
        for file in self._parts.iterdir():
            if file.name not in parts and file.is_file():
                file.unlink(missing_ok=True)


def _read(file: Path, most: int) -> bytes | None:
    try:
        with file.open("rb") as opened:
            data = opened.read(most + 1)
    except (FileNotFoundError, IsADirectoryError):
        return None
    return data if len(data) <= most else None


def _write(file: Path, data: bytes) -> Path:
    """Write what shall be `file` beside it, and return where."""
    fresh = file.with_name(file.name + _NEW)
    fresh.write_bytes(data)
    return fresh


def _keep(fresh: list[Path]) -> None:
    """Give files of one folder the names that they are for, once their bytes have reached the disk.

    All are written before the first is waited for: a disk takes a thousand together in the time of a few.
    """
    for file in fresh:
        _sync(file, os.O_RDONLY)
    for file in fresh:
        file.replace(file.with_name(file.name.removesuffix(_NEW)))
    if fresh:
        _sync(fresh[0].parent, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    opened = os.open(path, flags)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
