"""Reads YAML so that every value still knows its line. Policy documents and `node.yaml` both come through here.

Pure: text in, plain values out. Stricter than YAML: no anchors, aliases or tags (nothing expands, and nothing is
built but text, numbers, true, false, null, lists and mappings), no key twice, keys are always text, 32 levels at most.
Plain words follow YAML 1.2's core schema, so a service may be called `no` or `on`, and `1:30` is text and not ninety.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import yaml

__all__ = ["MAX_DEPTH", "MAX_DOCUMENT", "Read", "Spot", "YamlError", "read", "texts"]

MAX_DOCUMENT: Final = 512 * 1024
"""Characters in one document."""
MAX_DEPTH: Final = 32
"""Lists and mappings inside one another."""

_WORDS: Final[dict[str, bool | None]] = {"": None, "~": None, "null": None, "true": True, "false": False}
# Eighteen digits fit 64 bits; what is longer is text, and then refused where a number is wanted.
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT: Final = re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{0,18}(?:[eE][-+]?[0-9]{1,3})?")


class YamlError(ValueError):
    """The text is not YAML that is taken here; `line` counts from 1."""

    def __init__(self, line: int, message: str, hint: str = "") -> None:
        self.line, self.message, self.hint = line, message, hint
        super().__init__(f"line {line}: {message}")


class Spot:
    """Where a value stands: its line, from 1, and the spots of what is inside it."""

    __slots__ = ("inside", "line")

    def __init__(self, line: int) -> None:
        self.line = line
        self.inside: dict[str | int, Spot] = {}

    def at(self, where: Sequence[str | int]) -> "Spot":
        """Return the spot at the end of these steps, or the last one on the way that exists."""
        here = self
        for step in where:
            inner = here.inside.get(step)
            if inner is None:
                break
            here = inner
        return here

    def __repr__(self) -> str:
        return f"Spot(line {self.line}, {len(self.inside)} inside)"


class Read(NamedTuple):
    """One document of a file: its value and where everything in it stands."""

    value: object
    spot: Spot


def read(text: str) -> list[Read]:
    """Return the documents of a YAML text that may hold several; raise YamlError for the first thing that is wrong."""
    try:
        return list(_documents(yaml.parse(text, Loader=yaml.CSafeLoader)))
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, error.problem or error.context or ""
        hint = 'quote a pattern: "*"' if "alphabetic or numeric" in problem else ""
        raise YamlError(mark.line + 1 if mark else 1, f"not YAML: {problem}", hint) from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise YamlError(1, f"not YAML: {str(error).splitlines()[0]}") from None


def texts(text: str) -> list[str]:
    """Return the documents of a YAML text one by one, each with the comments before it; raise YamlError."""
    read(text)
    found, start = [], 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.DocumentEndEvent):
            end = event.end_mark.index if event.end_mark else len(text)
            lines = [line for line in text[start:end].split("\n") if line.rstrip() != "---"]
            start = end
            found.append("\n".join(lines).strip() + "\n")
    return found


def _documents(events: Iterator[yaml.Event]) -> Iterator[Read]:
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            first = next(events)
            spot = Spot(_line(first))
            value = _value(first, events, spot, 0)
            end = next(events)
            if (size := _index(end) - _index(event)) > MAX_DOCUMENT:
                raise YamlError(spot.line, f"a document of {size} characters, at most {MAX_DOCUMENT}", "split it")
            yield Read(value, spot)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _index(event: yaml.Event) -> int:
    return event.start_mark.index if event.start_mark else 0


def _value(event: yaml.Event, events: Iterator[yaml.Event], spot: Spot, depth: int) -> object:
    _refuse_machinery(event, depth)
    if isinstance(event, yaml.ScalarEvent):
        return _plain(event.value) if event.implicit[0] else event.value
    if isinstance(event, yaml.SequenceStartEvent):
        return _sequence(events, spot, depth + 1)
    return _mapping(events, spot, depth + 1)


def _refuse_machinery(event: yaml.Event, depth: int) -> None:
    line = _line(event)
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        raise YamlError(line, "anchors (&) and aliases (*) are not taken", 'write it out; quote a pattern: "*"')
    if (tag := getattr(event, "tag", None)) is not None:
        raise YamlError(line, f"the tag {tag} is not taken", "remove it")
    if depth > MAX_DEPTH:
        raise YamlError(line, f"more than {MAX_DEPTH} levels inside one another")


def _plain(text: str) -> object:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _sequence(events: Iterator[yaml.Event], spot: Spot, depth: int) -> list[object]:
    values: list[object] = []
    while not isinstance(event := next(events), yaml.SequenceEndEvent):
        inner = spot.inside[len(values)] = Spot(_line(event))
        values.append(_value(event, events, inner, depth))
    return values


def _mapping(events: Iterator[yaml.Event], spot: Spot, depth: int) -> dict[str, object]:
    values: dict[str, object] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        line = _line(event)
        _refuse_machinery(event, depth)
        if not isinstance(event, yaml.ScalarEvent):
            raise YamlError(line, "a key must be text")
        if event.value in values:
            raise YamlError(line, f"the key {event.value} stands twice, first on line {spot.inside[event.value].line}")
        inner = spot.inside[event.value] = Spot(line)
        values[event.value] = _value(next(events), events, inner, depth)
    return values
