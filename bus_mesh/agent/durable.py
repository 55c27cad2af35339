"""Files that are old or new, and whole, whenever the power goes."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["replace", "replace_all", "sync"]

_NEW: Final = ".new"


def replace(file: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file beside, have it reach the disk, and rename it; `sync` its folder for the name to stay as well."""
    fresh = _write(file, data, mode)
    _reach(fresh, os.O_RDONLY)
    fresh.replace(file)


def replace_all(files: Mapping[Path, bytes]) -> None:
    """Do the same for files of one folder, the folder included.

    All are written before the first is waited for: a disk takes a thousand together in the time of a few.
    """
    fresh = [_write(file, data, 0o644) for file, data in files.items()]
    for file in fresh:
        _reach(file, os.O_RDONLY)
    for file in fresh:
        file.replace(file.with_name(file.name.removesuffix(_NEW)))
    if fresh:
        sync(fresh[0].parent)


def sync(folder: Path) -> None:
    """Have the names in a folder reach the disk."""
    _reach(folder, os.O_RDONLY | os.O_DIRECTORY)


def _write(file: Path, data: bytes, mode: int) -> Path:
    fresh = file.with_name(file.name + _NEW)
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as opened:  # noqa: PTH123 - of a descriptor; Path cannot
        opened.write(data)
    return fresh


def _reach(path: Path, flags: int) -> None:
    opened = os.open(path, flags)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
