"""The last policy that an agent took, on its disk: with it the agent starts and serves while the control plane is away.

    <folder>/head            the signed head, as it came
    <folder>/parts/<hash>    its manifest and documents, by content hash

Written only after all of it was checked: first the parts, each to a file of another name, to the disk, then renamed; at
last the head in the same way. So the head on disk always names parts that are there, whenever the power goes. Nothing
read here is believed: the head is verified anew, and a part is what its name says or it is not there.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bus_mesh.agent.durable import replace_all
from bus_mesh.policy.manifest import MANIFEST_LIMIT, hash_of

__all__ = ["KeptPolicy"]

_HEAD_LIMIT: Final = 64 * 1024


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
        replace_all({self._parts / hash: data for hash, data in parts.items() if hash not in there})
        replace_all({self._folder / "head": head})
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
