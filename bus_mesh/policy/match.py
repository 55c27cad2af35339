"""Patterns: a name, or the start of names followed by one `*`. A table answers with the classes a name falls into.

Pure. The prefixes of one name form a chain, so the longest one that fits a name decides every other that fits it.
A table is therefore complete when it is built: it needs no cache, and names from strangers leave nothing behind.
"""

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

__all__ = ["Table", "classes", "covered", "matches", "overlap", "within"]

T = TypeVar("T")


def matches(pattern: str, name: str) -> bool:
    """Tell whether `name` is what `pattern` says: the same name, or one that starts like it before a trailing `*`."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def within(narrow: str, wide: str) -> bool:
    """Tell whether every name that fits the one pattern fits the other."""
    return narrow == wide or (wide.endswith("*") and matches(wide, narrow.removesuffix("*")))


def overlap(one: str, other: str) -> bool:
    """Tell whether some name fits both patterns: of two with a name in common, one always lies within the other."""
    return within(one, other) or within(other, one)


def covered(narrow: Iterable[str], wide: Iterable[str]) -> bool:
    """Tell whether each of the narrow patterns lies within one of the wide ones."""
    wider = tuple(wide)
    return all(any(within(one, other) for other in wider) for one in narrow)


class Table(Generic[T]):
    """Finds the value of the most exact pattern that fits a name: the name itself, else the longest start."""

    __slots__ = ("_exact", "_lengths", "_starts")

    def __init__(self, values: Mapping[str, T]) -> None:
        self._exact = {pattern: value for pattern, value in values.items() if not pattern.endswith("*")}
        self._starts = {pattern[:-1]: value for pattern, value in values.items() if pattern.endswith("*")}
        self._lengths = sorted({len(start) for start in self._starts}, reverse=True)

    def find(self, name: str) -> T | None:
        """Return the value for `name`; None where no pattern fits it."""
        value = self._exact.get(name)
        if value is not None:
            return value
        for length in self._lengths:
            value = self._starts.get(name[:length])
            if value is not None:
                return value
        return None

    def __len__(self) -> int:
        return len(self._exact) + len(self._starts)

    def __repr__(self) -> str:
        return f"Table({len(self._exact)} names, {len(self._starts)} starts)"


def classes(rules: Iterable[tuple[int, Iterable[str]]]) -> dict[str, tuple[int, ...]]:
    """Return for each pattern the numbers, ascending, of all the numbered rules that fit what it stands for."""
    by_pattern: dict[str, set[int]] = {}
    for number, patterns in rules:
        for pattern in patterns:
            by_pattern.setdefault(pattern, set()).add(number)
    lengths = sorted({len(pattern) - 1 for pattern in by_pattern if pattern.endswith("*")})
    found: dict[str, tuple[int, ...]] = {}
    for pattern, own in by_pattern.items():
        name = pattern.removesuffix("*")
        starts = (by_pattern.get(f"{name[:length]}*") for length in lengths if length <= len(name))
        found[pattern] = tuple(sorted(own.union(*(numbers for numbers in starts if numbers))))
    return found
