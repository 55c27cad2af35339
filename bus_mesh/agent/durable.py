"""Files that are old or new, and whole, whenever the power goes."""

import os
from pathlib import Path

__all__ = ["replace", "sync"]


def replace(file: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file beside, have it reach the disk, and rename it; `sync` its folder for the name to stay as well."""
    fresh = file.with_name(file.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as opened:  # noqa: PTH123 - of a descriptor; Path cannot
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    fresh.replace(file)


def sync(folder: Path) -> None:
    """Have the names in a folder reach the disk."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
