"""Which counters of a sender were here before.

A window slides over the highest counter seen and remembers the 65,536 below it, one bit each (the idea of RFC 6479:
blocks in a ring, so that sliding clears whole blocks and shifts nothing). What is below the window cannot be told from
a replay and is refused. An idle sender costs 600 bytes, the busiest 11 KiB.
"""

from typing import Final

__all__ = ["WINDOW", "Window"]

WINDOW: Final = 65_536
"""How far below the highest counter seen a new one may still be."""
_BLOCK_BITS: Final = 10
# One block more than the window needs: the highest counter stands somewhere inside its block.
_BLOCKS: Final = (WINDOW >> _BLOCK_BITS) + 1
_INSIDE: Final = (1 << _BLOCK_BITS) - 1


class Window:
    """The counters seen of one sender's epoch key. Move it only with counters that have been authenticated."""

    __slots__ = ("_blocks", "highest")

    def __init__(self) -> None:
        self.highest = 0
        self._blocks = [0] * _BLOCKS

    def __repr__(self) -> str:
        return f"Window(highest={self.highest})"

    def first(self, counter: int) -> bool:
        """Note `counter` and return True if it was never here and is in the window; return False otherwise."""
        highest = self.highest
        if counter <= highest - WINDOW or counter <= 0:
            return False
        if counter > highest:
            if counter >> _BLOCK_BITS != highest >> _BLOCK_BITS:
                self._slide(highest >> _BLOCK_BITS, counter >> _BLOCK_BITS)
            self.highest = counter
        place, bit = (counter >> _BLOCK_BITS) % _BLOCKS, 1 << (counter & _INSIDE)
        block = self._blocks[place]
        if block & bit:
            return False
        self._blocks[place] = block | bit
        return True

    def _slide(self, old: int, new: int) -> None:
        for block in range(max(old, new - _BLOCKS) + 1, new + 1):
            self._blocks[block % _BLOCKS] = 0
